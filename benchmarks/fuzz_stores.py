"""Damaged stores: no readable row lost, no wrong row served, no traceback, no silent loss.

    python benchmarks/fuzz_stores.py [--stores 200]

A store is damaged in one of ten ways, drawn from a seed, opened, read and written to. A row counts
as readable if every page that it lies on is still there, byte for byte: for any of the
transactions that the file and its log (WAL) hold, as far as they are known to be finished. Which
pages a row lies on is asked of the undamaged store, of SQLite's own `dbstat`. A silent loss is a
lost reply that neither an alarm nor a loss to be accepted tells; a transaction at the end of the
log whose last page is damaged was, as far as anybody can know, never finished.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from harness.records import Arm, Calibration, ModelSpec, Recorded, Reply, Role, Vote
from harness.store import Asked, Store, StoredCall

STORES = 200
PAGE, HEAD = 4096, 24
REPLIES, COMMITS, EACH = 240, 10, 12
KEYS = [f"{number:064x}" for number in range(REPLIES + COMMITS * EACH)]
Row = tuple[str, str]
"""A table and a text that only this row of it holds."""

KEYS_OF = {
    "replies": ("label", "rowid"),
    "runs": ("id", "rowid"),
    "run_replies": ("case_id", "run, model, suite, case_id, trial"),
    "promotions": ("model", "number"),
    "cases": ("digest", "rowid"),
    "votes": ("pair", "number"),
    "blinding": ("secret", "number"),
    "calibrations": ("key", "rowid"),
    "refusals": ("place", "rowid"),
}
"""Table -> its column with that text, and the order of its rows in the file."""


# ---------------------------------------------------------------------- an undamaged store


@dataclass(frozen=True)
class Commit:
    """What the store holds after a transaction: on which pages (leaf first) each row lies."""

    frames: int
    rows: Mapping[Row, tuple[int, ...]]


@dataclass(frozen=True)
class Pristine:
    """A store's file and log, its transactions and what it serves."""

    file: bytes
    log: bytes
    commits: tuple[Commit, ...]
    served: Mapping[Row, Any]


@cache
def pristine(*, with_log: bool) -> Pristine:
    """Return a store that was closed, or one whose last transactions are in its log."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        with closing(Store(path)) as store:
            _fill(store)
        commits = [_commit(path)]
        if not with_log:
            return Pristine(path.read_bytes(), b"", tuple(commits), _served(path))
        file = path.read_bytes()
        with closing(Store(path)) as store:
            for number in range(COMMITS):
                _add(store, number)
                commits.append(_commit(path))
            log = path.with_name("store.sqlite-wal").read_bytes()
        return Pristine(file, log, tuple(commits), _served(path))


def _fill(store: Store) -> None:
    spec = ModelSpec("base", "openai", "x")
    arms = (Arm("base", Role.BASELINE, spec), Arm("cand", Role.CANDIDATE, spec))
    store.put_replies(*_replies(range(REPLIES)))
    for number in range(3):
        said = {
            arm.name: [
                Recorded(f"case-{number}-{arm.name}-{n:03}", "d" * 64, _reply(n), "demo")
                for n in range(40)
            ]
            for arm in arms
        }
        cases = [{"id": f"c{n}", "text": "x" * 90} for n in range(20 * number)]
        run = {"run_id": f"run-{number}", "started": f"2026-11-0{number + 1}", "cases": cases}
        asked = {f"{number}-{n:062}": Asked(f"is it {n}? " * n, "yes") for n in range(30)}
        store.add_run(run, arms, said, asked)
    for name in ("first", "second"):
        store.promote("run-1", f"promoted-{name}")
    store.put_votes([Vote(f"pair-{n:03}", "anna", "x", "y", "left") for n in range(60)])
    calibration = Calibration("j", "c", 20, 0, 0.5, (0.1, 0.9), 0.0, (0.0, 0.0), ())
    for n in range(3):
        store.put_calibration(f"{n}" * 64, calibration)
    store.put_refusals({(f"https://place-{n}", "m"): {"omit": ["seed"]} for n in range(3)})
    store.blinding()


def _add(store: Store, number: int) -> None:
    first = REPLIES + number * EACH
    store.put_replies(*_replies(range(first, first + EACH)))
    if number % 3 == 0:
        store.put_votes([Vote(f"late-{number}-{n}", "bo", "x", "y", "tie") for n in range(5)])


def _replies(numbers: range) -> tuple[dict[str, Reply], dict[str, StoredCall]]:
    calls = {
        KEYS[n]: StoredCall(f"demo:label-{n:04}", {"message 1": f"is it {n}"}, "openai:x")
        for n in numbers
    }
    return {KEYS[n]: _reply(n) for n in numbers}, calls


def _reply(number: int) -> Reply:
    """A reply; every fifth does not fit on a page."""
    words = 900 if number % 5 == 0 else 5 + number % 60
    return Reply(text=f"answer {number} " * words, prompt_tokens=number, finish_reason="stop")


def _served(path: Path) -> dict[Row, Any]:
    with closing(Store(path)) as store:
        return dict(_everything(store))


def _everything(store: Store) -> Iterator[tuple[Row, Any]]:
    labels = dict(zip(KEYS, (f"demo:label-{n:04}" for n in range(len(KEYS))), strict=True))
    for key, reply in store.replies(KEYS).items():
        yield ("replies", labels[key]), reply
    for run in store.run_ids():
        yield ("runs", run), store.summary(run)
    for number in range(3):
        for model in ("base", "cand"):
            for said in store.run_replies(f"run-{number}", model):
                yield ("run_replies", said.id), said
    for digest, asked in store.asked().items():
        yield ("cases", digest), asked
    for vote in store.votes():
        yield ("votes", vote.pair), vote
    if champion := store.champion():
        yield ("promotions", champion.model), champion
    for n in range(3):
        if calibration := store.calibration(f"{n}" * 64):
            yield ("calibrations", f"{n}" * 64), calibration
    for (place, _), refused in store.refusals().items():
        yield ("refusals", place), refused
    yield ("blinding", store.blinding()), ""


def _commit(path: Path) -> Commit:
    log = path.with_name(f"{path.name}-wal")
    content = log.read_bytes() if log.exists() else b""
    frames = max(0, len(content) - 32) // (HEAD + PAGE)
    places = _places(content, frames)
    file = path.read_bytes()

    def page(number: int) -> bytes:
        if (start := places.get(number)) is not None:
            return content[start : start + PAGE]
        return file[(number - 1) * PAGE : number * PAGE]

    with closing(sqlite3.connect(path)) as connection:
        rows = {
            (table, text): pages
            for table in KEYS_OF
            for text, pages in _pages(connection, table, page)
        }
    return Commit(frames, rows)


def _places(log: bytes, frames: int) -> dict[int, int]:
    """Page number -> where its newest content begins in the log."""
    starts = [32 + place * (HEAD + PAGE) for place in range(frames)]
    return {int.from_bytes(log[start : start + 4], "big"): start + HEAD for start in starts}


def _pages(
    connection: sqlite3.Connection, table: str, page: Callable[[int], bytes]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each row of `table` with the pages that it lies on, its own first."""
    column, order = KEYS_OF[table]
    rows = connection.execute(f"SELECT {column} FROM {table} ORDER BY {order}")
    texts = [text for (text,) in rows]
    found = connection.execute("SELECT path, pageno, pagetype FROM dbstat WHERE name = ?", (table,))
    pages = {path: (number, kind) for path, number, kind in found}
    for path, (number, kind) in pages.items():
        if kind == "overflow" or (kind == "internal" and table != "run_replies"):
            continue
        content = page(number)
        for cell, text in enumerate(text for text in texts if text.encode() in content):
            chain = sorted(name for name in pages if name.startswith(f"{path}{cell:03x}+"))
            yield text, (number, *(pages[name][0] for name in chain))


# ---------------------------------------------------------------------- damage


@dataclass
class Damaged:
    """A store's file, log and index (-shm) with damage; `removed`: bytes cut out of the file."""

    file: bytearray
    log: bytearray
    shm: bytes = b""
    removed: int = 0


def cut(damaged: Damaged, draw: random.Random) -> None:
    """The end of the file is missing."""
    del damaged.file[draw.randrange(len(damaged.file) // 10, len(damaged.file)) :]


def header_bits(damaged: Damaged, draw: random.Random) -> None:
    """Bits of the header are flipped."""
    _flip(damaged.file, draw, 0, 100, draw.randint(1, 8))


def first_page_zeroed(damaged: Damaged, draw: random.Random) -> None:
    """The first page is zero."""
    damaged.file[:PAGE] = bytes(PAGE)


def noise(damaged: Damaged, draw: random.Random) -> None:
    """Parts of pages, or whole ones, are noise."""
    for _ in range(draw.randint(1, 3)):
        length = draw.choice([16, 512, PAGE])
        start = (
            draw.randrange(len(damaged.file) // 512) * 512
            if length < PAGE
            else _page(damaged, draw)
        )
        damaged.file[start : start + length] = draw.randbytes(length)


def swapped(damaged: Damaged, draw: random.Random) -> None:
    """Two pages are in each other's place."""
    one, other = _page(damaged, draw), _page(damaged, draw)
    first, second = damaged.file[one : one + PAGE], damaged.file[other : other + PAGE]
    damaged.file[one : one + PAGE], damaged.file[other : other + PAGE] = second, first


def hole(damaged: Damaged, draw: random.Random) -> None:
    """Pages or bytes in the middle are missing, or zero."""
    start = _page(damaged, draw)
    if draw.random() < 0.3:
        damaged.file[start : start + PAGE] = bytes(PAGE)
        return
    damaged.removed = draw.choice([PAGE, PAGE, 3 * PAGE, draw.randint(1, 3 * PAGE)])
    del damaged.file[start : start + damaged.removed]


def log_cut(damaged: Damaged, draw: random.Random) -> None:
    """The end of the log is missing, and its index is missing or wrong."""
    del damaged.log[draw.randrange(len(damaged.log)) :]
    damaged.shm = draw.choice([b"", draw.randbytes(32768), bytes(32768)])


def log_flipped(damaged: Damaged, draw: random.Random) -> None:
    """Bits of the log are flipped."""
    _flip(damaged.log, draw, 0, draw.choice([32, len(damaged.log)]), draw.randint(1, 20))
    damaged.shm = draw.choice([b"", draw.randbytes(32768)])


def bytes_of_rows(damaged: Damaged, draw: random.Random) -> None:
    """Single bytes are changed anywhere behind the first page."""
    for _ in range(draw.randint(1, 30)):
        at = draw.randrange(PAGE, len(damaged.file))
        damaged.file[at] = draw.choice([draw.randrange(256), *b"0123456789 etaoin"])


def size_fields(damaged: Damaged, draw: random.Random) -> None:
    """The header says another size, number of pages or list of free ones."""
    at, length = draw.choice([(16, 2), (28, 4), (28, 4), (20, 1), (92, 4), (32, 4), (36, 4)])
    some = [draw.randrange(256**length), draw.randrange(300), 0, 2 * PAGE, 512]
    damaged.file[at : at + length] = (draw.choice(some) % 256**length).to_bytes(length, "big")


KINDS: tuple[Callable[[Damaged, random.Random], None], ...] = (
    cut,
    header_bits,
    first_page_zeroed,
    noise,
    swapped,
    hole,
    log_cut,
    log_flipped,
    bytes_of_rows,
    size_fields,
)


def _flip(data: bytearray, draw: random.Random, low: int, high: int, count: int) -> None:
    for _ in range(count):
        data[draw.randrange(low, high)] ^= 1 << draw.randrange(8)


def _page(damaged: Damaged, draw: random.Random) -> int:
    return draw.randrange(1, len(damaged.file) // PAGE) * PAGE


# ---------------------------------------------------------------------- what can be read


def readable(before: Pristine, after: Damaged) -> set[Row]:
    """Return the rows whose pages are all there, in any transaction that is known to be over."""
    over = [commit for commit in before.commits if _is_over(before, after, commit)]
    known = {
        row
        for commit in over
        for row, pages in commit.rows.items()
        if _is_there(before, after, commit, pages)
    }
    newest = over[-1].rows if over else {}
    # A vote may have been taken back since.
    return {row for row in known if row[0] != "votes" or row in newest}


def _is_over(before: Pristine, after: Damaged, commit: Commit) -> bool:
    """Return whether the last page of a transaction in the log, or of a later one, is whole."""
    ends = [one.frames for one in before.commits if one.frames >= commit.frames]
    return not commit.frames or any(_frame(before.log, n) == _frame(after.log, n) for n in ends)


def _frame(log: bytes | bytearray, number: int) -> bytes:
    start = 32 + (number - 1) * (HEAD + PAGE)
    return bytes(log[start : start + HEAD + PAGE])


def _is_there(before: Pristine, after: Damaged, commit: Commit, pages: tuple[int, ...]) -> bool:
    places = _places(before.log, commit.frames)
    return all(
        _page_is_there(before, after, number, places.get(number), leaf=not place)
        for place, number in enumerate(pages)
    )


def _page_is_there(
    before: Pristine, after: Damaged, number: int, place: int | None, *, leaf: bool
) -> bool:
    if place is not None:
        start, end = place - HEAD, place + PAGE
        return before.log[start:end] == after.log[start:end]
    start = (number - 1) * PAGE
    page = before.file[start : start + PAGE]
    if page in (after.file[start : start + PAGE], _at(after, start - after.removed)):
        return True
    return leaf and any(page == _at(after, n) for n in range(0, len(after.file), PAGE))


def _at(after: Damaged, start: int) -> bytes:
    return bytes(after.file[start : start + PAGE]) if start >= 0 else b""


# ---------------------------------------------------------------------- the check


@dataclass
class Outcome:
    """What became of one store: counts, and sentences on what is wrong."""

    kind: str
    readable: int = 0
    served: int = 0
    lossless: int = 0
    faults: list[str] = field(default_factory=list)


def examine(seed: int, folder: Path) -> Outcome:
    """Damage a store, use it, and return what became of it."""
    draw = random.Random(seed)
    damage = KINDS[seed % len(KINDS)]
    in_log = damage in (log_cut, log_flipped)
    before = pristine(with_log=in_log or draw.random() < 0.4)
    after = Damaged(bytearray(before.file), bytearray(before.log))
    damage(after, draw)
    outcome = Outcome(damage.__name__)
    path = folder / f"{seed}" / "store.sqlite"
    path.parent.mkdir()
    for end, content in (("", after.file), ("-wal", after.log), ("-shm", after.shm)):
        if content or not end:
            path.with_name(path.name + end).write_bytes(content)
    try:
        with patch("harness.progress.say"):
            _use(path, before, readable(before, after), outcome)
    except Exception:
        outcome.faults.append(f"traceback: {traceback.format_exc()}")
    shutil.rmtree(path.parent)
    return outcome


def _use(path: Path, before: Pristine, whole: set[Row], outcome: Outcome) -> None:
    with closing(Store(path)) as store:
        found = dict(_everything(store))
        # Of two promotions only the last is served.
        expected = {row for row in whole if row in before.served}
        lost = expected - found.keys()
        wrong = [row for row, value in found.items() if _is_wrong(before, row, value)]
        missing = [row for row in before.served if row[0] == "replies" and row not in found]
        told = store.alarms or store.losses()
        new = {"n" * 64: Reply(text="new")}
        store.put_replies(new)
        if store.replies(new) != new:
            outcome.faults.append("what is written is not read")
    outcome.readable, outcome.served = len(expected), len(found)
    outcome.lossless = not missing
    outcome.faults += [f"lost: {sorted(lost)[:5]} and more: {len(lost)}"] if lost else []
    outcome.faults += [f"wrong: {wrong[:5]}"] if wrong else []
    if missing and not told and not outcome.kind.startswith("log_"):
        outcome.faults.append(f"silent loss of {len(missing)} replies")
    with closing(Store(path)) as store:
        gone = (whole & found.keys()) - dict(_everything(store)).keys()
        if store.rescued or gone:
            outcome.faults.append(f"damaged again, without {sorted(gone)[:5]}: {store.rescued}")
    if left := [one.name for one in path.parent.iterdir() if "resc" in one.name]:
        outcome.faults.append(f"left over: {left}")


def _is_wrong(before: Pristine, row: Row, value: Any) -> bool:
    if row[0] in ("blinding", "promotions"):
        return False  # a new secret; an earlier champion, where the last is lost
    return bool(before.served.get(row) != value)


def main() -> int:
    """Print a table by kind of damage; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", type=int, default=STORES)
    count = parser.parse_args().stores
    with TemporaryDirectory() as folder:
        outcomes = [examine(seed, Path(folder)) for seed in range(count)]
    print(f"{'damage':20} stores  readable rows  served rows  without loss")
    for kind in (one.__name__ for one in KINDS):
        mine = [one for one in outcomes if one.kind == kind]
        sums = Counter[str]()
        for one in mine:
            sums.update(readable=one.readable, served=one.served, lossless=one.lossless)
        print(
            f"{kind:20} {len(mine):6} {sums['readable']:14,} {sums['served']:12,} "
            f"{sums['lossless']:13}"
        )
    faults = [(seed, told) for seed, one in enumerate(outcomes) for told in one.faults]
    for seed, told in faults:
        print(f"store {seed} ({outcomes[seed].kind}): {told}")
    print(f"{count} stores, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
