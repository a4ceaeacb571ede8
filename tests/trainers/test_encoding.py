from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.jsonl import Row
from harness.records import HarnessError
from trainers.local import IGNORED, encode


def example_row(prompt: str, answer: str) -> Row:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Row(1, "a", messages, (), None, (), "train.jsonl:1")


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(min_size=1), st.text(min_size=1, max_size=30), st.integers(2, 120))
def test_an_example_keeps_its_whole_answer_and_its_end_or_is_dropped(
    tokenizer: Any, prompt: str, answer: str, length: int
) -> None:
    (whole,) = encode([example_row(prompt, answer)], tokenizer, 10**6)
    learnt = [label for label in whole.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == f"{answer}<|im_end|>"
    examples = encode([example_row(prompt, answer)], tokenizer, length)
    assert bool(examples) == (len(learnt) < length)
    for example in examples:
        assert example.labels[-len(learnt) :] == learnt == example.input_ids[-len(learnt) :]
        assert len(example.input_ids) == len(example.labels) <= length
        assert example.truncated == (len(whole.input_ids) > length)
        assert example.input_ids == whole.input_ids[-len(example.input_ids) :]


def test_the_context_of_the_answer_is_the_prompt_of_the_evaluation(tokenizer: Any) -> None:
    row = example_row("hello", "good day")
    (example,) = encode([row], tokenizer, 2_048)
    prompt = tokenizer.apply_chat_template(list(row.messages[:1]), add_generation_prompt=True)
    size = len(prompt["input_ids"])
    assert example.input_ids[:size] == prompt["input_ids"]
    assert set(example.labels[:size]) == {IGNORED}


def test_the_end_carries_loss_even_where_it_is_the_padding_too(tokenizer: Any) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [example_row("hello", "hi"), example_row("hello " * 9, "a longer answer")]
    examples = encode(rows, tokenizer, 2_048)
    collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.eos_token_id)
    batch = collate(
        [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]
    )
    for labels in batch["labels"].tolist():
        learnt = [label for label in labels if label != IGNORED]
        assert learnt[-1] == tokenizer.eos_token_id
        assert learnt.count(tokenizer.eos_token_id) == 1


def test_a_conversation_that_the_template_refuses_is_named(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "{{ raise_exception('no system message, please') }}"
    monkeypatch.setattr(tokenizer, "chat_template", refusing)
    with pytest.raises(HarnessError, match=r"^train\.jsonl:1: .*no system message, please"):
        encode([example_row("hello", "hi")], tokenizer, 2_048)
