from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import (
    Arm,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    RecordedScore,
    Reply,
    Role,
)
from harness.store import SCHEMA_VERSION, Store, network_file_system

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
    store.put_replies({"a": REPLY, "b": Reply()}, "local:x")
    store.put_replies({"b": Reply(text="newer")})
    store.close()
    again = Store(path)
    assert again.replies(["a", "b", "c", "a"]) == {"a": REPLY, "b": Reply(text="newer")}
    again.close()


counts = st.none() | st.integers(0, 2**40)
numbers = st.none() | st.floats(0, allow_nan=False, allow_infinity=False)
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


def test_a_damaged_run_is_told(path: Path, store: Store) -> None:
    store.add_run(results("one"), (), {"cand": [Recorded("c1", "d" * 64, Reply(), "demo")]})
    with sqlite3.connect(path) as other:
        other.execute("UPDATE run_replies SET reply = '{'")
        other.execute("UPDATE runs SET results = '['")
    other.close()
    with pytest.raises(EvidenceError, match="damaged: the run one cannot be read"):
        store.summary("one")
    with pytest.raises(EvidenceError, match="a reply to the case c1 cannot be read"):
        store.run_replies("one", "cand")


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
def test_a_damaged_row_is_dropped_and_the_others_stay(
    path: Path, store: Store, value: object
) -> None:
    store.put_replies({"bad": Reply(), "good": Reply(text="x")})
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE replies SET value = ? WHERE key = 'bad'", (value,))
    assert store.replies(["bad", "good"]) == {"good": Reply(text="x")}
    assert other.execute("SELECT key FROM replies").fetchall() == [("good",)]
    other.close()


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(EvidenceError, match=r"store\.sqlite: the store is damaged: .*delete it"):
        Store(path)


def test_a_damaged_page_is_named(path: Path) -> None:
    store = Store(path)
    store.put_replies({str(number): Reply(text="x" * 500) for number in range(300)})
    store.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(EvidenceError, match="move it away, or delete it to start afresh"):
        Store(path).replies(map(str, range(300)))


def test_a_store_that_lost_its_tables_is_damaged(path: Path, store: Store) -> None:
    other = sqlite3.connect(path)
    other.execute("DROP TABLE replies")
    other.close()
    with pytest.raises(EvidenceError, match="no such table"):
        store.replies(["a"])


def test_another_version_is_refused(path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(HarnessError, match=r"version 3 and this program reads version 2; "):
        Store(path)


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
        ("/work/.harness/store.sqlite", None),
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
