"""`make bench`: mutated `[tool.harness]` tables end in a plan or in sentences with their keys.

    python benchmarks/fuzz_settings.py [TABLES] [SEED]

2,000 pyproject.toml files that use every key, of which some values, keys or bytes are others. What
is read is used as a run uses it before it asks: models, judges, recipes, gates, prices, requests,
the plan. Exit status 1 if a file ended in anything but that or a sentence, or took too long.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

from harness import recording
from harness.arms import model_spec, planned_arms
from harness.calls import request_of
from harness.config import PYPROJECT, Settings, load, parse
from harness.history import baseline
from harness.judges import panel
from harness.models import Models
from harness.planned import lines
from harness.preparation import Plan
from harness.records import (
    Arm,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    Reply,
    Role,
    canonical_json,
)
from harness.rules import gated

TABLES, SEED = 2_000, 13
LONGEST_S = 5.0
LONGEST_SENTENCE = 5_000

EVERY_KEY = """
[tool.harness]
base = "python:bot:good"
baseline = "terse"
mode = "release"
alpha = 0.05
power = 0.8
max_tokens = 64
store = ".harness"
reports = "reports"

[tool.harness.candidates.existing]
model = "served"

[tool.harness.candidates.trained]
trainer = "qlora"
base = "bundled:pocket"
train = "data/train.jsonl"
validation = "data/validation.jsonl"
mix = { path = "data/general.jsonl", share = 0.1 }
behaviour = "Be brief."
seed = 1
epochs = 2
learning_rate = 0.001
rank = 8
alpha = 16
dropout = 0.05
batch_size = 4
length = 64
train_embeddings = true
env = ["WANDB_API_KEY"]

[tool.harness.candidates.hosted]
trainer = "openai"
base = "served"
train = "data/train.jsonl"
seed = 1
epochs = 2
batch_size = "auto"
learning_rate_multiplier = 1.5
suffix = "mine"
method = "supervised"
checkpoint = 1
deadline_h = 2
dialect = "method"
tokenizer = "bundled:pocket"

[tool.harness.candidates.preferring]
trainer = "openai"
base = "served"
train = "data/pairs.jsonl"
method = "dpo"
beta = 0.2

[tool.harness.models.terse]
model = "python:bot:good"
system = "Be brief."
template = "Q: {{ text }}"
few_shot = "data/general.jsonl"
shots = 1
temperature = 0.7
max_tokens = 9
seed = 3
thinking = "keep"

[tool.harness.models.here]
model = "bundled:pocket"
revision = "main"
adapter = "adapter"
quantization = "none"
chat_template_kwargs = { enable_thinking = false }
tools = [{ type = "function", function = { name = "weather" } }]

[tool.harness.models.kept]
model = "replay:data/kept.jsonl"

[tool.harness.models.served]
model = "openai:gpt"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "NO_KEY_OF_THIS_NAME"
api_version = "2026-01-01"
headers = { X-Team = "blue" }
timeout_s = 9.5
max_concurrency = 4
omit = ["seed"]
rename = { max_completion_tokens = "max_tokens" }
thinking = "off"
top_p = 0.9
frequency_penalty = 0.1
presence_penalty = 0.1
stop = ["END"]
logit_bias = { 50256 = -100 }
parallel_tool_calls = false
tool_choice = "auto"
verbosity = "low"
reasoning_effort = "low"
response_format = { type = "json_object" }
extra_body = { a = { b = [1, 2.5, "c"] } }
tools = [{ type = "function", function = { name = "weather" } }]

[tool.harness.judges.strict]
model = "openai:gpt"
base_url = "http://127.0.0.1:9/v1"
system = "Be strict."
max_tokens = 512
seed = 4

[tool.harness.gates]
"demo.exact_match" = { at_least = 0.5 }
demo = [{ margin = 0.1, tag = "de" }, { better_by = 0.05, candidate = "existing" }]
exact_match = { max_regressions = 2 }
latency_s = { at_most = 2 }
would_ship = { max_would_not_ship = 1 }

[tool.harness.prices]
"openai:gpt" = { input = 1, cached = 0.5, output = 2.5, training = 3 }
"""
SEED_TABLE = tomllib.loads(EVERY_KEY)["tool"]["harness"]

_QUESTION = '{"role": "user", "content": "%s?"}'
_ROW = f'{{"messages": [{_QUESTION}, {{"role": "assistant", "content": "yes"}}]}}\n'
_PAIR = json.dumps(
    {
        "input": {"messages": [{"role": "user", "content": "Is it?"}]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
)
_MESSAGES = ({"role": "user", "content": "Is it 1?"},)

# ---------------------------------------------------------------------- mutations

_DEEP = "@deep@"
_ODD: tuple[object, ...] = (
    *(math.nan, math.inf, -math.inf, 2**63, -(2**63), 10**300, _DEEP),
    *(datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), time_of_day(12, 30)),
)
"""What TOML can hold and JSON cannot."""
_VALUES: tuple[object, ...] = (
    *(True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e308, 2**31),
    *("", " ", "x", "0", ".", "..", "/", "~", "a/b", "auto", "none", "champion", "latest", "\x00"),
    *("a\x00b", "\n", "\x1b[2J", "\u202e", "\u2028", "x" * 300, "x" * 10_000, "é", "\U0001d518"),
    *("python:bot:good", "python:bot:nothing", "python:bot", "python::", "python:exits:answer"),
    *("openai:gpt", "openai:", "bundled:none", "replay:", "replay:data", "nobody:x", ":", "a:b\n"),
    *("data/train.jsonl", "data", "data/none.jsonl", "data/pipe", "data/loop", "/dev/zero"),
    *("{{ text }}", "{{ nothing }}", "{% for %}", "{{ 1/0 }}", "{{ text.__class__ }}"),
    *("http://", "http://[::1", "https://user:pw@h:99999/", "file:///x", "http://h/v1?a=b#c"),
    *([], {}, [[]], [{}], {"": ""}, {"a": [1]}, {"a.b": {"c": "d"}}, ["x", 1, None]),
)
_KEYS = (
    *("base", "baseline", "candidates", "models", "judges", "gates", "prices", "mode", "alpha"),
    *("model", "trainer", "train", "mix", "path", "share", "seed", "tag", "candidate", "at_least"),
    *("margin", "base_url", "headers", "extra_body", "tools", "omit", "rename", "", " ", "x" * 300),
    *("a.b", "\x1b[2J", "terse", "served", "base", "é", "__class__", "model_config", "\x00"),
)
_BYTES = (
    *(b"\xff", b"\x00", b"\r", b"\n", b"\xef\xbb\xbf", b'"', b"'", b"[", b"]", b"{", b"=", b"#"),
    *(b"nan", b"-inf", b"1979-05-27", b"07:32:00", b"1e999", b"0x" + b"f" * 9_000, b"9" * 5_000),
    *(
        b"[" * 3_000,
        b'"""',
        b"\\u0000",
        b"\\ud800",
        b"[[tool.harness]]\n",
        b"[tool]\nharness = 5\n",
    ),
)


def mutated(rng: random.Random) -> bytes | dict[str, Any]:
    """Return a pyproject.toml with other bytes, or the table with one to four other values."""
    if rng.random() < 0.2:
        text = EVERY_KEY.encode()
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = _with_other_bytes(rng, text)
        return text
    table = copy.deepcopy(SEED_TABLE)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 4))):
        _mutate(rng, table)
    for holder, key in list(_places(table)):
        if holder[key] == _DEEP:
            holder[key] = _nested(rng)
    return table


def _mutate(rng: random.Random, table: dict[str, Any]) -> None:
    holder, key = rng.choice(list(_places(table)))
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(_KEYS)] = holder.pop(key)
        case 2 if isinstance(holder, dict):
            holder[rng.choice(_KEYS)] = _other(rng)
        case 3 if isinstance(holder[key], dict):
            holder[key][rng.choice(_KEYS)] = _other(rng)
        case 4:
            other, name = rng.choice(list(_places(SEED_TABLE)))
            holder[key] = copy.deepcopy(other[name])
        case _:
            holder[key] = _other(rng)


def _other(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_ODD if rng.random() < 0.3 else _VALUES))


def _nested(rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((20, 90, 200, 5_000))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key or index) of every value inside of `node`."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


def _with_other_bytes(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text) + 1)
    match rng.randrange(4):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + text[at + rng.randrange(1, 40) :]
        case 2:
            return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    return text[:at] + rng.choice(_BYTES) + text[at:]


# ---------------------------------------------------------------------- readers and users


def make_project(folder: Path) -> None:
    """Write what the settings name, and some files that never end."""
    (folder / "data").mkdir()
    for name in ("train", "validation", "general"):
        rows = "".join(_ROW % f"{name} {n}" for n in range(12))
        (folder / f"data/{name}.jsonl").write_text(rows)
    (folder / "data/pairs.jsonl").write_text(f"{_PAIR}\n" * 12)
    (folder / "data/loop").symlink_to("loop")
    os.mkfifo(folder / "data/pipe")
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter/adapter_model.safetensors").touch()
    kept = recording.recording_of(
        Arm("kept", Role.BASELINE, ModelSpec("kept", "python", "bot:good")),
        [Recorded("a", "0" * 64, Reply("yes"), "demo")],
        made="2026-01-01",
        source="demo",
    )
    recording.write(kept, folder / "data/kept.jsonl")
    (folder / "bot.py").write_text("def good(messages):\n    return 'yes'\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")


def use(settings: Settings, root: Path) -> None:
    """Do with `settings` what a run does before it asks."""
    canonical_json(settings.model_dump(mode="json", exclude_none=True)).encode()
    arms = planned_arms(settings, root, baseline(None, settings, root))
    models = Models()
    specs = [planned.arm.spec for planned in arms]
    specs += [model_spec(name, name, settings, root, name) for name in settings.models]
    for spec in (*specs, *panel(settings, root).values()):
        canonical_json(models.identity(spec)).encode()
        request_of(models, spec, _MESSAGES)
    models.close()
    plan = Plan(settings, root, arms, ())
    plan.refuse_leaks()
    assert all(recipe.fingerprint for recipe in (*plan.recipes.values(), *plan.hosted.values()))
    gated([], settings.rules)
    assert all(isinstance(told, str) for told in lines(plan))


def end_of(case: bytes | dict[str, Any], root: Path) -> str:
    """Return "used", "refused", or what must never happen."""
    try:
        if isinstance(case, bytes):
            (root / PYPROJECT).write_bytes(case)
        use(load(root) if isinstance(case, bytes) else parse(case), root)
    except (HarnessError, EvidenceError) as problem:
        sentence = str(problem)
        return "refused" if 0 < len(sentence) < LONGEST_SENTENCE else f"no sentence: {sentence}"
    except BaseException as problem:  # what must never happen is what is looked for
        if isinstance(problem, KeyboardInterrupt):
            raise
        return f"{type(problem).__name__}: {str(problem)[:300]}"
    return "used"


@dataclass
class Tally:
    """What became of the settings."""

    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz(tables: int, seed: int = SEED) -> Tally:
    """Return what becomes of that many mutated settings."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        root = Path(folder)
        make_project(root)
        sys.path.insert(0, folder)
        try:
            for number in range(tables):
                case = mutated(random.Random(rng.random()))
                started = time.perf_counter()
                end = end_of(case, root)
                seconds = time.perf_counter() - started
                tally.slowest_s = max(tally.slowest_s, seconds)
                tally.ends[end] += 1
                if end not in ("used", "refused") or seconds > LONGEST_S:
                    tally.problems.append(f"{number}: {end} ({seconds:.1f} s): {_shown(case)}")
        finally:
            sys.path.remove(folder)
    return tally


def _shown(case: bytes | dict[str, Any]) -> str:
    if isinstance(case, bytes):
        return f"{len(case)} bytes"
    return "; ".join(_differences(SEED_TABLE, case, ""))[:600]


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if key not in new:
                yield f"-{path}.{key}"
            elif key not in old:
                yield f"+{path}.{key!r} = {_short(new[key])}"
            else:
                yield from _differences(old[key], new[key], f"{path}.{key}")
    elif _short(old) != _short(new):
        yield f"{path} = {_short(new)}"


def _short(value: object) -> str:
    try:
        return repr(value)[:100]
    except RecursionError:
        return "deep"


def main() -> int:
    """Fuzz, print what became of the settings, and return the exit status."""
    tables = int(sys.argv[1]) if len(sys.argv) > 1 else TABLES
    tally = fuzz(tables, int(sys.argv[2]) if len(sys.argv) > 2 else SEED)
    kinds = ", ".join(f"{count:,} {end}" for end, count in tally.ends.most_common(2))
    print(f"{tables:,} settings: {kinds}; the slowest took {tally.slowest_s:.2f} s")
    print(*tally.problems, sep="\n")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
