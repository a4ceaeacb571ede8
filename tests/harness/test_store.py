from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness import schema
from harness.records import (
    LARGEST,
    Arm,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    RecordedScore,
    Reply,
    Role,
    Vote,
)
from harness.store import Asked, Store, StoredCall, network_file_system

REPLY = Reply(
    text="naïve \x00 \ud800 \x1b[31m 😀",
    prompt_tokens=3,
    completion_tokens=0,
    latency_s=0.25,
    cost_usd=1e-9,
    finish_reason="stop",
    tool_calls=({"id": "1", "function": {"name": "f", "arguments": "{}"}},),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def test_replies_come_back_as_they_were_stored(path: Path, store: Store) -> None:
    store.put_replies({"a": REPLY, "b": Reply()})
    store.put_replies({"b": Reply(text="newer")})
    store.close()
    again = Store(path)
    assert again.replies(["a", "b", "c", "a"]) == {"a": REPLY, "b": Reply(text="newer")}
    again.close()


counts = st.none() | st.integers(0, LARGEST)
numbers = st.none() | st.floats(0, LARGEST)
replies = st.builds(
    Reply,
    text=st.text(st.characters()),
    prompt_tokens=counts,
    completion_tokens=counts,
    latency_s=numbers,
    cost_usd=numbers,
    finish_reason=st.none() | st.text(),
    tool_calls=st.lists(st.dictionaries(st.text(), st.text() | st.integers())).map(tuple),
)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("any") / "store.sqlite")
    yield store
    store.close()


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), replies, max_size=5))
def test_any_reply_survives(shared_store: Store, given: dict[str, Reply]) -> None:
    shared_store.put_replies(given)
    assert shared_store.replies(given) == given


def test_more_keys_than_an_old_sqlite_takes_at_once(store: Store) -> None:
    store._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    given = {str(number): Reply(text=str(number)) for number in range(2500)}
    store.put_replies(given)
    assert store.replies(given) == given


def results(run: str, started: str = "2026-11-01T00:00:00+00:00") -> dict[str, Any]:
    return {"run_id": run, "started": started, "verdict": "pass", "cases": [{"id": "c1"}]}


def test_runs_are_listed_from_the_oldest(store: Store) -> None:
    store.add_run(results("later", "2026-11-02T00:00:00+00:00"))
    store.add_run(results("first", "2026-11-01T00:00:00+00:00"))
    assert store.run_ids() == ["first", "later"]
    assert store.results("later") == results("later", "2026-11-02T00:00:00+00:00")
    assert "cases" not in store.summary("later")


def test_of_two_runs_in_one_second_the_later_is_the_latest(store: Store) -> None:
    store.add_run(results("b-begun-first"))
    store.add_run(results("a-begun-second"))
    assert store.run_ids() == ["b-begun-first", "a-begun-second"]


def test_a_run_keeps_its_models_and_what_they_replied(path: Path, store: Store) -> None:
    shots = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    spec = ModelSpec("cand", "local", "x", system="s", few_shot=shots, adapter=Path("/a/b"))
    arms = (Arm("cand", Role.CANDIDATE, spec, "f" * 16),)
    said = Recorded("c1", "d" * 64, REPLY, "demo", 1, {"demo.exact": RecordedScore(1.0, True, "c")})
    silent = replace(said, id="c0", trial=0, reply=Reply(), scores={})
    store.add_run(results("empty"), arms)
    store.add_run(results("one"), arms, {"cand": [said, silent]})
    store.close()
    again = Store(path)
    assert again.arms("one") == arms
    assert again.run_models("one") == ["cand"]
    assert again.run_replies("one", "cand") == (silent, said)
    assert (again.run_models("empty"), again.run_replies("empty", "cand")) == ([], ())
    assert (again.run_ids(), again.run_ids(answered=True)) == (["empty", "one"], ["one"])
    again.close()


def test_a_run_is_stored_with_its_replies_or_not_at_all(store: Store) -> None:
    twice = Recorded("c1", "d" * 64, Reply(), "demo")
    with pytest.raises(EvidenceError, match="UNIQUE"):
        store.add_run(results("one"), (), {"cand": [twice, twice]})
    assert store.run_ids() == []


def changed(path: Path, *statements: str) -> None:
    """Change rows behind the store's back, as a bad disk would."""
    with sqlite3.connect(path) as other:
        for statement in statements:
            other.execute(statement)
    other.close()


def test_a_damaged_run_costs_itself(
    path: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    for run in ("one", "two", "three"):
        store.add_run(results(run), (), {"cand": [Recorded("c1", "d" * 64, REPLY, "demo")]})
    changed(
        path,
        "UPDATE runs SET results = replace(results, 'pass', 'fail') WHERE id = 'two'",
        "UPDATE run_replies SET reply = replace(reply, 'naïve', 'clever') WHERE run = 'one'",
        "UPDATE runs SET cases = replace(cases, 'c1', 'c2') WHERE id = 'three'",
    )
    assert store.run_ids() == store.run_ids(answered=True) == ["one", "three"]
    assert store.results("one") == results("one")
    assert store.summary("three")["run_id"] == "three"
    for read in (store.summary, store.results):
        with pytest.raises(EvidenceError, match="damaged: the run two cannot be read"):
            read("two")
    with pytest.raises(EvidenceError, match="damaged: the run three cannot be read"):
        store.results("three")
    assert len(store.run_replies("three", "cand")) == 1
    assert capfd.readouterr().err.count("1 damaged rows of runs were left out") == 1


@pytest.mark.parametrize("what", ["text", "number", "bytes", "nothing"])
def test_a_changed_reply_is_never_served(path: Path, store: Store, what: str) -> None:
    """It is good JSON and a good reply, but not what was stored."""
    call = StoredCall("demo:c1", {"trial": "0"}, "openai:x")
    store.put_replies({"a": Reply(text="yes"), "b": Reply(text="no")}, {"a": call, "b": call})
    value = {
        "text": "replace(value, 'yes', 'yet')",
        "number": "replace(value, 'null', '1')",
        "bytes": "CAST(value AS BLOB)",
        "nothing": "''",
    }[what]
    changed(path, f"UPDATE replies SET value = {value} WHERE key = 'a'")
    assert store.replies(["a", "b"]) == {"b": Reply(text="no")}
    assert [told.partition(": ")[2] for told in store.alarms] == [
        "1 replies are damaged; only asked again they count"
    ]
    assert [call.label for call in store.calls()] == ["demo:c1"]


def test_what_else_was_changed_is_left_out(path: Path, store: Store) -> None:
    store.add_run(results("one"), (), {}, {"d": Asked("how?"), "e": Asked("who?")})
    store.promote("one", "first")
    store.promote("one", "second")
    store.put_votes([Vote("p", "anna", "x", "y", "left"), Vote("p", "bo", "x", "y", "left")])
    store.put_passing("r", {"a": Reply(error="down"), "b": Reply(error="down")})
    secret = store.blinding()
    changed(
        path,
        "UPDATE cases SET asked = replace(asked, 'how', 'why')",
        "UPDATE promotions SET model = 'other' WHERE number = 2",
        "UPDATE votes SET vote = replace(vote, 'left', 'right') WHERE rater = 'bo'",
        "UPDATE passing SET value = replace(value, 'down', 'done') WHERE key = 'a'",
        "UPDATE blinding SET secret = replace(secret, substr(secret, 1, 2), 'xx')",
    )
    assert store.asked() == {"e": Asked("who?")}
    champion = store.champion()
    assert champion is not None
    assert champion.model == "first"
    assert [vote.rater for vote in store.votes()] == ["anna"]
    assert store.passing("r") == {"b": Reply(error="down")}
    assert store.blinding() not in (secret, "xx" + secret[2:])


def test_the_champion_is_the_last_that_was_promoted(store: Store) -> None:
    store.add_run(results("one"))
    assert store.champion() is None
    store.promote("one", "first")
    store.promote("one", "second")
    champion = store.champion()
    assert champion is not None
    assert (champion.run, champion.model) == ("one", "second")


def test_a_transaction_that_fails_stores_nothing(path: Path, store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.put_replies({"a": Reply(text="x"), "b": Reply(tool_calls=({"x": float("nan")},))})
    assert store.replies(["a", "b"]) == {}
    store.put_replies({"a": Reply(text="x")})
    assert store.replies(["a"]) == {"a": Reply(text="x")}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "null",
        "[1]",
        '{"text": "x"}',
        '{"text": 3, "tool_calls": []}',
        '{"text": "x", "tool_calls": 3}',
        '{"text": "x", "tool_calls": ["y"]}',
        '{"text": "x", "tool_calls": [], "latency_s": "fast"}',
        '{"text": "x", "tool_calls": [], "latency_s": NaN}',
        '{"text": "x", "tool_calls": [], "prompt_tokens": 1.5}',
        '{"text": "x", "tool_calls": [], "unknown": 1}',
        '{"text": "x", "tool_calls": [], "error": {}}',
        "[" * 100_000,
        b"\xff\xfe{",
        7,
    ],
)
def test_a_damaged_row_is_none_until_another_takes_its_place(
    path: Path, store: Store, value: object
) -> None:
    store.put_replies({"bad": Reply(), "good": Reply(text="x")})
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE replies SET value = ? WHERE key = 'bad'", (value,))
    other.close()
    for _ in range(2):
        assert store.replies(["bad", "good"]) == {"good": Reply(text="x")}
    assert len(store.alarms) == 1
    store.put_replies({"bad": Reply(text="y")})
    assert store.replies(["bad"]) == {"bad": Reply(text="y")}


def aside(path: Path) -> Path:
    [found] = path.parent.glob("store.sqlite.damaged-*[0-9]")
    return found


def test_a_file_that_is_no_database_is_kept_aside_and_told(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    content = b"not a database at all, " * 100
    path.write_bytes(content)
    store = Store(path)
    assert re.search(r"the store was damaged; 0 replies and 0 runs could be read", store.rescued)
    assert aside(path).name in store.rescued
    assert aside(path).read_bytes() == content
    assert "the store was damaged" in capfd.readouterr().err
    store.put_replies({"a": REPLY})
    assert store.replies(["a"]) == {"a": REPLY}
    store.close()
    again = Store(path)
    assert (again.rescued, again.replies(["a"])) == ("", {"a": REPLY})
    again.close()


def filled(path: Path, count: int = 2000) -> dict[str, Reply]:
    """A store whose replies fill many pages, with a run."""
    given = {f"{number:064}": Reply(text=f"{number} " * 100) for number in range(count)}
    store = Store(path)
    store.add_run(results("one"), (), {"base": [Recorded("c1", "d" * 64, REPLY, "demo")]})
    store.put_replies(given, dict.fromkeys(given, StoredCall("", {}, "openai:x")))
    store.close()
    return given


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(st.integers(1, 200), st.integers(1, 20), st.sampled_from([b"\0", b"\x55"]))
def test_replies_on_other_pages_than_the_damage_are_kept(
    tmp_path_factory: pytest.TempPathFactory, first: int, count: int, byte: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "store.sqlite"
    given = filled(path, 600)
    data = bytearray(path.read_bytes())
    first %= len(data) // 4096
    end = min(len(data), (first + count) * 4096)
    data[max(first, 1) * 4096 : end] = byte * (end - max(first, 1) * 4096)
    path.write_bytes(data)
    store = Store(path)
    found = store.replies(given)
    assert found.items() <= given.items()
    assert len(found) == len(given) or "the store was damaged" in store.rescued
    store.put_replies(given)
    assert store.replies(given) == given
    store.close()


def test_a_damaged_leaf_costs_only_what_was_on_it(path: Path) -> None:
    given = filled(path)
    data = bytearray(path.read_bytes())
    middle = data.index(f"{1000} 1000 1000".encode()) // 4096 * 4096
    data[middle : middle + 4096] = b"\x55" * 4096
    path.write_bytes(data)
    store = Store(path)
    found = store.replies(given)
    assert 1950 < len(found) < 2000
    assert found.items() <= given.items()
    assert f"{len(found):,} replies and 1 runs could be read" in store.rescued
    assert store.run_replies("one", "base") == (Recorded("c1", "d" * 64, REPLY, "demo"),)
    store.close()


def test_a_store_cut_in_half_keeps_what_is_left(path: Path) -> None:
    given = filled(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    store = Store(path)
    found = store.replies(given)
    assert found.items() <= given.items()
    assert "the store was damaged" in store.rescued
    store.close()


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(st.floats(0, 1), st.sampled_from([b"", b"\0", b"\x55"]))
def test_a_half_written_transaction_costs_no_earlier_one(
    tmp_path_factory: pytest.TempPathFactory, share: float, rest: bytes
) -> None:
    """The log of a process that was killed ends anywhere, or in bytes that never were written."""
    path = tmp_path_factory.mktemp("half") / "store.sqlite"
    store = Store(path)
    sizes = []
    for number in range(5):
        store.put_replies({f"{number}-{n}": Reply(text="x" * 200) for n in range(20)})
        sizes.append(path.with_name("store.sqlite-wal").stat().st_size)
    wal = path.with_name("store.sqlite-wal").read_bytes()
    data = path.read_bytes()
    store.close()
    left = int(share * len(wal))
    path.write_bytes(data)
    path.with_name("store.sqlite-wal").write_bytes(wal[:left] + rest * (len(wal) - left))
    again = Store(path)
    found = again.replies(f"{number}-{n}" for number in range(5) for n in range(20))
    whole = sum(size <= left for size in sizes)
    assert set(found) == {f"{number}-{n}" for number in range(whole) for n in range(20)}
    assert again.rescued == ""
    again.put_replies({"new": REPLY})
    assert again.replies(["new"]) == {"new": REPLY}
    again.close()


def test_a_store_that_another_process_rescued_is_used_on(path: Path) -> None:
    given = filled(path)
    one, other = Store(path), Store(path)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    with path.open("r+b") as file:
        file.write(data)
    one.replies(given)
    one.put_replies({"new": REPLY})
    assert other.replies(["new"]) == {"new": REPLY}
    assert (bool(one.rescued), other.rescued) == (True, "")
    one.close()
    other.close()


def test_a_store_that_lost_its_tables_is_rebuilt(path: Path, store: Store) -> None:
    store.put_replies({"a": REPLY})
    store.add_run(results("one"))
    other = sqlite3.connect(path)
    other.execute("DROP TABLE replies")
    other.close()
    assert store.replies(["a"]) == {"a": REPLY}, "its log has it still"
    assert store.run_ids() == ["one"]
    assert "1 replies and 1 runs could be read" in store.rescued


def test_calls_are_kept_beside_their_replies(store: Store) -> None:
    call = StoredCall("demo:c1", {"trial": "0", "message 1": "x"}, "openai:x")
    store.put_replies({"a": REPLY, "b": REPLY}, {"a": call})
    [bare, kept] = sorted(store.calls(), key=lambda one: one.label)
    assert (kept.label, kept.fields, kept.model) == (call.label, call.fields, "openai:x")
    assert (bare.label, bare.fields) == ("", {})
    assert [one.label for one in store.calls("demo:c1")] == ["demo:c1"]


def test_the_stock_is_counted_by_model_and_pruned_by_model_and_age(store: Store) -> None:
    x, y = StoredCall("", {}, "openai:x"), StoredCall("", {}, "openai:y")
    store.put_replies({"a": REPLY, "b": REPLY, "c": REPLY}, {"a": x, "b": x, "c": y})
    store.add_run(results("one"))
    assert [(one.model, one.replies) for one in store.stock()] == [("openai:x", 2), ("openai:y", 1)]
    assert all(one.oldest <= one.newest and one.size_bytes > 100 for one in store.stock())
    past = datetime.now(UTC) - timedelta(days=1)
    assert store.prune(before=past) == 0
    assert store.prune(before=past + timedelta(days=2), model="openai:y") == 1
    assert store.prune(model="openai:x") == 2
    assert store.stock() == []
    assert store.run_ids() == ["one"]


VERSION_4 = Path(__file__).parents[1] / "data/store-4.sql"
"""A store that version 4 wrote: 3 replies, and one row in every other table."""


def of_version_4(path: Path, *, wal: bool = True) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.executescript(VERSION_4.read_text("utf-8"))
    if wal:
        other.execute("PRAGMA journal_mode = WAL")
    other.close()


def content(store: Store) -> list[object]:
    run = "20261101-120000-abcd"
    champion = store.champion()
    assert champion is not None
    return [
        {key[-1]: reply.text for key, reply in store.replies(f"{n:064}" for n in range(4)).items()},
        [(call.label, call.model) for call in store.calls("demo:c1")],
        store.results(run)["cases"],
        [arm.name for arm in store.arms(run)],
        [one.reply.text for one in store.run_replies(run, "base")],
        (champion.run, champion.model),
        store.asked(),
        [(vote.rater, vote.choice) for vote in store.votes()],
        store.blinding()[:8],
        store.calibration("k" * 64) is not None,
    ]


CONTENT = [
    {"0": "yes 0", "1": "yes 1", "2": "yes 2"},
    [("demo:c1", "openai:x")],
    [{"id": "c0"}],
    ["base", "cand"],
    ["yes 0"],
    ("20261101-120000-abcd", "cand"),
    {"d" * 64: Asked("is it 0", "yes")},
    [("anna", "left")],
    "44c9d05a",
    True,
]


def test_a_store_of_version_4_goes_on_working(path: Path) -> None:
    of_version_4(path)
    for _ in range(2):
        store = Store(path)
        assert content(store) == CONTENT
        assert store.passing("r") == {"e" * 64: Reply(error="down")}
        assert (store.notes, store.alarms) == ([], [])
        store.put_replies({"new": REPLY})
        assert store.replies(["new"]) == {"new": REPLY}
        store.close()
    fresh = Store(path.with_name("fresh.sqlite"))
    fresh.close()
    schemas = []
    for file in (path, path.with_name("fresh.sqlite")):
        other = sqlite3.connect(file)
        schemas.append(set(other.execute("SELECT name, sql FROM sqlite_master")))
        other.close()
    assert schemas[0] == schemas[1]


def test_a_killed_update_of_version_4_leaves_a_store_of_version_4(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_version_4(path)
    with monkeypatch.context() as patch:
        patch.setattr("harness.schema._seal_all", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Store(path)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (4,)
    store = Store(path)
    assert content(store) == CONTENT
    store.close()


@pytest.mark.parametrize("what", ["first page", "version", "magic", "an index"])
def test_a_damaged_store_of_version_4_is_rescued(path: Path, what: str) -> None:
    of_version_4(path)
    data = bytearray(path.read_bytes())
    if what == "an index":
        data[data.index(b"0" * 63 + b"2\3") // 4096 * 4096 + 1] ^= 0xFF
    else:
        at, count = {"first page": (0, 4096), "version": (60, 4), "magic": (3, 5)}[what]
        data[at : at + count] = bytes(count)
    path.write_bytes(data)
    store = Store(path)
    assert content(store) == CONTENT
    assert "3 replies and 1 runs and 1 votes could be read" in store.rescued
    store.close()


def test_a_later_version_is_refused(path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(path) as other:
        [(application,)] = other.execute("PRAGMA application_id")
        other.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        other.execute(f"PRAGMA application_id = {application + 1}")
    other.close()
    before = path.read_bytes()
    with pytest.raises(HarnessError, match=r"version 6 and this program reads versions 4 to 5; "):
        Store(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (name)")
    other.close()
    with pytest.raises(HarnessError, match="move the file away"):
        Store(path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [
        ("photos",)
    ]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"cannot be opened: .*tool\.harness\.store"):
        Store(tmp_path / "file" / "store.sqlite")


def test_a_store_that_others_hold_for_too_long_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.store.BUSY_SECONDS", 0.1)
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HarnessError, match=r"cannot be used: database is locked"):
        store.put_replies({"a": Reply()})
    other.execute("ROLLBACK")
    other.close()
    store.put_replies({"a": Reply()})
    store.close()


WRITER = """
import sys
from pathlib import Path
from harness.records import Recorded, Reply
from harness.store import Store

for number in range(50):
    store = Store(Path(sys.argv[1])) if number % 10 == 0 else store
    assert len(store.replies([f"{sys.argv[2]}-{n}" for n in range(number)])) == number
    store.put_replies({f"{sys.argv[2]}-{number}": Reply(text="x" * 200)})
    run = {"run_id": f"{sys.argv[2]}-{number}", "started": "now", "cases": []}
    store.add_run(run, (), {"base": [Recorded("c1", "0" * 64, Reply(text="x"))]})
"""


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    store = Store(path)
    assert len(store.replies(f"{name}-{n}" for name in "abcd" for n in range(50))) == 200
    assert len(store.run_ids(answered=True)) == 200
    store.close()


def test_what_was_stored_outlives_a_killed_process(path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from harness.records import Reply
from harness.store import Store
store = Store(Path({str(path)!r}))
store.put_replies({{"kept": Reply(text="x")}})
store._connection.execute("BEGIN IMMEDIATE")
store._connection.execute("DELETE FROM replies")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    store = Store(path)
    assert store.replies(["kept"]) == {"kept": Reply(text="x")}
    store.close()


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/local ext4 rw 0 0
//nas/share /mnt/with\\040space cifs rw 0 0
me@host: /mnt/ssh fuse.sshfs rw 0 0
overlay /var/lib overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/project/.harness/store.sqlite", None),
        ("/home/me/store.sqlite", "nfs4"),
        ("/home/me/local/store.sqlite", None),
        ("/homely/store.sqlite", None),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/var/lib/x", None),
    ],
)
def test_network_file_systems_are_told_from_local_ones(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def mounts(file: Path, *args: object, **options: object) -> str:
        if str(file) == "/proc/mounts":
            return f"/dev/vda / ext4 rw 0 0\nnas:/x {path.parent.parent} nfs rw 0 0\n"
        return read(file, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", mounts)
    with pytest.raises(HarnessError, match=r"network file system \(nfs\).*local disk"):
        Store(path)
    assert not path.exists()
