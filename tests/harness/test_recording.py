"""A recording: what was written is what is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.recording import Recording, dumps, loads, read, recording_of, write
from harness.records import (
    Arm,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    RecordedScore,
    Reply,
    Role,
    Sampling,
)

REPLY = Reply(
    text="naïve \x00 \ud800 \x1b[31m \u202e 😀\n",
    prompt_tokens=0,
    latency_s=0.25,
    finish_reason="stop",
    tool_calls=({"id": "1", "function": {"name": "f", "arguments": "{}"}},),
)
ONE = Recorded("c1", "a" * 64, REPLY, "demo", 0, {"demo.exact": RecordedScore(0.5, None, "x")})
WHOLE = Recording(
    model="openai:old",
    name="old",
    fingerprint="",
    sampling=Sampling(temperature=0.5),
    prompt="b" * 64,
    made="2026-11-02T10:00:00+00:00",
    source="cases.jsonl",
    replies=(ONE, Recorded("c2", "c" * 64, Reply())),
)


def sealed(lines: list[Any]) -> bytes:
    """A file as somebody could make it by hand, with the right digest."""
    body = "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines).encode()
    return body + f'{{"sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def lines_of(recording: Recording) -> list[Any]:
    return [json.loads(line) for line in dumps(recording).splitlines()[:-1]]


counts = st.none() | st.integers(0, 10**12)
numbers = st.none() | st.floats(0, 1e12)
texts = st.text(st.characters(exclude_categories=("Cs",)))
replies = st.builds(
    Reply,
    text=st.text(st.characters()),
    prompt_tokens=counts,
    completion_tokens=counts,
    latency_s=numbers,
    cost_usd=numbers,
    finish_reason=st.none() | st.text(),
    tool_calls=st.lists(st.dictionaries(texts, st.text() | st.integers())).map(tuple),
)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
scores = st.dictionaries(
    texts,
    st.builds(RecordedScore, numbers, st.none() | st.booleans(), digests),
    max_size=2,
)
entries = st.builds(
    Recorded,
    id=texts.filter(bool),
    digest=digests,
    reply=replies,
    suite=texts,
    trial=st.integers(0, 9),
    scores=scores,
)
recordings = st.builds(
    Recording,
    model=texts,
    name=texts,
    fingerprint=texts,
    sampling=st.builds(
        Sampling, st.floats(0, 2), st.integers(1, 10_000), st.integers(-(2**31), 2**31)
    ),
    prompt=digests,
    made=texts,
    source=texts,
    replies=st.lists(
        entries, min_size=1, max_size=4, unique_by=lambda one: (one.suite, one.id, one.trial)
    ).map(lambda found: tuple(sorted(found, key=lambda one: (one.suite, one.id, one.trial)))),
)


@settings(max_examples=60, deadline=None)
@given(recordings)
def test_any_recording_comes_back_as_it_was(recording: Recording) -> None:
    content = dumps(recording)
    assert loads(content, "x.jsonl") == recording
    assert content.isascii(), "nothing in a review is hidden or reordered"


def test_every_single_changed_byte_is_refused() -> None:
    content = dumps(WHOLE)
    for place in range(len(content)):
        for value in {content[place] ^ 1, content[place] ^ 0x20, 0x0A, 0x20} - {content[place]}:
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            with pytest.raises((EvidenceError, HarnessError), match=r"^x\.jsonl: "):
                loads(changed, "x.jsonl")


@pytest.mark.parametrize("cut", [1, 2, 70, 90, 300])
def test_a_file_that_was_cut_or_added_to_is_refused(cut: int) -> None:
    content = dumps(WHOLE)
    for changed in (content[:-cut], content + content[-cut:], content + b"\n"):
        with pytest.raises(EvidenceError, match="not as it was written"):
            loads(changed, "x.jsonl")


def test_the_order_of_replies_carries_no_meaning() -> None:
    turned = replace(WHOLE, replies=tuple(reversed(WHOLE.replies)))
    assert dumps(turned) == dumps(WHOLE)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\x00\xff" * 50, b'{"messages": []}\n', b'{"sha256": ""}\n']
)
def test_what_is_no_recording_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    with pytest.raises(HarnessError, match=r"^x\.jsonl: it is no recording; make one with"):
        read(file, "x.jsonl")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^x\.jsonl: there is no such recording"):
        read(tmp_path / "x.jsonl", "x.jsonl")
    with pytest.raises(HarnessError, match=r"^folder: it cannot be read: .*directory"):
        read(tmp_path, "folder")


def change(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda line: {**line, **values}


@pytest.mark.parametrize(
    ("number", "changed", "told"),
    [
        (1, change(version=2), "x:1: version: .*1"),
        (1, change(sampling={}), "x:1: sampling.temperature"),
        (1, change(prompt="B"), "x:1: prompt"),
        (1, change(more=1), "x:1: more"),
        (2, change(id=""), "x:2: id"),
        (2, change(digest="0"), "x:2: digest"),
        (2, change(trial=-1), "x:2: trial"),
        (2, change(trial=True), "x:2: trial"),
        (2, change(reply="hello"), "x:2: reply"),
        (2, change(reply={"text": 3}), "x:2: a reply's text is a text"),
        (2, change(reply={"latency_s": "1"}), "x:2: .*latency_s.* are numbers from 0"),
        (2, change(reply={"latency_s": 1e308}), "x:2: .*latency_s.* are numbers from 0"),
        (2, change(reply={"cost_usd": -1}), "x:2: .*cost_usd are numbers from 0"),
        (2, change(reply={"prompt_tokens": 10**300}), "x:2: .*counts are whole numbers from 0"),
        (2, change(reply={"completion_tokens": True}), "x:2: .*counts are whole numbers"),
        (2, change(**{"a\n\x1b[2J": 1}), r"x:2: a\\n\\x1b\[2J: Extra inputs"),
        (2, change(reply={"error": "lost"}), "x:2: a recorded reply has no 'error'"),
        (2, change(reply={"mood": "good"}), "x:2: a recorded reply has no 'mood'"),
        (2, change(reply={"tool_calls": "x"}), "x:2: .*tool_calls are a list"),
        (2, change(reply={"tool_calls": ["x"]}), "x:2: .*tool_calls are objects"),
        (2, change(scores={"m": 1}), "x:2: scores.m"),
        (2, change(unknown=1), "x:2: unknown"),
        (3, lambda line: [line], "x:3: .*valid dictionary"),
        (3, lambda line: '{"id": "a", "id": "b"}', "x:3: .*stands twice"),
        (3, lambda line: '{"trial": NaN}', "x:3: .*NaN"),
        (3, lambda line: "", "x:3: the line is no valid JSON"),
    ],
)
def test_a_wrong_line_is_named(number: int, changed: Any, told: str) -> None:
    lines = lines_of(WHOLE)
    # The first reply in the file is the one without a suite.
    lines[number - 1] = changed(lines[number - 1])
    with pytest.raises(HarnessError, match=told):
        loads(sealed(lines), "x")


def test_a_case_that_stands_twice_is_named() -> None:
    lines = lines_of(WHOLE)
    with pytest.raises(HarnessError, match=r"x:4: the case 'c1' stands in line 3 already"):
        loads(sealed([*lines, lines[2]]), "x")


def test_a_recording_without_replies_is_refused() -> None:
    with pytest.raises(HarnessError, match="x: the recording holds no reply"):
        loads(sealed(lines_of(WHOLE)[:1]), "x")


def test_a_recording_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.jsonl"
    write(WHOLE, file)
    before = file.read_bytes()
    lost = replace(WHOLE, replies=(replace(ONE, reply=Reply(error="lost")),))
    with pytest.raises(HarnessError, match="no 'error'"):
        write(lost, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["x.jsonl"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(HarnessError, match="folder: it cannot be written"):
        write(WHOLE, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "folder"}


def test_two_prompts_are_two_recordings_and_no_path_of_this_machine_is_kept() -> None:
    spec = ModelSpec("old", "local", "/home/me/models/old-model")
    bare, told = (
        recording_of(Arm("old", Role.BASELINE, one), [ONE], made="now", source="run x")
        for one in (spec, replace(spec, system="be brief"))
    )
    assert bare.model == "local:old-model"
    assert bare.prompt != told.prompt
