"""One file of the recorder: an SQLite database of compressed batches.

Each row of `batch` holds the records of one kind that came between two flushes: a Zstandard frame (with checksum) of
a MessagePack array of pairs `[at_ns, payload]`. Snapshots repeat themselves, so a batch is compressed against an
earlier one of its kind in the same file, `base`, whose first BASE_BYTES are its dictionary.

While the file is written it is in WAL mode and each flush is synced: a kill loses nothing that was flushed, a power
cut no more than the flush under way. Closed, it is a plain file that needs no other one beside it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import zstandard
from msgspec import Struct

Kind = Literal["snapshot", "event", "engine", "step", "stall", "kmsg", "pstore"]
Item = tuple[int, bytes]

FORMAT = "1"
LEVEL = 1
BASE_BYTES = 256 * 1024
REBASE_BATCHES = 128
MAX_BATCH_BYTES = 64 * 2**20
READ_ROWS = 32
# The writer never waits long for a reader: in WAL mode they only meet when the file is closed.
BUSY_S = 1.0
SIDE_FILES = ("-wal", "-shm", "-journal")

_TABLES = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE batch (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, first_ns INTEGER NOT NULL, "
    "last_ns INTEGER NOT NULL, count INTEGER NOT NULL, wall_offset_ns INTEGER NOT NULL, base INTEGER, "
    "body BLOB NOT NULL)",
)
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=256",
    "PRAGMA cache_size=-256",
    "PRAGMA temp_store=MEMORY",
)
_INSERT = "INSERT INTO batch VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
_PAGE = (
    "SELECT id, kind, wall_offset_ns, base, body FROM batch "
    "WHERE id > ? AND last_ns >= ? AND first_ns <= ? ORDER BY id LIMIT ?"
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[int, bytes]])


class DamagedError(Exception):
    """A file or a batch that is not as it was written; the message says how."""


class _Base(Struct):
    """What later batches of a kind are compressed against."""

    row: int
    plain_bytes: int
    compressor: zstandard.ZstdCompressor
    batches: int = 0


class SegmentWriter:
    """Writes one new file. One thread at a time. Raises sqlite3.Error and OSError as the disk does."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._bases: dict[str, _Base] = {}
        self._first = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                self._database.execute(pragma)
            self._database.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                self._database.execute(table)
            self._tell({"format": FORMAT, **about})
            self._database.execute("COMMIT")
        except BaseException:
            self._database.close()
            raise

    def write(self, batches: Mapping[str, Sequence[Item]], wall_offset_ns: int) -> int:
        """One flush, all or nothing; the bytes that it takes. `wall_offset_ns` is that of now."""
        rows, bases = [], {}
        for kind, items in batches.items():
            plain = _encoder.encode(items)
            base = self._base_for(kind, len(plain))
            compressor = self._first if base is None else base.compressor
            times = [at_ns for at_ns, _ in items]
            body = compressor.compress(plain)
            row = None if base is None else base.row
            rows.append((kind, min(times), max(times), len(items), wall_offset_ns, row, body))
            if base is None:
                bases[len(rows) - 1] = (kind, plain)
        self._insert(rows, bases)
        return sum(len(row[-1]) for row in rows)

    def _base_for(self, kind: str, plain_bytes: int) -> _Base | None:
        base = self._bases.get(kind)
        if base is None or base.batches >= REBASE_BATCHES or min(plain_bytes, BASE_BYTES) > 4 * base.plain_bytes:
            return None
        base.batches += 1
        return base

    def _insert(self, rows: Sequence[tuple[object, ...]], bases: Mapping[int, tuple[str, bytes]]) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            numbers = [database.execute(_INSERT, row).lastrowid for row in rows]
            database.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        for index, (kind, plain) in bases.items():
            self._bases[kind] = _make_base(numbers[index] or 0, plain)

    def _roll_back(self) -> None:
        # Some errors have rolled back already; a disk that refuses both leaves it to whoever opens the file next.
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        except sqlite3.Error:
            pass

    def _tell(self, about: Mapping[str, str]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def close(self, **about: str) -> None:
        """Adds `about`, and leaves one file that can be read from a medium that is read-only."""
        try:
            if about:
                self._tell(about)
            self._database.execute("PRAGMA journal_mode=DELETE")
        finally:
            self._database.close()


def _make_base(row: int, plain: bytes) -> _Base:
    dictionary = _dictionary(plain)
    dictionary.precompute_compress(level=LEVEL)
    compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary, write_checksum=True)
    return _Base(row, min(len(plain), BASE_BYTES), compressor)


def _dictionary(plain: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(plain[:BASE_BYTES], dict_type=zstandard.DICT_TYPE_RAWCONTENT)


class SegmentReader:
    """Reads one file, also while it is written. Raises DamagedError where it is none of ours or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged_batches = 0
        self._bases: dict[int, bytes] = {}
        try:
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=BUSY_S, uri=True)
        except sqlite3.Error as error:
            raise DamagedError(f"{path.name}: {error}") from None
        try:
            self.about = dict(self._database.execute("SELECT key, value FROM about"))
        except sqlite3.Error as error:
            self._database.close()
            raise DamagedError(f"{path.name}: {error}") from None
        if self.about.get("format") != FORMAT:
            self._database.close()
            raise DamagedError(f"{path.name}: format {self.about.get('format', 'unknown')!r} is not {FORMAT!r}")

    def batches(self, start_ns: int, end_ns: int) -> Iterator[tuple[str, int, list[Item]]]:
        """(kind, wall_offset_ns, items) of the batches that touch the time from `start_ns` to `end_ns`, as flushed.

        In short queries, for a long one would keep the writer's log from being emptied. Batches that cannot be
        read are passed over and counted.
        """
        last = 0
        try:
            while rows := self._database.execute(_PAGE, (last, start_ns, end_ns, READ_ROWS)).fetchall():
                for last, kind, wall_offset_ns, base, body in rows:  # noqa: B007 - the page's last is where to go on
                    items = self._items(base, body)
                    if items is None:
                        self.damaged_batches += 1
                    else:
                        yield kind, wall_offset_ns, items
        except sqlite3.Error as error:
            raise DamagedError(f"{self.path.name}: {error}") from None

    def last_ns(self) -> int:
        """When the youngest record was made, 0 when there is none."""
        return self._number("SELECT max(last_ns) FROM batch")

    def last_wall_offset_ns(self) -> int:
        """What led from the boot's clock to Unix time at the last flush, 0 when there was none."""
        return self._number("SELECT wall_offset_ns FROM batch ORDER BY id DESC LIMIT 1")

    def _number(self, query: str) -> int:
        try:
            found = self._database.execute(query).fetchone()
            return int(found[0] or 0) if found else 0
        except (sqlite3.Error, ValueError) as error:
            raise DamagedError(f"{self.path.name}: {error}") from None

    def _items(self, base: int | None, body: bytes) -> list[Item] | None:
        try:
            return _decoder.decode(self._plain(base, body))
        except (msgspec.DecodeError, zstandard.ZstdError, DamagedError, TypeError):
            return None

    def _plain(self, base: int | None, body: bytes) -> bytes:
        if not 0 <= zstandard.frame_content_size(body) <= MAX_BATCH_BYTES:
            raise DamagedError("a batch of impossible size")
        if base is None:
            return zstandard.ZstdDecompressor().decompress(body)
        return zstandard.ZstdDecompressor(dict_data=_dictionary(self._base(base))).decompress(body)

    def _base(self, row: int) -> bytes:
        if row not in self._bases:
            found = self._database.execute("SELECT body FROM batch WHERE id = ? AND base IS NULL", (row,)).fetchone()
            if found is None:
                raise DamagedError("a batch without its base")
            if len(self._bases) >= 8:
                self._bases.pop(next(iter(self._bases)))
            self._bases[row] = self._plain(None, found[0])[:BASE_BYTES]
        return self._bases[row]

    def close(self) -> None:
        self._database.close()


def mend(path: Path) -> str:
    """Takes in what a dead writer left beside its file, and checks it; "" or what is wrong with it."""
    try:
        database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            verdict = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            database.execute("PRAGMA journal_mode=DELETE")
        finally:
            database.close()
    except sqlite3.Error as error:
        return str(error)
    return "" if verdict == "ok" else verdict


def size_of(path: Path) -> int:
    """Bytes of a file and of those that SQLite keeps beside it; 0 when it is gone."""
    total = 0
    for each in (path, *(path.with_name(path.name + suffix) for suffix in SIDE_FILES)):
        try:
            total += each.stat().st_size
        except FileNotFoundError:
            continue
    return total


def written_wall_ns(path: Path) -> int:
    """When it was written last: what a dead writer left beside a file is younger than the file."""
    found = path.stat().st_mtime_ns
    for each in (path.with_name(path.name + suffix) for suffix in SIDE_FILES):
        try:
            found = max(found, each.stat().st_mtime_ns)
        except FileNotFoundError:
            continue
    return found


def remove(path: Path) -> None:
    """The file and those beside it; no error when they are gone."""
    for each in (path, *(path.with_name(path.name + suffix) for suffix in SIDE_FILES)):
        each.unlink(missing_ok=True)
