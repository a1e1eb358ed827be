"""The folder of the recorder: which files there are, which one is written, which ones have to go.

00000001.sqlite     a segment; numbers rise, whatever the clock does
00000001.keep       an empty mark: the end of a boot that crashed, spared by retention within bounds
00000007.damaged    a segment that could not be read any more, set aside
lock                held by the agent that records here
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from ..state_lock import StateLock
from .segment import DamagedError, Item, SegmentReader, SegmentWriter, mend, remove, size_of, written_wall_ns

SUFFIX = ".sqlite"
SEGMENT_NS = 600 * 10**9
SEGMENTS_PER_LIMIT = 32
MAX_SEGMENTS = 1024
# A database without tables: its first page at most.
EMPTY_BYTES = 4096
MAX_SET_ASIDE = 4
# Of the limit, for the ends of crashed boots.
KEEP_SHARE = 4
# Of the file system, left free for others, but never more than the recorder's own limit.
SPARE_SHARE = 20

_NAME = re.compile(r"(\d{8})\.sqlite")
log = structlog.get_logger(component="recorder")


class Segment(Struct):
    """A file that is no longer written. `closed_ns` is 0 for those of earlier agents, whose clock may be another."""

    path: Path
    size_bytes: int
    kept: bool
    written_wall_ns: int
    closed_ns: int = 0


class Store:
    """Not thread-safe: one thread at a time. Raises UsageError when another agent records in `folder`."""

    def __init__(self, folder: Path, *, limit_bytes: int, keep_ns: int, about: Mapping[str, str]) -> None:
        self.folder = folder
        self.set_aside = 0
        self._limit_bytes = limit_bytes
        self._keep_ns = keep_ns
        self._about = dict(about)
        self._writer: SegmentWriter | None = None
        self._opened_ns = 0
        self._lock = StateLock(folder)
        try:
            self.segments = [self._found(path) for path in segment_paths(folder)]
            self._number = max((int(each.path.stem) for each in self.segments), default=0)
        except BaseException:
            self._lock.close()
            raise

    @property
    def size_bytes(self) -> int:
        """Disk space that the segments take, with the one being written."""
        return sum(each.size_bytes for each in self.segments) + (size_of(self._writer.path) if self._writer else 0)

    def _found(self, path: Path) -> Segment:
        return Segment(path, size_of(path), path.with_suffix(".keep").exists(), written_wall_ns(path))

    # Writing

    def write(self, batches: Mapping[str, Sequence[Item]]) -> int:
        """One flush; the bytes that it takes. Raises sqlite3.Error and OSError, and nothing of it is stored then."""
        now_ns = time.monotonic_ns()
        writer = self._writer
        full = writer is not None and size_of(writer.path) > self._limit_bytes // SEGMENTS_PER_LIMIT
        if writer is not None and (full or now_ns - self._opened_ns > SEGMENT_NS):
            self.close_segment()
            writer = None
        if writer is None:
            self.prune()
            writer = self._open(now_ns)
        return writer.write(batches, time.time_ns() - time.monotonic_ns())

    def _open(self, now_ns: int) -> SegmentWriter:
        self._number += 1
        path = self.folder / f"{self._number:08}{SUFFIX}"
        try:
            self._writer = SegmentWriter(path, self._about)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(path)
            raise
        self._opened_ns = now_ns
        return self._writer

    def close_segment(self, **about: str) -> None:
        """The next write begins a new file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close(**about)
            finally:
                size_bytes = size_of(writer.path)
                self.segments.append(Segment(writer.path, size_bytes, False, time.time_ns(), time.monotonic_ns()))

    def close(self, **about: str) -> None:
        """Safe twice."""
        try:
            self.close_segment(**about)
        finally:
            self._lock.close()

    # Letting go

    def prune(self) -> None:
        """Deletes the oldest segments until size, age, number and the disk's free space are as they should be."""
        for each in [each for each in self.segments if not each.kept and self._too_old(each)]:
            self._forget(each)
        room_bytes = self._limit_bytes - self._limit_bytes // SEGMENTS_PER_LIMIT
        kept = [each for each in self.segments if each.kept]
        while kept and sum(each.size_bytes for each in kept) > self._limit_bytes // KEEP_SHARE:
            self._forget(kept.pop(0))
        while self.segments and (self.size_bytes > room_bytes or len(self.segments) > MAX_SEGMENTS or self._disk_low()):
            self._forget(next((each for each in self.segments if not each.kept), self.segments[0]))

    def _too_old(self, segment: Segment) -> bool:
        # Of this agent's own files a clock that jumps says nothing.
        if segment.closed_ns:
            return time.monotonic_ns() - segment.closed_ns > self._keep_ns
        return time.time_ns() - segment.written_wall_ns > self._keep_ns

    def _disk_low(self) -> bool:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize < min(disk.f_blocks * disk.f_frsize // SPARE_SHARE, self._limit_bytes)

    def _forget(self, segment: Segment) -> None:
        self.segments.remove(segment)
        remove(segment.path)
        segment.path.with_suffix(".keep").unlink(missing_ok=True)

    # What earlier agents left

    def take_over(self) -> SegmentReader | None:
        """The newest earlier segment that can be read, mended; those newer that cannot be are set aside."""
        for segment in reversed(self.segments.copy()):
            wrong = mend(segment.path)
            segment.size_bytes = size_of(segment.path)
            if not wrong and segment.path.stat().st_size <= EMPTY_BYTES:
                self._forget(segment)  # its agent was killed before it wrote anything
                continue
            try:
                return self._reader(segment, wrong)
            except DamagedError as error:
                self._set_aside(segment, str(error))
        return None

    def _reader(self, segment: Segment, wrong: str) -> SegmentReader:
        if wrong:
            raise DamagedError(wrong)
        return SegmentReader(segment.path)

    def _set_aside(self, segment: Segment, wrong: str) -> None:
        self.set_aside += 1
        aside = segment.path.with_suffix(".damaged")
        log.warning("a recording cannot be read and was set aside", file=str(aside), reason=wrong)
        segment.path.replace(aside)
        self._forget(segment)
        for old in sorted(self.folder.glob("*.damaged"))[:-MAX_SET_ASIDE]:
            old.unlink(missing_ok=True)

    def spare(self, boot_id: str, span_ns: int) -> int:
        """Keeps the last `span_ns` of a boot from retention; how many files those are."""
        own: list[Segment] = []
        for segment in reversed(self.segments):
            if own and own[0].written_wall_ns - segment.written_wall_ns > span_ns:
                break
            if about_of(segment.path).get("boot_id") == boot_id:
                own.append(segment)
        for segment in own:
            segment.kept = True
            segment.path.with_suffix(".keep").touch(mode=0o600)
        return len(own)


def segment_paths(folder: Path) -> list[Path]:
    """The segments in a folder, oldest first; none when there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def about_of(path: Path) -> dict[str, str]:
    """What a segment says about itself; nothing when it cannot be read."""
    try:
        reader = SegmentReader(path)
    except DamagedError:
        return {}
    reader.close()
    return reader.about
