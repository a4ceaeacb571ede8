import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.jsonl import read_rows
from harness.records import HarnessError, digest_of

ASK = {"role": "user", "content": "Where is my parcel?"}
TELL = {"role": "assistant", "content": "On its way."}

reused_folder = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write(root, *lines):
    path = root / "datasets" / "x.jsonl"
    path.parent.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("\n".join(texts).encode())
    return path


def read(root, *lines):
    return read_rows(write(root, *lines), root)


def test_reads_every_key_of_a_row(tmp_path):
    tool = {"type": "function", "function": {"name": "track"}}
    full = {
        "id": "Zoë 1",
        "messages": [{"role": "system", "content": "Help."}, ASK, TELL],
        "tags": ["late", "eu"],
        "cluster": "origin-7",
        "tools": [tool],
        "note": "other keys are left alone",
    }
    (row,) = read(tmp_path, full)
    assert (row.line, row.id, row.tags, row.cluster) == (1, "Zoë 1", ("late", "eu"), "origin-7")
    assert list(row.messages) == full["messages"]
    assert row.tools == (tool,)
    assert row.source == "datasets/x.jsonl:1"


def test_a_row_without_an_id_is_named_after_its_messages(tmp_path):
    first, second = read(
        tmp_path, {"messages": [ASK]}, {"id": None, "messages": [ASK, TELL], "tags": None}
    )
    assert first.id == digest_of([ASK])[:12]
    assert second.id == digest_of([ASK, TELL])[:12]


def test_blank_lines_are_skipped_and_counted(tmp_path):
    rows = read(tmp_path, "", {"messages": [ASK]}, "  \t", {"messages": [TELL, ASK]}, "")
    assert [row.source for row in rows] == ["datasets/x.jsonl:2", "datasets/x.jsonl:4"]


def test_windows_files_read_alike(tmp_path):
    path = write(tmp_path, {"messages": [ASK]}, {"messages": [ASK, TELL]})
    plain = read_rows(path, tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_rows(path, tmp_path) == plain


def test_only_a_line_feed_ends_a_line(tmp_path):
    text = "one\u2028two\x85three\u2029"
    line = json.dumps({"messages": [{**ASK, "content": text}]}, ensure_ascii=False)
    (row,) = read(tmp_path, line)
    assert row.messages[0]["content"] == text


def test_a_file_outside_the_root_is_named_in_full(tmp_path):
    path = write(tmp_path, {"messages": [ASK]})
    assert read_rows(path, tmp_path / "other")[0].source == f"{path}:1"


def row_of(**changes):
    return {"messages": [ASK, TELL], **changes}


def content(value, role="user"):
    return {"messages": [ASK, {"role": role, "content": value}]}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "the line is no valid JSON"),
        ('{"messages": [}', "the line is no valid JSON"),
        ("[" * 100_000, "the line is no valid JSON: it is nested too deeply"),
        ('{"messages": NaN}', "NaN is no JSON"),
        ('{"id": "a", "id": "b"}', "the key 'id' stands twice"),
        ('{"seed": 1e999}', "too large"),
        ("[1]", "the line is no JSON object"),
        ('"text"', "the line is no JSON object"),
        ('{"id": "\\ud83d"}', "half of a surrogate pair"),
        (row_of(messages=[]), "messages is missing or no list"),
        ({"id": "a"}, "messages is missing or no list"),
        (row_of(messages={"role": "user"}), "messages is missing or no list"),
        (row_of(messages=[ASK, "hello"]), r"messages\[1\] is no object"),
        (row_of(messages=[{"content": "x"}]), r"messages\[0\] has the role None; use one of"),
        (row_of(messages=[{**ASK, "role": "human"}]), "has the role 'human'; use one of system"),
        (row_of(messages=[{**ASK, "role": ["user"]}]), r"has the role \['user'\]"),
        (content(""), r"messages\[1\] has empty content"),
        (content(" \n"), r"messages\[1\] has empty content"),
        (content(None, "assistant"), r"messages\[1\] has empty content"),
        (content([{"type": "image_url"}]), r"messages\[1\]\.content\[0\] must be a part of text"),
        (row_of(functions={"name": "f"}), "functions is no list of objects"),
        (content(7), r"messages\[1\] has no text"),
        (row_of(messages=[TELL]), "no message has the role user"),
        (row_of(id=""), "the id is empty"),
        (row_of(id=" "), "the id is empty"),
        (row_of(id=7), "the id 7 is no text"),
        (row_of(id="a\nb"), r"the id 'a\\nb' holds a control character"),
        (row_of(id="a\u2028b"), "holds a control character"),
        (row_of(id="a\x9bb"), "holds a control character"),
        (row_of(id="x" * 201), "the id has 201 characters; use at most 200"),
        (row_of(tags="late"), "tags is no list of texts"),
        (row_of(tags=[1]), "tags is no list of texts"),
        (row_of(cluster=3), "the cluster 3 is no text"),
        (row_of(tools={"a": 1}), "tools is no list of objects"),
        (row_of(tools=["track"]), "tools is no list of objects"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path, line, problem):
    with pytest.raises(HarnessError, match=rf"^datasets/x\.jsonl:2: .*{problem}") as refused:
        read(tmp_path, {"messages": [ASK]}, line)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_line_that_is_no_utf8_is_refused_with_its_place(tmp_path):
    path = write(tmp_path, {"messages": [ASK]})
    path.write_bytes(path.read_bytes() + b'\n{"messages": "\xff"}')
    with pytest.raises(HarnessError, match=r"^datasets/x\.jsonl:2: the line is no UTF-8"):
        read_rows(path, tmp_path)


@pytest.mark.parametrize("lines", [(), ("", " ", "")])
def test_an_empty_file_is_refused(tmp_path, lines):
    with pytest.raises(HarnessError, match=r"^datasets/x\.jsonl: the file is empty"):
        read(tmp_path, *lines)


def test_a_missing_file_a_folder_and_an_impossible_name_are_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"^no\.jsonl: there is no such file"):
        read_rows(tmp_path / "no.jsonl", tmp_path)
    with pytest.raises(HarnessError, match=r"it cannot be read: .*directory"):
        read_rows(tmp_path, tmp_path)
    with pytest.raises(HarnessError, match=r"it cannot be read: .*null byte"):
        read_rows(tmp_path / "a\0b", tmp_path)


@pytest.mark.parametrize("changes", [{"id": "same"}, {}])
def test_duplicates_are_refused_naming_both_lines(tmp_path, changes):
    row = row_of(**changes)
    with pytest.raises(HarnessError, match=r"^datasets/x\.jsonl:3: the id .* stands in line 1 "):
        read(tmp_path, row, row_of(id="other"), row)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map("x{}".format)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT},
    optional={"weight": st.integers(0, 1)},
)
TURNS = st.lists(TURN, max_size=3).map(lambda turns: [*turns, ASK])
CLEAN = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
IDS = st.text(CLEAN, max_size=199).map("x{}".format)


@reused_folder
@given(st.dictionaries(IDS, TURNS, min_size=1, max_size=4), st.booleans())
def test_what_is_written_is_read_back(tmp_path, rows, ascii_only):
    lines = [
        json.dumps({"id": id_, "messages": turns}, ensure_ascii=ascii_only)
        for id_, turns in rows.items()
    ]
    found = read(tmp_path, *lines)
    assert {row.id: list(row.messages) for row in found} == rows
    assert [row.line for row in found] == list(range(1, len(rows) + 1))


@reused_folder
@given(TURNS)
def test_the_order_of_keys_does_not_change_an_id(tmp_path, turns):
    turned = [dict(reversed(turn.items())) for turn in turns]
    assert read(tmp_path, {"messages": turns})[0].id == read(tmp_path, {"messages": turned})[0].id


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "messages", "role", "content", "tags", "cluster", "tools"]),
            inner | st.sampled_from(["user", "assistant"]),
            max_size=5,
        )
    ),
    max_leaves=8,
)


@reused_folder
@given(st.binary() | JUNK.map(lambda junk: json.dumps(junk).encode()))
def test_no_content_of_a_file_ends_in_a_traceback(tmp_path, content):
    path = write(tmp_path)
    path.write_bytes(content)
    sentence = ""
    try:
        rows = read_rows(path, tmp_path)
    except HarnessError as problem:
        rows, sentence = [], str(problem)
    assert bool(rows) != bool(re.match(r"datasets/x\.jsonl(:\d+)?: ", sentence))
