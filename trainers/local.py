"""One training, in a process of its own: `python -m trainers.local RECIPE.json OUT`.

Events go to stdout as JSON lines, everything else to stderr. The process ends when its stdin
closes. It holds the candidate's lock, and OUT appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.chat_template import (
    ChatTemplate,
    TemplateRefusal,
    first_line,
    panics_as_errors,
    template_options,
    tokens_of,
    tools_of,
)
from harness.data.jsonl import Row
from harness.records import HarnessError, LossPoint
from trainers import Event
from trainers.artefact import Training, describe, left_out, lock_of, public_name
from trainers.recipe import Recipe

IGNORED = -100
"""The label of a token that carries no loss."""

ROW_S = 10.0
"""Seconds of a processor that encoding one row may take; it usually takes a thousandth."""

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Example:
    """One row as tokens; the loss is on the answer and its end-of-sequence."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


def main(recipe_file: str, out: str) -> int:
    """Train the recipe unless `out` is there; return the exit status."""
    recipe = Recipe.from_json(Path(recipe_file).read_text("utf-8"))
    emit = _events_on_stdout()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train_once(recipe, Path(out), emit)
    except HarnessError as problem:
        emit(Event("failed", message=str(problem)))
        return 1
    return 0


def _events_on_stdout() -> Emit:
    """Keep the real stdout for events: libraries print there too."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        stream.write(json.dumps(asdict(event)) + "\n")
        stream.flush()

    return emit


def _end_with_parent() -> None:
    # A buffered read would hold a lock that the interpreter wants at its end.
    while os.read(0, 1):
        pass
    os._exit(1)


def _train_once(recipe: Recipe, out: Path, emit: Emit) -> None:
    with _lock(out, emit):
        if out.exists():
            emit(Event("found"))
            return
        _sweep(out)
        partial = out.parent / f".tmp-{out.name}-{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            _train(recipe, partial, emit)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        emit(Event("done", step=recipe.steps, steps=recipe.steps))


def _lock(out: Path, emit: Emit) -> AbstractContextManager[object]:
    """Take the candidate's lock; the system releases it when this process ends, however."""
    from filelock import FileLock, Timeout

    lock_of(out).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(out))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        emit(Event("waiting"))
        return lock.acquire()


def _sweep(out: Path) -> None:
    """Remove what killed trainings left behind: a folder whose lock is free has no owner."""
    from filelock import FileLock, Timeout

    for leftover in out.parent.glob(".tmp-*"):
        owner = out.with_name(leftover.name.split("-")[1])
        if owner == out:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        with suppress(Timeout), FileLock(lock_of(owner), timeout=0):
            shutil.rmtree(leftover, ignore_errors=True)


def _train(recipe: Recipe, folder: Path, emit: Emit) -> None:
    """Fill `folder` with the candidate: load, encode, fit, describe."""
    started, began = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    emit(Event("loading", steps=recipe.steps))
    data = recipe.data()
    tokenizer = tokenizer_of(recipe)
    examples = _encoded([*data.train, *data.general], tokenizer, recipe)
    validation = _encoded(data.validation, tokenizer, recipe)
    truncated = sum(example.truncated for example in examples)
    dropped = recipe.rows - len(examples)
    unlearnt = left_out(data.unlearnt, data.weightless)
    emit(
        Event(
            "data",
            rows=recipe.rows,
            truncated=truncated,
            dropped=dropped,
            message="; ".join(unlearnt),
        )
    )
    if not examples:
        raise HarnessError(
            f"{recipe.train}: no answer fits into length = {recipe.length} tokens; raise it"
        )
    losses = _fit(recipe, tokenizer, examples, validation, folder, emit)
    seconds = time.monotonic() - started
    training = Training(began, seconds, truncated, dropped, losses, unlearnt)
    describe(folder, recipe, training)


def _encoded(rows: Sequence[Row], tokenizer: Any, recipe: Recipe) -> list[Example]:
    """Encode rows one by one, each in its time."""
    return [example for row in rows for example in _in_time(row, tokenizer, recipe)]


def _in_time(row: Row, tokenizer: Any, recipe: Recipe) -> list[Example]:
    # The base's template and pattern are programs of their own, and nothing but the system can
    # stop them: its signal ends this process, and the parent knows it (`TOO_SLOW`).
    if not hasattr(signal, "setitimer"):
        return encode([row], tokenizer, recipe.length, recipe.prompting)
    signal.setitimer(signal.ITIMER_VIRTUAL, ROW_S)
    try:
        return encode([row], tokenizer, recipe.length, recipe.prompting)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def tokenizer_of(recipe: Recipe) -> Any:
    """Return the tokenizer of the base; HarnessError if it is no chat model's.

    Code in the base's folder is never run.
    """
    from transformers import AutoTokenizer

    try:
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(
                recipe.base.source, revision=recipe.base.revision, trust_remote_code=False
            )
    except Exception as problem:  # a damaged file can break anything in the libraries
        raise HarnessError(
            f"the tokenizer of the base {recipe.base.spec!r} cannot be loaded: "
            f"{first_line(problem)}; name a folder or a hub id that holds a chat model"
        ) from None
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise HarnessError(
            f"the base {recipe.base.spec!r} has no chat template or no end-of-sequence token; "
            "start from a chat model"
        )
    return tokenizer


def encode(
    rows: Sequence[Row],
    tokenizer: Any,
    length: int,
    prompting: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Return the rows as examples of at most `length` tokens.

    A row that is too long loses the beginning of its prompt, never its answer or its end; where
    the answer alone is too long the row is dropped. `prompting` as in `Recipe`.

    Raises:
        HarnessError: the chat template cannot carry what a row says.

    """
    encoded = (_example(row, tokenizer, length, prompting or {}) for row in rows)
    return [example for example in encoded if example]


def _example(row: Row, tokenizer: Any, length: int, prompting: Mapping[str, Any]) -> Example | None:
    # The answer ends in the token that stops generation, whatever the template puts there.
    with _naming(row):
        template = ChatTemplate(tokenizer, template_options(prompting))
        asked, said = template.exchange(row.messages, tools_of(prompting, row.tools))
        prompt = tokens_of(tokenizer, asked)
        answer = [*tokens_of(tokenizer, said), tokenizer.eos_token_id]
    room = length - len(answer)
    if room < 1:
        return None
    kept = prompt[-room:]
    return Example([*kept, *answer], [*[IGNORED] * len(kept), *answer], len(kept) < len(prompt))


def prompt_of(row: Row, tokenizer: Any) -> list[int]:
    """Return the tokens of everything before the answer, the answer's beginning included.

    Raises:
        HarnessError: the chat template cannot carry the conversation.

    """
    with _naming(row):
        return tokens_of(tokenizer, ChatTemplate(tokenizer).prompt(row.messages[:-1], row.tools))


@contextmanager
def _naming(row: Row) -> Iterator[None]:
    try:
        yield
    except TemplateRefusal as problem:
        raise HarnessError(
            f"{row.source}: the base's chat template cannot carry the row: {problem}; "
            "change the row, or start from a base whose template can"
        ) from None


def _fit(
    recipe: Recipe,
    tokenizer: Any,
    examples: Sequence[Example],
    validation: Sequence[Example],
    folder: Path,
    emit: Emit,
) -> list[LossPoint]:
    """Train, save the best state into `folder` and return the losses, step by step."""
    import torch
    from trl import SFTTrainer

    # Four bits on CPU are four times faster in float32; GPUs compute in bfloat16.
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    trainer = SFTTrainer(
        model=recipe.base.source,
        args=_arguments(recipe, folder, cuda=cuda, dtype=dtype, validate=bool(validation)),
        train_dataset=_dataset(examples),
        eval_dataset=_dataset(validation) if validation else None,
        processing_class=tokenizer,
        quantization_config=_four_bits(dtype) if recipe.trainer == "qlora" else None,
        peft_config=None if recipe.trainer == "full" else _adapter(recipe),
    )
    _compute_alike_in_evaluation(trainer.model)
    losses: list[LossPoint] = []
    trainer.add_callback(_watch(recipe, losses, emit, lambda: _save(recipe, trainer, folder)))
    trainer.train()
    if not validation:
        _save(recipe, trainer, folder)
    return losses


def _arguments(recipe: Recipe, folder: Path, *, cuda: bool, dtype: Any, validate: bool) -> Any:
    import torch
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        model_init_kwargs={
            # Full fine-tuning keeps float32 weights: steps of 2e-5 vanish in bfloat16.
            "dtype": torch.float32 if recipe.trainer == "full" else dtype,
            "revision": recipe.base.revision,
            "use_safetensors": True,
            "trust_remote_code": False,
        },
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        optim="paged_adamw_8bit" if cuda else "adamw_torch",
        max_length=None,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not cuda,
        bf16=cuda,
        gradient_checkpointing=cuda,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch" if validate else "no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def _four_bits(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _adapter(recipe: Recipe) -> Any:
    from peft import LoraConfig

    # Never `ensure_weight_tying`: adapters that tie and adapters that do not corrupt each other
    # on one base, so all leave the output layer as it is.
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        modules_to_save=["embed_tokens"] if recipe.train_embeddings else None,
    )


def _compute_alike_in_evaluation(model: Any) -> None:
    """Keep bitsandbytes from packing weights for its bfloat16 kernel.

    On CPUs with AVX512-BF16 the first validation would pack them for good, and the packed kernel
    passes no gradient on: all layers but the last would stop learning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _watch(recipe: Recipe, losses: list[LossPoint], emit: Emit, save: Callable[[], None]) -> Any:
    """Return a callback that reports and collects losses and saves after the best validation."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.best = math.inf
            self.started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" not in logs:
                return
            loss = _finite(logs["loss"], state.global_step, recipe)
            losses.append(LossPoint(state.global_step, state.epoch, train=loss))
            pace = (time.monotonic() - self.started) / state.global_step
            left = pace * (recipe.steps - state.global_step)
            emit(Event("step", state.global_step, recipe.steps, loss, round(left, 1)))

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            loss = _finite(metrics["eval_loss"], state.global_step, recipe)
            losses.append(LossPoint(state.global_step, state.epoch, validation=loss))
            emit(Event("validation", state.global_step, recipe.steps, loss))
            if loss < self.best:
                self.best = loss
                save()

    return Watch()


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    if not math.isfinite(loss):
        raise HarnessError(
            f"the loss is {loss} at step {step}; lower learning_rate "
            f"(it was {recipe.learning_rate:g})"
        )
    return loss


def _save(recipe: Recipe, trainer: Any, folder: Path) -> None:
    model = trainer.model
    if recipe.trainer == "full":
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = public_name(recipe).removeprefix("local:")
    config.revision = recipe.base.revision
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
