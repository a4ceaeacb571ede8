from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.jsonl import Row, read_rows
from harness.records import HarnessError
from trainers.local import IGNORED, encode
from trainers.recipe import Data, learnable

CALLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "track", "arguments": '{"number": 7}'}}
USER = {"role": "user", "content": "Where is 7?"}


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


def rows_of(tmp_path: Path, *rows: dict[str, Any]) -> list[Row]:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rows(file, tmp_path)


def learnt(tokenizer: Any, rows: list[Row], **prompting: Any) -> list[str]:
    examples = encode(rows, tokenizer, 2_048, prompting)
    return [tokenizer.decode([t for t in one.labels if t != IGNORED]) for one in examples]


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_an_answer_of_calls_alone_is_learnt_as_the_template_has_it(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: dict[str, Any]
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CALLS)
    answer = {"role": "assistant", "tool_calls": [CALL], **content}
    rows = rows_of(tmp_path, {"messages": [USER, answer], "tools": TOOLS})
    called = '<tool_call>{"name": "track", "arguments": {"number": 7}}</tool_call><|im_end|>'
    assert learnt(tokenizer, rows) == [called]


def test_a_row_that_the_template_cannot_carry_is_refused_with_its_line(
    tokenizer: Any, tmp_path: Path
) -> None:
    plain = {"messages": [USER, {"role": "assistant", "content": "There."}]}
    calling = {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]}
    with pytest.raises(HarnessError, match=r"^train\.jsonl:2: .* leaves out the tools"):
        encode(rows_of(tmp_path, plain, {**plain, "id": "b", "tools": TOOLS}), tokenizer, 99)
    with pytest.raises(HarnessError, match=r"^train\.jsonl:1: .* leaves out the \w+ of"):
        encode(rows_of(tmp_path, calling), tokenizer, 99)


def test_the_table_of_the_base_decides_the_prompt_as_in_asking(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ mood }}" + CALLS)
    rows = rows_of(tmp_path, {"messages": [USER, {"role": "assistant", "content": "There."}]})
    prompting = {"tools": TOOLS, "chat_template_kwargs": {"mood": "calm"}}
    (example,) = encode(rows, tokenizer, 2_048, prompting)
    prompt = tokenizer.decode(example.input_ids)
    assert prompt.startswith("calm")
    assert "track" in prompt


def test_a_pattern_that_does_not_end_is_refused_with_the_line(tokenizer: Any) -> None:
    from copy import deepcopy

    from tokenizers import Regex, pre_tokenizers

    odd = deepcopy(tokenizer)
    odd.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(\w+\s?)*$"), "isolated")
    with pytest.raises(HarnessError, match=r"^train\.jsonl:1: .*the tokenizer fails"):
        encode([example_row("the " + "kettle" * 9 + "!", "hi")], odd, 2_048)


def test_rows_whose_last_answer_has_no_weight_are_left_out_and_counted(tmp_path: Path) -> None:
    no, yes = ({"role": "assistant", "content": "There.", "weight": w} for w in (0, 1))
    rows = tuple(
        rows_of(
            tmp_path,
            {"messages": [USER, yes, USER, no], "id": "a"},
            {"messages": [USER, no, USER, yes], "id": "b"},
            {"messages": [USER, yes, USER, yes], "id": "c"},
        )
    )
    data = learnable(Data(rows, rows[:1], rows))
    assert [row.id for row in data.train] == ["b", "c"] == [row.id for row in data.validation]
    assert (data.general, data.weightless, data.unlearnt) == ((), 2, 1)
    with pytest.raises(HarnessError, match=r"^train\.jsonl:1: all last answers have weight 0"):
        learnable(Data(rows[:1], (), ()))


def test_an_answer_that_another_row_ends_with_is_learnt(tmp_path: Path) -> None:
    turn = [USER, {"role": "assistant", "content": "There."}]
    rows = rows_of(tmp_path, {"messages": turn}, {"messages": turn * 2})
    assert Data(tuple(rows), (), ()).unlearnt == 0
    assert Data(tuple(rows[1:]), (), ()).unlearnt == 1
