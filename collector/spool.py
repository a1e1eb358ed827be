"""Events on disk until NATS has acknowledged them.

A directory holds segments, a cursor and a lock. Records are numbered from 1 without gaps.

    00000000000000000001.seg    MAGIC, then records; the name is the number of its first record
    cursor                      number of the last acknowledged record (u64) and its CRC-32 (u32), little endian
    lock                        held while an agent uses the directory

    record = length of body (u32) · CRC-32 of body (u32) · body (MessagePack array of `Record`)

A process that is killed loses nothing that `append` returned for: the page cache outlives it. Segments
are synced to the medium when they are full and on close, so a power cut can cost the newest segment.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections import deque
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from .state_lock import StateLock

MAGIC = b"EESPOOL1"
MAX_BODY_BYTES = 8 * 2**20

_HEAD = struct.Struct("<II")
_CURSOR = struct.Struct("<QI")
_NAME = re.compile(r"(\d{20})\.seg")
_CHUNK_BYTES = 256 * 1024


class Record(Struct, frozen=True, array_like=True):
    """A message that must arrive: `id` deduplicates it, `payload` is encoded as `content_type` says."""

    id: str
    subject: str
    content_type: str
    payload: bytes


class _DamagedError(Exception):
    pass


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


class _Segment:
    """Records `first` to `last` in `size_bytes` of a file; `last` is `first - 1` when there is none."""

    def __init__(self, path: Path, first: int, last: int, size_bytes: int) -> None:
        self.path = path
        self.first = first
        self.last = last
        self.size_bytes = size_bytes


class _Reader:
    """Walks one segment; a segment that grows can be walked further."""

    def __init__(self, segment: _Segment) -> None:
        self.segment = segment
        self.number = segment.first - 1
        self.end_bytes = 0
        self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._chunk = b""
        self._chunk_start_bytes = 0
        if self._take(len(MAGIC)) != MAGIC:
            self.close()
            raise _DamagedError

    def next(self) -> bytes:
        """The next record's body. Raises _DamagedError where the file does not hold a whole one."""
        length, checksum = _HEAD.unpack(self._take(_HEAD.size))
        if length > MAX_BODY_BYTES:
            raise _DamagedError
        body = self._take(length)
        if crc32(body) != checksum:
            raise _DamagedError
        self.number += 1
        return body

    def _take(self, size: int) -> bytes:
        start = self.end_bytes - self._chunk_start_bytes
        if start + size > len(self._chunk):
            self._chunk = os.pread(self._fd, max(size, _CHUNK_BYTES), self.end_bytes)
            self._chunk_start_bytes, start = self.end_bytes, 0
        if start + size > len(self._chunk):
            raise _DamagedError
        self.end_bytes += size
        return self._chunk[start : start + size]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Spool:
    """The queue on disk. Not thread-safe: one thread at a time.

    Raises UsageError when another agent holds `directory`; any method raises OSError when the disk refuses,
    and what was there before the call is still there after it.

    Counters since the start: `torn` (an append that a crash cut), `damaged` (records that were there and cannot
    be read any more). `dropped_through` is the number of the last record that was dropped to keep `max_bytes`;
    `gap` is how many unacknowledged ones an earlier agent had dropped so when it died, counted by it or not.
    """

    def __init__(self, directory: Path, *, max_bytes: int = 64 * 2**20, segment_bytes: int = 0) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.segment_bytes = segment_bytes or max(min(max_bytes // 16, 4 * 2**20), 4096)
        self.torn = 0
        self.damaged = 0
        self.dropped_through = 0
        self.gap = 0
        self.size_bytes = 0
        self.acked = 0
        self.last = 0
        self._segments: deque[_Segment] = deque()
        self._reader: _Reader | None = None
        self._write_fd = -1
        self._cursor_fd = -1
        self._lock = StateLock(directory)
        try:
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    # Recovery

    def _recover(self) -> None:
        self._cursor_fd = os.open(
            self.directory / "cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self.acked = self._read_cursor()
        paths = sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))
        for path, following in zip_longest(paths, paths[1:]):
            self._adopt(path, int(path.name[:20]), int(following.name[:20]) - 1 if following else None)
        if self._segments:
            self.gap = max(0, self._segments[0].first - 1 - self.acked)
            self.acked += self.gap
        self.last = max(self.acked, self._segments[-1].last if self._segments else 0)
        self._forget_acked()

    def _adopt(self, path: Path, first: int, last: int | None) -> None:
        """Take over a segment of an earlier agent; only the newest (`last` None) can have a torn end."""
        segment = _Segment(path, first, first - 1 if last is None else last, path.stat().st_size)
        if last is None:
            self._scan(segment)
        if segment.last < segment.first:
            path.unlink()
            return
        self._segments.append(segment)
        self.size_bytes += segment.size_bytes

    def _scan(self, segment: _Segment) -> None:
        whole_bytes = 0
        with contextlib.suppress(_DamagedError):
            reader = _Reader(segment)
            whole_bytes = reader.end_bytes
            with contextlib.closing(reader):
                while reader.end_bytes < segment.size_bytes:
                    reader.next()
                    whole_bytes = reader.end_bytes
                    segment.last = reader.number
        if whole_bytes < segment.size_bytes:
            self.torn += 1
            os.truncate(segment.path, whole_bytes)
            segment.size_bytes = whole_bytes

    def _read_cursor(self) -> int:
        raw = os.pread(self._cursor_fd, _CURSOR.size, 0)
        if len(raw) < _CURSOR.size:
            return 0
        number, checksum = _CURSOR.unpack(raw)
        return int(number) if crc32(raw[:8]) == checksum else 0

    # Writing

    def append(self, records: Sequence[Record]) -> int:
        """Add `records`, all or none; the number of the first. The oldest segments go when `max_bytes` is reached."""
        blob = b"".join(map(_frame, records))
        self._make_room(len(blob))
        if self._write_fd < 0 or self._segments[-1].size_bytes >= self.segment_bytes:
            self._roll()
        segment = self._segments[-1]
        try:
            _write_all(self._write_fd, blob)
        except OSError:
            self._cut(segment)
            raise
        first = self.last + 1
        self.last = segment.last = self.last + len(records)
        segment.size_bytes += len(blob)
        self.size_bytes += len(blob)
        return first

    def _cut(self, segment: _Segment) -> None:
        """Take away what a failed write left; where even that fails, a new segment is begun next time."""
        try:
            os.ftruncate(self._write_fd, segment.size_bytes)
        except OSError:
            self._stop_writing()

    def _roll(self) -> None:
        self._stop_writing()
        path = self.directory / f"{self.last + 1:020}.seg"
        self._write_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._segments and self._segments[-1].path == path:
            self.size_bytes -= self._segments.pop().size_bytes
        try:
            _write_all(self._write_fd, MAGIC)
        except OSError:
            self._stop_writing()
            raise
        self._segments.append(_Segment(path, self.last + 1, self.last, len(MAGIC)))
        self.size_bytes += len(MAGIC)

    def _stop_writing(self) -> None:
        if self._write_fd >= 0:
            # What a sync would report has been reported by the write, or comes back with the next one.
            with contextlib.suppress(OSError):
                os.fsync(self._write_fd)
            os.close(self._write_fd)
            self._write_fd = -1

    def _make_room(self, needed_bytes: int) -> None:
        while self._segments and self.size_bytes + needed_bytes + len(MAGIC) > self.max_bytes:
            oldest = self._segments[0]
            if len(self._segments) == 1:
                self._stop_writing()
            self.dropped_through = max(self.dropped_through, oldest.last)
            self._forget(oldest)

    # Reading

    def read(self, after: int, max_records: int, max_bytes: int) -> tuple[list[tuple[int, Record]], int]:
        """Numbered records that follow number `after`, at least one if there is any, and the number read through.

        What cannot be read any more is passed over and counted in `damaged`.
        """
        found: list[tuple[int, Record]] = []
        size_bytes = 0
        while len(found) < max_records and size_bytes < max_bytes and after < self.last:
            record, after = self._next(after)
            if record is not None:
                found.append((after, record))
                size_bytes += len(record.payload)
        return found, after

    def _next(self, after: int) -> tuple[Record | None, int]:
        segment = next((each for each in self._segments if each.last > after), None)
        if segment is None:
            return None, self.last
        after = max(after, segment.first - 1)
        try:
            body = self._reader_at(segment, after).next()
        except (_DamagedError, FileNotFoundError):
            self._close_reader()
            self.damaged += segment.last - after
            return None, segment.last
        try:
            return _decoder.decode(body), after + 1
        except msgspec.DecodeError:
            self.damaged += 1
            return None, after + 1

    def _reader_at(self, segment: _Segment, after: int) -> _Reader:
        reader = self._reader
        if reader is None or reader.segment is not segment or reader.number > after:
            self._close_reader()
            reader = self._reader = _Reader(segment)
        while reader.number < after:
            reader.next()
        return reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # Letting go

    def ack(self, number: int) -> None:
        """Records up to `number` have arrived; a later agent begins behind it."""
        if number <= self.acked:
            return
        self.acked = min(number, self.last)
        raw = self.acked.to_bytes(8, "little")
        os.pwrite(self._cursor_fd, _CURSOR.pack(self.acked, crc32(raw)), 0)
        self._forget_acked()

    def _forget_acked(self) -> None:
        while len(self._segments) > 1 and self._segments[0].last <= self.acked:
            self._forget(self._segments[0])

    def _forget(self, segment: _Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._segments.remove(segment)
        self.size_bytes -= segment.size_bytes

    def close(self) -> None:
        """Sync to the medium and let go of the directory; safe twice."""
        self._stop_writing()
        self._close_reader()
        if self._cursor_fd >= 0:
            os.close(self._cursor_fd)
            self._cursor_fd = -1
        self._lock.close()


def _frame(record: Record) -> bytes:
    body = _encoder.encode(record)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a record of {len(body)} bytes; {MAX_BODY_BYTES} is the most")
    return _HEAD.pack(len(body), crc32(body)) + body


def _write_all(fd: int, blob: bytes) -> None:
    view = memoryview(blob)
    while view:
        view = view[os.write(fd, view) :]
