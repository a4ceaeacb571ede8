"""A tenth of `benchmarks/fuzz_stores.py`, and the kinds of damage one by one."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from fuzz_stores import KINDS, PAGE, examine

from harness import salvage
from harness.records import Reply, Vote
from harness.store import Store

pytestmark = pytest.mark.skipif(
    ("dbstat",) not in sqlite3.connect(":memory:").execute("PRAGMA module_list").fetchall(),
    reason="this SQLite cannot tell on which pages a row lies",
)


@pytest.mark.parametrize("seed", range(1_000, 1_020))
def test_a_damaged_store_serves_every_readable_row_and_no_wrong_one(
    seed: int, tmp_path: Path
) -> None:
    outcome = examine(seed, tmp_path)
    assert outcome.kind == KINDS[seed % 10].__name__
    assert outcome.faults == []
    assert outcome.served >= outcome.readable > 0


# ---------------------------------------------------------------------- by hand


KEYS = [f"{number:064x}" for number in range(300)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@cache
def replies() -> dict[str, Reply]:
    return {
        key: Reply(text=f"{key[-3:]} " * (1 + 900 * (n % 7 == 0))) for n, key in enumerate(KEYS)
    }


def stored(path: Path) -> bytearray:
    with closing(Store(path)) as store:
        store.put_replies(replies())
    return bytearray(path.read_bytes())


def check(path: Path, *, whole: bool) -> Store:
    """Open the store, which serves all replies, or nearly all, and nothing else."""
    with closing(Store(path)) as store:
        found = store.replies(KEYS)
        assert found.items() <= replies().items()
        assert (found == replies()) == whole
        store.put_votes([Vote("p", "anna", "x", "y", "left")])
        assert bool(store.rescued)
        assert (bool(store.alarms), bool(store.losses())) == (not whole, not whole)
    return store


@pytest.mark.parametrize(
    ("at", "to"),
    [
        (slice(0, PAGE), bytes(PAGE)),
        (slice(0, 100), bytes(100)),
        (slice(0, 16), b"SQLite format 4\0"),
        (slice(16, 18), b"\x02\x00"),  # pages of 512 bytes
        (slice(18, 19), b"\x12"),  # written in a way that nobody knows
        (slice(20, 21), b"\x40"),  # 64 bytes of every page are not used
        (slice(28, 32), b"\x00\x00\x00\x03"),  # three pages
        (slice(44, 48), b"\x00\x00\x00\x09"),
        (slice(56, 60), b"\x00\x00\x00\x02"),  # UTF-16
        (slice(60, 64), b"\x00\x00\x00\x63"),  # version 99
        (slice(100, 101), b"\x00"),
    ],
    ids=str,
)
def test_what_the_first_page_says_costs_nothing(path: Path, at: slice, to: bytes) -> None:
    data = stored(path)
    data[at] = to
    path.write_bytes(data)
    check(path, whole=True)


def test_a_list_of_free_pages_that_names_a_page_with_replies_never_overwrites_it(
    path: Path,
) -> None:
    data = stored(path)
    used = data.index(f"{'0' * 61}123".encode()) // PAGE + 1
    data[32:40] = used.to_bytes(4, "big") + (1).to_bytes(4, "big")
    path.write_bytes(data)
    with closing(Store(path)) as store:
        store.put_replies({"n" * 64: Reply(text="new " * 5_000)})
        assert store.replies(KEYS) == replies()


def test_an_index_that_hides_a_reply_is_not_believed(path: Path) -> None:
    """SQLite finds nothing and says nothing."""
    data = stored(path)
    places = [place for place in range(len(data)) if data.startswith(KEYS[150].encode(), place)]
    in_index = next(p for p in places if data[p // PAGE * PAGE] == 0x0A)
    data[in_index : in_index + 64] = b"f" * 64
    path.write_bytes(data)
    check(path, whole=True)


def test_a_missing_page_in_the_middle_costs_what_was_on_it(path: Path) -> None:
    data = stored(path)
    place = data.index(b'"text": "097 ') // PAGE * PAGE
    del data[place : place + PAGE]
    path.write_bytes(data)
    with closing(check(path, whole=False)):
        pass
    with closing(Store(path)) as store:
        assert len(store.replies(KEYS)) > 270
        assert store.losses()
        store.accept_losses()
    with closing(Store(path)) as store:
        assert store.losses() == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a killed process left it: what it holds is in its log."""
    folder = tmp_path_factory.mktemp("killed")
    store = Store(folder / "alive.sqlite")
    for start in range(0, len(KEYS), 10):
        store.put_replies({key: replies()[key] for key in KEYS[start : start + 10]})
    for end in ("", "-wal"):
        (folder / f"store.sqlite{end}").write_bytes((folder / f"alive.sqlite{end}").read_bytes())
    store.close()
    return folder


@pytest.fixture
def left(killed: Path, tmp_path: Path) -> Path:
    """A copy of the folder with that store."""
    shutil.copytree(killed, tmp_path / "left", ignore=lambda *_: ["alive.sqlite"])
    return tmp_path / "left"


@pytest.mark.parametrize("at", [0, 17, 24, 40, 60, 2_000, 32 + 7 * (24 + PAGE) + 20])
def test_what_is_behind_a_damaged_page_of_the_log_is_not_thrown_away(left: Path, at: int) -> None:
    """SQLite would take it for a transaction that nobody finished, and say nothing."""
    log = bytearray((left / "store.sqlite-wal").read_bytes())
    log[at] ^= 0x10
    (left / "store.sqlite-wal").write_bytes(log)
    with closing(Store(left / "store.sqlite")) as store:
        found = store.replies(KEYS)
        assert found.items() <= replies().items()
        assert len(found) >= len(KEYS) - 12
        assert store.rescued
        assert store.alarms or found == replies()


def test_an_emptied_file_is_read_from_its_log(left: Path) -> None:
    """SQLite would throw the log away."""
    (left / "store.sqlite").write_bytes(b"")
    with closing(Store(left / "store.sqlite")) as store:
        assert store.replies(KEYS) == replies()
        assert store.rescued


@pytest.mark.parametrize("shm", [b"", bytes(32768), b"\x55" * 32768])
def test_a_wrong_index_of_the_log_costs_nothing(left: Path, shm: bytes) -> None:
    (left / "store.sqlite-shm").write_bytes(shm)
    with closing(Store(left / "store.sqlite")) as store:
        assert store.replies(KEYS) == replies()
        assert (store.rescued, store.notes, store.alarms) == ("", [], [])


# ---------------------------------------------------------------------- several processes


def test_a_store_that_was_set_aside_is_written_to_no_more(path: Path) -> None:
    stored(path)
    with closing(Store(path)) as one, closing(Store(path)) as other:
        one.replies(KEYS[:1])
        salvage.move(path, path.with_name("aside"))
        with closing(Store(path)) as fresh:
            other.put_replies({"a": Reply(text="x")})
            assert fresh.replies(["a"]) == {"a": Reply(text="x")}
            one.put_votes([])
            assert one.replies(["a", KEYS[0]]) == {"a": Reply(text="x")}
    with closing(Store(path)) as store:
        assert store.replies(["a"]) == {"a": Reply(text="x")}


@pytest.mark.parametrize("moment", ["half made", "ready", "file moved", "done"])
def test_a_killed_rescue_is_done_again_and_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    data = stored(path)
    place = data.index(b'"text": "097 ') // PAGE * PAGE
    data[place : place + PAGE] = b"\x55" * PAGE
    path.write_bytes(data)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def moved(path: Path, to: Path) -> None:
        path.replace(to)
        raise KeyboardInterrupt

    where, what = {
        "half made": ("harness.salvage._count", killed),
        "ready": ("harness.salvage.move", killed),
        "file moved": ("harness.salvage.move", moved),
        "done": ("harness.store.Store._known", killed),
    }[moment]
    store = Store(path)
    with monkeypatch.context() as patch:
        patch.setattr(where, what)
        if moment == "half made":  # a killed process does not clear up
            patch.setattr("harness.salvage.remove", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            store.replies(KEYS)
    store.close()
    with closing(Store(path)) as store:
        found = store.replies(KEYS)
        assert 270 < len(found) < len(KEYS)
        assert found.items() <= replies().items()
        assert len(store.losses()) == 1
    left = {one.name for one in path.parent.iterdir()}
    assert {name for name in left if "damaged" not in name} == {"store.sqlite", "store.sqlite.lock"}
    assert len([name for name in left if name.endswith(tuple("0123456789"))]) == 1
