from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import EvidenceError, HarnessError, Reply
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


def test_runs_are_listed_from_the_oldest(store: Store) -> None:
    store.add_run("later", "2026-11-02T00:00:00+00:00", '{"b": 2}')
    store.add_run("first", "2026-11-01T00:00:00+00:00", '{"a": 1}')
    assert store.runs() == [
        ("first", "2026-11-01T00:00:00+00:00", '{"a": 1}'),
        ("later", "2026-11-02T00:00:00+00:00", '{"b": 2}'),
    ]


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
    with pytest.raises(HarnessError, match=r"version 2 and this program reads version 1; "):
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
from harness.records import Reply
from harness.store import Store

for number in range(50):
    store = Store(Path(sys.argv[1])) if number % 10 == 0 else store
    assert len(store.replies([f"{sys.argv[2]}-{n}" for n in range(number)])) == number
    store.put_replies({f"{sys.argv[2]}-{number}": Reply(text="x" * 200)})
    store.add_run(f"{sys.argv[2]}-{number}", "now", "{}")
"""


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    store = Store(path)
    assert len(store.replies(f"{name}-{n}" for name in "abcd" for n in range(50))) == 200
    assert len(store.runs()) == 200
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
