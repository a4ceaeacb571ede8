"""Ask a base and a candidate the same prompts in one of four ways, and tell what it took.

`python local_asking.py WAY PLAN OUT`; PLAN is JSON, see `Plan`. OUT gets {"seconds", "megabytes",
"texts"}: the seconds from the loaded models to the last reply, the largest resident memory of this
process, and per model the replies in the order of the cases.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.calls import prompt
from harness.records import Case, Message, ModelSpec, Sampling

MAX_TOKENS = 128
WARM_UP: Sequence[Message] = ({"role": "user", "content": "Is it warm?"},)


@dataclass(frozen=True)
class Plan:
    """Cases for a base in a folder and its adapter; of the base's, `shown` get the examples."""

    base: str
    adapter: str
    rows: int
    cases: Sequence[Sequence[Message]]
    shown: int
    examples: Sequence[Message]

    def arms(self) -> Mapping[str, list[tuple[ModelSpec, Sequence[Message]]]]:
        """Return model name -> its calls."""
        base = ModelSpec("base", "local", self.base, sampling=Sampling(max_tokens=MAX_TOKENS))
        candidate = replace(base, name="candidate", adapter=Path(self.adapter))
        prompted = replace(base, few_shot=tuple(dict(turn) for turn in self.examples))
        return {
            "base": [
                (prompted if at < self.shown else base, case) for at, case in enumerate(self.cases)
            ],
            "candidate": [(candidate, case) for case in self.cases],
        }


Took = tuple[float, dict[str, list[str]]]


def ours(plan: Plan, names: Sequence[str] = ("base", "candidate")) -> Took:
    """Ask as a run does: planned, batched and stored."""
    from harness.replies import Replies
    from harness.store import Store

    arms = {name: calls for name, calls in plan.arms().items() if name in names}
    with tempfile.TemporaryDirectory() as folder:
        replies = Replies(Store(Path(folder) / "store.sqlite"))
        replies.gather([replies.plan(calls[-1][0], WARM_UP) for calls in arms.values()])
        started = time.perf_counter()
        requests = {
            name: [
                replies.plan(spec, case, case=Case("local", str(at), tuple(case)))
                for at, (spec, case) in enumerate(calls)
            ]
            for name, calls in arms.items()
        }
        found = replies.gather(request for own in requests.values() for request in own)
        seconds = time.perf_counter() - started
        replies.close()
    return seconds, {name: [found[r.key].text for r in own] for name, own in requests.items()}


def ours_base(plan: Plan) -> Took:
    """Ask the base alone."""
    return ours(plan, ["base"])


def ours_unshared(plan: Plan) -> Took:
    """Ask as a run does, but read what all prompts of a batch begin with once per row."""
    from harness.models import context

    context._shared_length = lambda prompts: 0  # type: ignore[assignment]
    return ours(plan)


def one_by_one(plan: Plan) -> Took:
    """Ask as the documentation of transformers shows it: one `generate` per prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plan.base)

    def opened(adapter: str | None) -> Callable[[list[str]], list[str]]:
        loaded = AutoModelForCausalLM.from_pretrained(plan.base, dtype=torch.float32)
        model = _adapted(loaded, adapter).eval()

        def answer(text: str) -> str:
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            with torch.inference_mode():
                made = model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False)
            return str(
                tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            )

        return lambda texts: [answer(text) for text in texts]

    return _each_model(plan, tokenizer, opened)


def lm_eval(plan: Plan) -> Took:
    """Ask through the Hugging Face backend of lm-evaluation-harness, which sorts by itself."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    wanted = {"until": [], "max_gen_toks": MAX_TOKENS, "do_sample": False}

    def opened(adapter: str | None) -> Callable[[list[str]], list[str]]:
        model = HFLM(pretrained=plan.base, dtype="float32", device="cpu", batch_size=plan.rows)
        # Its own `peft=` ties the embeddings that the candidate trained to the base's head.
        model._model = _adapted(model._model, adapter).eval()
        # The folder's limit, 256, would go before the one that is asked for.
        model._model.generation_config.max_new_tokens = None
        return lambda texts: model.generate_until(
            [Instance("generate_until", {}, (text, wanted), at) for at, text in enumerate(texts)],
            disable_tqdm=True,
        )

    return _each_model(plan, AutoTokenizer.from_pretrained(plan.base), opened)


def _each_model(
    plan: Plan,
    tokenizer: Any,
    opened: Callable[[str | None], Callable[[list[str]], list[str]]],
) -> Took:
    def text_of(messages: Sequence[Message]) -> str:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )

    seconds, texts = 0.0, {}
    for name, calls in plan.arms().items():
        ask = opened(plan.adapter if name == "candidate" else None)
        ask([text_of(WARM_UP)])
        started = time.perf_counter()
        texts[name] = ask([text_of(prompt(spec, case)) for spec, case in calls])
        seconds += time.perf_counter() - started
    return seconds, texts


def _adapted(model: Any, adapter: str | None) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter) if adapter else model


WAYS: Mapping[str, Callable[[Plan], Took]] = {
    "ours": ours,
    "ours-base": ours_base,
    "ours-unshared": ours_unshared,
    "one-by-one": one_by_one,
    "lm-eval": lm_eval,
}

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    way, planned, out = sys.argv[1:]
    seconds, texts = WAYS[way](Plan(**json.loads(Path(planned).read_text())))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"seconds": seconds, "megabytes": megabytes, "texts": texts}
    Path(out).write_text(json.dumps(found))
