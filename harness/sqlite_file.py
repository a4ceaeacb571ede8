"""SQLite's file format, as far as it takes to find rows in a damaged file.

Nothing here trusts anything: a page may be zero, noise, elsewhere or missing, and so may the log.
Whoever reads decides by the rows' seals what is true. The format: sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
PAGE_SIZES = tuple(2**power for power in range(9, 17))

_TABLE_LEAF, _TABLE_INNER, _INDEX_LEAF, _INDEX_INNER = 0x0D, 0x05, 0x0A, 0x02
_INNER = (_TABLE_INNER, _INDEX_INNER)
_LOG_HEADER, _FRAME_HEADER = 32, 24
_LONGEST_NUMBER = 9
_LONGEST_HEADER = 64
"""Bytes before the columns of a record: of tables with few columns, as ours."""
_WORD = 0xFFFFFFFF
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

Value = str | int | float | bytes | None


# ---------------------------------------------------------------------- the log (WAL)


@dataclass(frozen=True, slots=True)
class Frame:
    """A page in the log, of the file's page `number`; `sound`: its checksum is right.

    `pages` is how many the file has after the transaction that it ends, 0 where it ends none.
    """

    number: int
    pages: int
    sound: bool
    page: bytes


def frames(log: bytes) -> list[Frame]:
    """Return the frames of the last generation in `log`.

    They end with the last sound one that ends a transaction; unsound ones before it are damaged.
    Each is checked by itself, where SQLite reads none behind the first that is not sound.
    """
    size = page_size_of_log(log)
    if size is None:
        return []
    step = _FRAME_HEADER + size
    count = (len(log) - _LOG_HEADER) // step
    starts = [_LOG_HEADER + place * step for place in range(count)]
    salts = log[16:24] if header_is_sound(log) else log[_LOG_HEADER + 8 : _LOG_HEADER + 16]
    found = [_frame(log, start, size, salts) for start in starts]
    last = max((n for n, one in enumerate(found) if one.sound and one.pages), default=-1)
    return found[: last + 1]


def is_broken(log: bytes) -> bool:
    """Return whether `log` holds sound frames behind one, or behind a header, that is not."""
    found = frames(log)
    return bool(found) and not (header_is_sound(log) and all(frame.sound for frame in found))


def page_size_of_log(log: bytes) -> int | None:
    """Return the size of the pages in `log`: as its header says, or 4096; None for no log."""
    if len(log) < _LOG_HEADER + _FRAME_HEADER:
        return None
    size = _u32(log, 8)
    return size if size in PAGE_SIZES else 4096


def header_is_sound(log: bytes) -> bool:
    """Return whether the header of `log` is what SQLite wrote."""
    order = {0x377F0682: "<", 0x377F0683: ">"}.get(_u32(log, 0))
    return order is not None and _checksum(log[:24], 0, 0, order) == _pair(log, 24)


def _frame(log: bytes, start: int, size: int, salts: bytes) -> Frame:
    page = log[start + _FRAME_HEADER : start + _FRAME_HEADER + size]
    sound = log[start + 8 : start + 16] == salts and _frame_is_sound(log, start, page)
    return Frame(_u32(log, start), _u32(log, start + 4), sound, page)


def _frame_is_sound(log: bytes, start: int, page: bytes) -> bool:
    # The checksum goes on from that of the frame before, which stands there.
    before = 24 if start == _LOG_HEADER else start - len(page) - _FRAME_HEADER + 16
    # The lowest bit of the magic number tells the order of bytes; it may be damaged.
    orders = {0x377F0682: "<", 0x377F0683: ">"}
    order = orders.get(_u32(log, 0), "<")
    first, second = _checksum(log[start : start + 8], *_pair(log, before), order)
    return _checksum(page, first, second, order) == _pair(log, start + 16)


def _checksum(data: bytes, first: int, second: int, order: str) -> tuple[int, int]:
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second


def _u32(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")


def _pair(data: bytes, place: int) -> tuple[int, int]:
    return _u32(data, place), _u32(data, place + 4)


# ---------------------------------------------------------------------- pages


@dataclass(frozen=True, slots=True)
class Cell:
    """The beginning of a row: its record as far as it lies on the page, and where it goes on.

    `keyed`: it lies in an index or a table WITHOUT ROWID, and has no row number.
    """

    keyed: bool
    rowid: int
    total: int
    local: bytes
    overflow: int

    @property
    def columns(self) -> int:
        """How many columns the record has; 0 where it is none."""
        return len(_types(self.local))


@dataclass
class Pages:
    """The pages of a database `file` and of the `log` beside it.

    `lacking` is how many bytes the file has too few. They may be missing in its middle: then what
    lies behind the gap is that much too early.
    """

    file: bytes
    log: Sequence[Frame]
    size: int
    usable: int
    lacking: int = 0
    _newest: dict[int, bytes] = field(default_factory=dict)
    _logged: dict[int, list[bytes]] = field(default_factory=dict)
    _sound: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for frame in self.log:
            self._newest[frame.number] = frame.page
            self._logged.setdefault(frame.number, []).append(frame.page)
            if frame.sound:
                self._sound[frame.number] = frame.page

    @property
    def numbers(self) -> list[int]:
        """The numbers of all pages, the last of which may be cut."""
        if self.log:  # it ends with a sound frame that knows how many there are
            return list(range(1, self.log[-1].pages + 1))
        return list(range(1, -(-len(self.file) // self.size) + 1))

    @property
    def beyond(self) -> range:
        """The numbers of the pages that there were, but for the bytes that are lacking."""
        last = len(self.file) + self.lacking if self.lacking < len(self.file) else 0
        return range(max(self.numbers, default=0) + 1, -(-last // self.size) + 1)

    def newest(self, number: int) -> bytes:
        """Return the newest content of a page; empty if there is none."""
        return self._newest.get(number) or self.at(number)

    def older(self, number: int) -> list[bytes]:
        """Return what a page was before and what may be it, without its newest content."""
        logged = self._logged.get(number, [])
        before = self.at(number) if logged else b""
        behind = self.at(number, self.lacking) if self.lacking else b""
        return [page for page in (*logged[-2::-1], before, behind) if page]

    def at(self, number: int, too_early: int = 0) -> bytes:
        """Return what the file itself holds of a page that lies some bytes `too_early`."""
        start = (number - 1) * self.size - too_early
        return self.file[max(start, 0) : max(start + self.size, 0)] if number > 0 else b""

    def records(self, cell: Cell) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield what may be the whole record of `cell`, with the numbers of its further pages."""
        missing = cell.total - len(cell.local)
        if missing <= 0:
            yield cell.local, ()
            return
        for look in self._looks(cell.overflow, missing):
            data, numbers = self._chain(cell.overflow, missing, look)
            if len(data) == missing:
                yield cell.local + data, numbers

    def _looks(self, first: int, missing: int) -> Iterator[Callable[[int], bytes]]:
        """Yield ways to look up a page: the newest, the sound ones, and those behind a gap."""
        yield self.newest
        if self.log:
            yield lambda number: self._sound.get(number) or self.at(number)
        if self.lacking:
            for gap in (0, *self._chain(first, missing, self.newest)[1]):
                yield partial(self._around, gap)

    def _around(self, gap: int, number: int) -> bytes:
        return self._newest.get(number) or self.at(number, self.lacking if number >= gap else 0)

    def _chain(
        self, number: int, missing: int, look: Callable[[int], bytes]
    ) -> tuple[bytes, tuple[int, ...]]:
        """Return what lies on the pages from `number` on, and their numbers; it may end early."""
        parts, numbers = list[bytes](), dict[int, None]()
        while missing > 0 and number not in numbers:
            numbers[number] = None
            page = look(number)
            if len(page) < min(self.usable, missing + 4):
                break
            parts.append(page[4 : min(self.usable, missing + 4)])
            missing -= len(parts[-1])
            number = _u32(page, 0)
        return b"".join(parts), tuple(numbers)


def is_tree(page: bytes, first: bool = False) -> bool:
    """Return whether `page` says that it is one of a table or an index; `first`: page 1."""
    head = HEADER_BYTES if first else 0
    return len(page) > head + 8 and page[head] in (_TABLE_LEAF, _INDEX_LEAF, *_INNER)


def children(page: bytes, first: bool = False) -> list[int]:
    """Return the numbers of the pages below an inner page; none of a leaf."""
    head = HEADER_BYTES if first else 0
    if page[head] not in _INNER:
        return []
    return [*(_u32(page, place) for place in _pointers(page, head)), _u32(page, head + 8)]


def cells(page: bytes, usable: int, first: bool = False) -> list[Cell | None]:
    """Return the rows that `page` says that it holds; None for each that is none."""
    head = HEADER_BYTES if first else 0
    kind = page[head]
    if kind == _TABLE_INNER:
        return []
    return [_cell(page, place, kind, usable) for place in _pointers(page, head)]


def cells_with(page: bytes, usable: int, last: bytes) -> Iterator[Cell]:
    """Yield whatever may be a row on `page` whose columns end with those of the types `last`.

    It is found wherever it lies: the page's own list of its rows may be damaged.
    """
    end = page.find(last)
    while end >= 0:
        stop = end + len(last)
        for record in range(max(0, stop - _LONGEST_HEADER), end):
            if page[record] == stop - record:
                yield from _cells_of(page, record, usable)
        end = page.find(last, end + 1)


def _cells_of(page: bytes, record: int, usable: int) -> Iterator[Cell]:
    """Yield the cells whose record begins at `record`: two numbers stand before it, or one."""
    for place in range(max(0, record - 2 * _LONGEST_NUMBER), record):
        _, second = _varint(page, place)
        kinds = {second: _INDEX_LEAF, _varint(page, second)[1]: _TABLE_LEAF}
        if record in kinds and (found := _cell(page, place, kinds[record], usable)):
            yield found


def _pointers(page: bytes, head: int) -> list[int]:
    start = head + (12 if page[head] in _INNER else 8)
    count = int.from_bytes(page[head + 3 : head + 5], "big")
    end = min(start + 2 * count, len(page) - 1)
    return [
        place for (place,) in struct.iter_unpack(">H", page[start : start + (end - start) // 2 * 2])
    ]


def _cell(page: bytes, place: int, kind: int, usable: int) -> Cell | None:
    keyed = kind != _TABLE_LEAF
    if kind == _INDEX_INNER:
        place += 4
    total, place = _varint(page, place)
    rowid, place = (0, place) if keyed else _varint(page, place)
    local = _local_bytes(total, keyed, usable)
    end = place + local + (4 if local < total else 0)
    if total < 2 or end > len(page):
        return None
    record = page[place : place + local]
    if not _types(record):
        return None
    return Cell(keyed, rowid, total, record, _u32(page, place + local) if local < total else 0)


def _local_bytes(total: int, keyed: bool, usable: int) -> int:
    """Return how many bytes of a record of `total` lie on its own page."""
    most = (usable - 12) * 64 // 255 - 23 if keyed else usable - 35
    least = (usable - 12) * 32 // 255 - 23
    if total <= most:
        return total
    some = least + (total - least) % (usable - 4)
    return some if some <= most else least


def free_pages(pages: Pages) -> set[int]:
    """Return the numbers of the pages that are free, as far as the list of them goes."""
    found: set[int] = set()
    trunk = _u32(pages.newest(1), 32)
    while trunk and trunk not in found and (page := pages.newest(trunk)):
        found.add(trunk)
        count = min(_u32(page, 4), len(page) // 4 - 2)
        found.update(_u32(page, 8 + 4 * place) for place in range(count))
        trunk = _u32(page, 0)
    return found


# ---------------------------------------------------------------------- records


def values(record: bytes) -> tuple[Value, ...] | None:
    """Return the columns of a whole record; None where it is none."""
    types = _types(record)
    place, found = _varint(record, 0)[0], list[Value]()
    for kind in types:
        length = _length(kind)
        content = record[place : place + length]
        place += length
        try:
            found.append(_value(kind, content))
        except UnicodeDecodeError:
            return None
    return tuple(found) if types and place == len(record) else None


def _types(record: bytes) -> list[int]:
    """Return the serial types of the columns; none where this is no record."""
    end, place = _varint(record, 0)
    if not place < end <= min(len(record), _LONGEST_HEADER):
        return []
    types = []
    while place < end:
        kind, place = _varint(record, place)
        if kind in (10, 11):
            return []
        types.append(kind)
    return types if place == end else []


def _length(kind: int) -> int:
    if kind >= 12:
        return (kind - 12) // 2
    return 8 if kind == 7 else _INTEGER_BYTES.get(kind, 0)


def _value(kind: int, content: bytes) -> Value:
    if kind >= 12:
        return content.decode() if kind % 2 else content
    if kind == 7:
        return float(struct.unpack(">d", content.rjust(8, b"\0"))[0])
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(content, "big", signed=True) if kind else None


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place` and where it ends; beyond the end of `data`, (0, its end)."""
    number = 0
    for count in range(9):
        if place + count >= len(data):
            return 0, len(data)
        byte = data[place + count]
        if count == 8:
            number = number << 8 | byte
            return number - (1 << 64 if number >= 1 << 63 else 0), place + 9
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return number, place + count + 1
