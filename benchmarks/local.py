"""`make bench`: local models against one-by-one `generate` and lm-evaluation-harness.

The shipped tickets, asked of the bundled base and of a candidate on it, in float32 on the same
cores. Each way runs in a process of its own, so that its memory is its own. Exit status 1 if a
promise is missed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peers

ROOT = Path(__file__).parents[1]
CASES = 200
LIMIT = 128
BATCH = 128
FASTER, FASTER_THAN_PEER, MEMORY = 8.0, 1.0, 1.25


def main() -> int:
    """Print the table; return the exit status."""
    with TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        _make_adapter(adapter)
        ways = {name: _measured(sys.executable, name, adapter) for name in ("ours", "one", "base")}
        peer = peers.environment("lm-eval", "lm_eval[hf]==0.4.13", "torch==2.13.0")
        if peer:
            ways["lm-eval"] = _measured(str(peer), "lm-eval", adapter)
    print(f"\n{CASES} tickets, base and candidate, float32, {os.cpu_count()} cores\n")
    _row("way", "seconds", "times ours", "peak MB")
    for name, title in TITLES.items():
        if found := ways.get(name):
            times = found["seconds"] / ways["ours"]["seconds"]
            _row(title, f"{found['seconds']:.1f}", f"{times:.1f}", f"{found['megabytes']:.0f}")
    missed = list(_missed(ways))
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


TITLES = {
    "ours": "pytest-finetune",
    "base": "pytest-finetune, base alone",
    "one": "generate, one by one",
    "lm-eval": "lm-evaluation-harness",
}


def _missed(ways: dict[str, dict[str, Any]]) -> Any:
    ours = ways["ours"]
    if ways["one"]["texts"] != ours["texts"]:
        yield "greedy replies differ from those of one-by-one generate"
    if ways["one"]["seconds"] < FASTER * ours["seconds"]:
        yield f"one by one takes less than {FASTER} times as long"
    if ours["megabytes"] > MEMORY * ways["base"]["megabytes"]:
        yield f"memory is more than {MEMORY} times that of one model"
    peer = ways.get("lm-eval")
    if peer and peer["seconds"] < FASTER_THAN_PEER * ours["seconds"]:
        yield "lm-evaluation-harness is faster"


def _make_adapter(folder: Path) -> None:
    """A candidate that answers like a trained one: what it learned does not matter here."""
    sys.path.insert(0, str(ROOT))
    made = sorted((ROOT / ".harness" / "candidates").glob("*/adapter_config.json"))
    if not made:
        raise SystemExit("run `make evals` first: its candidate is what is measured")
    folder.symlink_to(made[-1].parent)


def _measured(python: str, name: str, adapter: Path) -> dict[str, Any]:
    command = [python, __file__, name, str(adapter)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------- in the measured process


def _conversations() -> list[list[dict[str, str]]]:
    rows: list[list[dict[str, str]]] = []
    for name in ("tickets/test", "tickets/validation"):
        for line in (ROOT / "datasets" / f"{name}.jsonl").read_text("utf-8").splitlines():
            rows.append(json.loads(line)["messages"][:-1])
    return rows[:CASES]


def _weights() -> Path:
    return ROOT / "trainers" / "pocket" / "weights"


def _ours(adapters: Sequence[Path | None]) -> Callable[[], list[str]]:
    from harness.models import Models
    from harness.records import ModelSpec, Sampling
    from harness.replies import Replies
    from harness.store import Store

    folder = TemporaryDirectory()
    replies = Replies(Store(Path(folder.name) / "store.sqlite"), Models())
    requests = [
        replies.plan(
            ModelSpec(
                str(adapter), "bundled", "pocket", sampling=Sampling(0.0, LIMIT), adapter=adapter
            ),
            messages,
        )
        for adapter in adapters
        for messages in _conversations()
    ]

    def run() -> list[str]:
        known = replies.gather(requests)
        return [known[request.key].text for request in requests]

    return run


def _one_by_one(adapter: Path) -> Callable[[], list[str]]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_weights())
    base = AutoModelForCausalLM.from_pretrained(_weights(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).eval()

    def answers() -> list[str]:
        made = []
        for messages in _conversations():
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            with torch.inference_mode():
                out = model.generate(**prompt, max_new_tokens=LIMIT, do_sample=False)
            made.append(
                tokenizer.decode(
                    out[0, prompt.input_ids.shape[1] :],
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                )
            )
        return made

    def run() -> list[str]:
        with model.disable_adapter():
            base_answers = answers()
        return [*base_answers, *answers()]

    return run


def _lm_eval(adapter: Path) -> Callable[[], list[str]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    settings = {"batch_size": BATCH, "device": "cpu", "dtype": "float32"}
    models = [
        HFLM(pretrained=str(_weights()), **settings),
        HFLM(pretrained=str(_weights()), peft=str(adapter), **settings),
    ]
    generation = {"until": ["<|im_end|>"], "max_gen_toks": LIMIT, "do_sample": False}

    def run() -> list[str]:
        made: list[str] = []
        for model in models:
            requests = [
                Instance("generate_until", {}, (_prompt(model.tokenizer, messages), generation), i)
                for i, messages in enumerate(_conversations())
            ]
            made += model.generate_until(requests, disable_tqdm=True)
        return made

    return run


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _measure(name: str, adapter: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    run = {
        "ours": lambda: _ours([None, adapter]),
        "base": lambda: _ours([None]),
        "one": lambda: _one_by_one(adapter),
        "lm-eval": lambda: _lm_eval(adapter),
    }[name]()
    started = time.perf_counter()
    texts = run()
    seconds = time.perf_counter() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "texts": texts}))


def _row(*cells: str) -> None:
    print("".join(f"{cell:>16}" if at else f"{cell:<30}" for at, cell in enumerate(cells)))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _measure(sys.argv[1], Path(sys.argv[2]))
    else:
        sys.exit(main())
