"""`make bench`: mutated lines of JSONL files end in rows or in one sentence with file and line.

    python benchmarks/fuzz_lines.py [LINES] [SEED]

25,000 lines for each kind of file: cases, training rows, preferences, recordings, labels, uploads.
What a reader accepts is then used by everything that takes it, and cases by whole commands. Exit
status 1 if a line ended in anything else than rows or that sentence, or took longer than
`LONGEST_S`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_encoding
import fuzz_project

from harness import calibration, prices, recording
from harness.calls import call_of, outline, prompt, request_key
from harness.cases import load_cases
from harness.checks import judge, text, tools
from harness.data.leakage import refuse_leaks
from harness.data.messages import as_protocol, checked_messages
from harness.data.pairs import PREFERRED, REJECTED, read_pairs
from harness.evaluation import CaseItem, Evaluation, ItemResult, conversation, result_of
from harness.prompting import reference_score
from harness.records import (
    Case,
    HarnessError,
    ModelSpec,
    Recorded,
    Reply,
    Request,
    Sampling,
    canonical_json,
)
from harness.serve import examples
from harness.serve.examples import BadFile
from harness.suites import Suite
from trainers.hosted_data import Example, HostedData, content_of, load_examples
from trainers.recipe import load_data

LINES, SEED = 25_000, 13
LONGEST_S = 5.0
LONGEST_SENTENCE = 500

Row = dict[str, Any]

# ---------------------------------------------------------------------- what is mutated

_FUNCTION = {"name": "weather", "arguments": '{"city": "Ulm"}'}
_CALL = {"id": "t1", "type": "function", "function": _FUNCTION}
_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
_ASK = {"role": "user", "content": "Weather in Ulm?"}
_TELL = {"role": "assistant", "content": "9 degrees."}
_CALLING = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "tool_call_id": "t1", "content": ""}
_LEGACY = {"role": "assistant", "content": None, "function_call": _FUNCTION}
_PARTS = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Ulm?"}]

CONVERSATIONS: tuple[Row, ...] = (
    {"id": "a", "messages": [_ASK, _TELL], "tags": ["de", "x"], "cluster": "k"},
    {"messages": [_ASK, _CALLING, _RESULT, _TELL], "tools": [_TOOL]},
    {"messages": [_ASK, {"role": "assistant", "tool_calls": [_CALL, {**_CALL, "id": "t2"}]}]},
    {"messages": [_ASK, {**_CALLING, "content": "Let me look."}, _RESULT, _TELL, _ASK, _TELL]},
    {"messages": [_ASK, _LEGACY, {"role": "function", "name": "weather", "content": "9"}, _TELL]},
    {"messages": [{"role": "developer", "content": "Brief."}, {**_ASK, "content": _PARTS}, _TELL]},
    {"messages": [_ASK, {**_TELL, "weight": 0}, _ASK, {**_TELL, "weight": 1, "name": "Ada"}]},
)
PREFERENCES: tuple[Row, ...] = tuple(
    {
        "input": {"messages": row["messages"][:-1], "tools": [_TOOL]},
        PREFERRED: row["messages"][-1:],
        REJECTED: [answer],
    }
    for row in CONVERSATIONS
    for answer in (_TELL, _CALLING)
)
REPLIES: tuple[Row, ...] = tuple(
    {
        "suite": "s",
        "id": f"r{place}",
        "digest": "0" * 64,
        "trial": 0,
        "reply": {"finish_reason": "stop", "latency_s": 0.5, "prompt_tokens": 9, **said},
        "scores": {"s.exact": {"value": 1.0, "passed": True, "check": "c"}},
    }
    for place, said in enumerate(
        ({"text": "9 degrees."}, {"tool_calls": [_CALL], "cost_usd": 0.1, "cached_tokens": 3})
    )
)

UPLOADS: tuple[Row, ...] = (*CONVERSATIONS[:1], *CONVERSATIONS[-2:])
LABELS: tuple[Row, ...] = (
    {"prompt": "Weather?", "expected": "9 degrees.", "reply": "9", "score": 3},
    {"prompt": "Weather?", "replies": ["9", "10"], "better": "first", "criterion": "short"},
    {"prompt": "Weather?", "reply": "9", "score": 5, "criterion": "x", "rubric": list("abcde")},
)

# ---------------------------------------------------------------------- mutations

DEEP = "@deep@"
_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, 10**300, 10**400, float("nan")),
    *(
        "",
        " ",
        "x",
        "0",
        "{}",
        "[]",
        "null",
        "{",
        '{"a": 1, "a": 2}',
        "NaN",
        "9" * 400,
        "[" * 9_000,
    ),
    *("user", "assistant", "tool", "function", "developer", "system", "text", "content_filter"),
    *(
        "\x00",
        "\ud800",
        "\udfff\ud83d",
        "\u202e",
        "\u2028",
        "e\u0301",
        "\ufeff",
        "\x1b[2J",
        "\U0001d518",
    ),
    *("x" * 10_000, "\n", "<script>", DEEP, [], {}, [[]], [{}], [None], {"": ""}, {"a": [1]}),
    *([_CALL], [_CALL, 5], _FUNCTION, {"text": "x"}, _PARTS, [_ASK], _TELL, [_TOOL]),
)
_KEYS = (
    *("id", "messages", "tags", "cluster", "tools", "functions", "role", "content", "name"),
    *("weight", "tool_calls", "tool_call_id", "function_call", "function", "arguments", "type"),
    *("text", "refusal", "input", "reply", "trial", "digest", "prompt_tokens", "error", ""),
)
_BYTES = (
    *(b"\xff", b"\x00", b"\r", b"\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"\\", b"{", b"]"),
    *(b"\\ud83d", b"NaN", b"1e999", b",", b'"id": 1, "id": 2,', b"\xc0\x80", b"\xe2\x80\xa8"),
)


def mutated(rng: random.Random, seeds: Sequence[Row]) -> bytes:
    """Return one line: a seed with one to three mutations of its JSON, then some of its bytes."""
    row: Any = copy.deepcopy(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        row = _with_mutation(rng, row, seeds)
    dumped = json.dumps(row, ensure_ascii=rng.random() < 0.5)
    line = dumped.encode("utf-8", "surrogatepass")
    line = line.replace(f'"{DEEP}"'.encode(), _nested(rng))
    while rng.random() < 0.2:
        line = _with_other_bytes(rng, line)
    return line


def _nested(rng: random.Random) -> bytes:
    levels = rng.choice((20, 99, 101, 3_000, 50_000))
    if rng.random() < 0.5:
        return b"[" * levels + b"]" * levels
    return b'{"a":' * levels + b"1" + b"}" * levels


def _with_mutation(rng: random.Random, row: Any, seeds: Sequence[Row]) -> Any:
    places = list(_places(row))
    if not places:
        return copy.deepcopy(rng.choice(_VALUES))
    holder, key = rng.choice(places)
    value = holder[key]
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(value))
        case 2 if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            special = rng.choice([one for one in _VALUES if isinstance(one, str)])
            holder[key] = value[:at] + special + value[at:]
        case 3:
            other, name = rng.choice(list(_places(rng.choice(seeds))))
            holder[key] = copy.deepcopy(other[name])
        case 4 if isinstance(value, dict):
            value[rng.choice(_KEYS)] = copy.deepcopy(rng.choice(_VALUES))
        case 5 if isinstance(holder, dict):
            holder[rng.choice(_KEYS)] = holder.pop(key)
        case 6:
            other, name = rng.choice(places)
            other[name], holder[key] = copy.deepcopy(value), copy.deepcopy(other[name])
        case _:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return row


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key or index) of every value inside of `node`."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


def _with_other_bytes(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line) + 1)
    match rng.randrange(5):
        case 0:
            return line[:at]
        case 1:
            return line[:at] + line[at + rng.randrange(1, 20) :]
        case 2:
            return line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]
        case 3:
            return line + b"\r"
    return line[:at] + rng.choice(_BYTES) + line[at:]


# ---------------------------------------------------------------------- readers and users

_GOOD: tuple[Row, ...] = tuple(
    {"id": f"good {n}", "messages": [{**_ASK, "content": f"Is it {n}?"}, _TELL]} for n in range(10)
)
_GOOD_PAIRS: tuple[Row, ...] = tuple(
    {"input": {"messages": row["messages"][:1]}, PREFERRED: [_TELL], REJECTED: [_TELL]}
    for row in _GOOD
)
_SPEC = ModelSpec("m", "openai", "x", system="Short.", few_shot=(_ASK, _TELL))
_RUBRIC = judge.question("here", "correctness")
_SUITE = Suite("s", Path("x"), ())


def cases(line: bytes, folder: Path) -> int:
    """Read `line` as a case and as a few-shot example; return how many were read."""
    found = load_cases(_written(folder, _GOOD[:1], line), "s", folder)[1:]
    for case in found:
        _use_case(case)
    return len(found)


def _use_case(case: Case) -> None:
    assert isinstance(case.text, str)
    assert case.slug
    messages = prompt(_SPEC, case.messages)
    key = request_key(_SPEC, {}, messages, 0, case.tools)
    assert outline(call_of(_SPEC, {}, messages, 0, case.tools))
    request = Request(key, _SPEC, messages, 0, case=case)
    assert prices.most(request, prices.Price(1, 1)) < 1e6
    _sent(messages)
    reply = Reply(case.expected or "", tool_calls=case.expected_tool_calls)
    shown = conversation(case.messages)
    material = judge.Material(shown, case.reference, (reply.said,))
    canonical_json(judge.prompt(_RUBRIC, material)).encode()
    assert 0 <= reference_score(case, reply) <= 1
    if case.expected_tool_calls:
        assert tools.tool_call(case, reply)[0].value == 1
    elif case.expected:
        assert text.exact(case, reply)
    evaluation = Evaluation(CaseItem(_SUITE, case, "m"), "t", reply, guard=False, plain=False)
    result = result_of(evaluation, "")
    assert ItemResult.from_json(result.to_json()).prompt == shown


def _sent(messages: Sequence[Mapping[str, Any]]) -> None:
    """What leaves is the protocol's, whatever was read, and stays the same when it is read."""
    sent = as_protocol(messages)
    json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
    read = checked_messages([dict(message) for message in sent], "sent")
    assert as_protocol(read) == sent
    for message in sent:
        assert isinstance(message["content"], str) or message["tool_calls"]
        for call in message.get("tool_calls", ()):
            assert isinstance(call["function"]["arguments"], str)


def training(line: bytes, folder: Path) -> int:
    """Read `line` as a training row, as a service takes it; return how many were read."""
    rows = load_data(_written(folder, _GOOD[:1], line), None, None, 0, folder).train[1:]
    if not rows:
        return 0
    case = load_cases(_written(folder, _GOOD[:1], b""), "s", folder)[0]
    for row in rows:
        assert {row.messages[turn]["role"] for turn in row.learned} <= {"assistant"}
        refuse_leaks([row], [case])
        _sent(row.messages)
    path = _written(folder, _GOOD, line)
    _uploaded(load_examples("supervised", path, None, None, 0, folder).train[len(_GOOD) :])
    return len(rows)


def preferences(line: bytes, folder: Path) -> int:
    """Read `line` as a pair of answers; return how many were read."""
    if not read_pairs(_written(folder, _GOOD_PAIRS[:1], line), folder)[1:]:
        return 0
    path = _written(folder, _GOOD_PAIRS, line)
    pairs = load_examples("dpo", path, None, None, 0, folder).train[len(_GOOD) :]
    for messages in (messages for pair in pairs for messages in pair.conversations):
        _sent(messages)
    _uploaded(pairs)
    return len(pairs)


def _uploaded(learned: Sequence[Example]) -> None:
    assert HostedData(tuple(learned)).digests["train"]
    assert all(map(json.loads, content_of(learned).splitlines()))


def recordings(line: bytes, folder: Path) -> int:
    """Read `line` as a recorded reply under a right seal; return how many were read."""
    del folder
    head, first, _ = recording.dumps(_RECORDING).splitlines(keepends=True)
    body = head + first + line + b"\n"
    seal = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()
    found = recording.loads(body + seal + b"\n", "x.jsonl")
    assert recording.loads(recording.dumps(found), "x.jsonl").replies
    for one in found.replies[1:]:
        _use_reply(one.reply)
    return len(found.replies) - 1


def _use_reply(reply: Reply) -> None:
    case = Case("s", "a", (_ASK,), expected="9 degrees.", expected_tool_calls=(_CALL,))
    canonical_json(judge.prompt(_RUBRIC, judge.Material("x", "y", (reply.said,)))).encode()
    assert isinstance(reply.failure, str)
    tools.tool_call(case, reply)
    text.exact(case, reply)
    spent = [prices.cost_of(reply, prices.Price(2.5, 10)), reply.cost_usd, reply.latency_s]
    tokens = [reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens]
    total = sum(1_000 * number for number in (*spent, *tokens) if number is not None)
    json.dumps(total / 7, allow_nan=False)


def labels(line: bytes, folder: Path) -> int:
    """Read `line` as what a person says of a reply; return how many were read."""
    found = calibration.labels(_written(folder, LABELS[:1], line))[1:]
    for label in found:
        for errand in label.errands:
            canonical_json(judge.prompt(errand.question, errand.material)).encode()
            assert errand.key
    return len(found)


def uploads(line: bytes, folder: Path) -> int:
    """Read `line` as an example that `harness serve` is to learn; return how many were read."""
    first = json.dumps({"messages": [_ASK, _TELL]}).encode()
    found = examples.read(first + b"\n" + line, 1).conversations
    path = folder / "x.jsonl"
    path.unlink(missing_ok=True)
    path.write_bytes(examples.jsonl(examples.rows(found)))
    assert load_data(path, None, None, 0, folder).train
    return len(found) - 1


_RECORDING = recording.Recording(
    *("openai:x", "x", "", Sampling(), "0" * 64, "2026-01-01T00:00:00+00:00", "cases.jsonl"),
    replies=(Recorded("good", "0" * 64, Reply("yes")),),
)


def _written(folder: Path, good: Sequence[Row], line: bytes) -> Path:
    path = folder / "x.jsonl"
    path.unlink(missing_ok=True)  # some file systems wait for the disk before they truncate a file
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in good) + line)
    return path


READERS: Mapping[str, tuple[Callable[[bytes, Path], int], Sequence[Row]]] = {
    "cases": (cases, CONVERSATIONS),
    "training": (training, CONVERSATIONS),
    "preferences": (preferences, PREFERENCES),
    "recordings": (recordings, REPLIES),
    "labels": (labels, LABELS),
    "uploads": (uploads, UPLOADS),
}

# ---------------------------------------------------------------------- what became of them


@dataclass
class Tally:
    """What became of the lines of one kind of file."""

    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    accepted: list[bytes] = field(default_factory=list)

    def add(self, line: bytes, end: str, seconds: float) -> None:
        """Count a line."""
        self.ends[end] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if end == "accepted":
            self.accepted.append(line)
        if end not in ("accepted", "refused", "no line") or seconds > LONGEST_S:
            self.problems.append(f"{end} ({seconds:.1f} s): {line[:600]!r}")


def fuzz(kind: str, lines: int, seed: int = SEED) -> Tally:
    """Return what becomes of that many mutated lines of one kind of file."""
    read, seeds = READERS[kind]
    rng, tally = random.Random(f"{seed} {kind}"), Tally()
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(read, seeds, Path(folder))
        for _ in range(lines):
            line = mutated(rng, seeds)
            started = time.perf_counter()
            end = _end(read, line, Path(folder))
            tally.add(line, end, time.perf_counter() - started)
    return tally


def _warm_up(read: Callable[[bytes, Path], int], seeds: Sequence[Row], folder: Path) -> None:
    """Import what the readers import when they are first used: the time counts for no line."""
    for row in seeds:
        assert read(json.dumps(row).encode(), folder) == 1


def _end(read: Callable[[bytes, Path], int], line: bytes, folder: Path) -> str:
    try:
        return "accepted" if read(line, folder) else "no line"
    except (HarnessError, BadFile) as problem:
        return "refused" if _is_sentence(str(problem)) else f"no sentence with a place: {problem}"
    except Exception as problem:  # what must never happen is what is looked for
        return f"{type(problem).__name__}: {str(problem)[:300]}"


def _is_sentence(told: str) -> bool:
    placed = re.match(r"(/.*/)?x\.jsonl:\d+: |(Expected file .*)?\bLine \d+", told) is not None
    return placed and len(told) < LONGEST_SENTENCE and all(map(str.isprintable, told))


def main() -> int:
    """Print the table; return the exit status."""
    lines, seed = (*map(int, sys.argv[1:]), *(LINES, SEED)[len(sys.argv) - 1 :])
    print(f"\n{lines:,} mutated lines of each kind of file, seed {seed}\n")
    tallies = {kind: fuzz(kind, lines, seed) for kind in READERS}
    for kind, tally in tallies.items():
        ends = {end: tally.ends[end] for end in ("accepted", "refused", "no line")}
        told = ", ".join(f"{count:,} {end}" for end, count in ends.items())
        print(f"{kind:12} {told}, slowest {tally.slowest_s:.2f} s, wrong {len(tally.problems):,}")
    for kind, tally in tallies.items():
        for problem in tally.problems[:10]:
            print(f"MISSED: {kind}: {problem}")
    later = {
        "whole commands": list(fuzz_project.broken(tallies["cases"].accepted)),
        "local training": list(fuzz_encoding.broken(tallies["training"].accepted)),
    }
    for what, problems in later.items():
        print(f"{what} on accepted lines: wrong {len(problems)}")
        for problem in problems[:10]:
            print(f"MISSED: {problem}")
    return 1 if any(later.values()) or any(tally.problems for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
