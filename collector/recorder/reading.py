"""Reads the black box, from any process, while it is written."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from msgspec import Struct

from .segment import DamagedError, SegmentReader
from .store import segment_paths

# What is not recorded as it went to NATS.
OWN_ENCODING = {"engine": "json", "kmsg": "json", "pstore": "json", "step": "msgpack"}
EVERYTHING = (-(2**62), 2**62)


class Record(Struct, frozen=True):
    """What was recorded; `at_ns` is on the clock of the boot `boot_id`."""

    kind: str
    at_ns: int
    wall_offset_ns: int
    boot_id: str
    encoding: str
    payload: bytes


class Reading:
    """Records of one boot between two times of its clock, in the order of their files, each file's as flushed.

    `damaged` counts what could not be read: files and batches.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.damaged = 0
        self._folder = folder
        self._boot_id = boot_id

    def records(
        self, start_ns: int = EVERYTHING[0], end_ns: int = EVERYTHING[1], kinds: Container[str] | None = None
    ) -> Iterator[Record]:
        """Files that retention takes away meanwhile are passed over."""
        for path in segment_paths(self._folder):
            try:
                reader = SegmentReader(path)
            except DamagedError:
                self.damaged += path.exists()
                continue
            try:
                if reader.about.get("boot_id") == self._boot_id:
                    yield from self._of_file(reader, start_ns, end_ns, kinds)
            except DamagedError:
                self.damaged += 1
            finally:
                self.damaged += reader.damaged_batches
                reader.close()

    def _of_file(
        self, reader: SegmentReader, start_ns: int, end_ns: int, kinds: Container[str] | None
    ) -> Iterator[Record]:
        encoding = reader.about.get("encoding", "json")
        for kind, wall_offset_ns, items in reader.batches(start_ns, end_ns):
            if kinds is not None and kind not in kinds:
                continue
            for at_ns, payload in items:
                if start_ns <= at_ns <= end_ns:
                    own = OWN_ENCODING.get(kind, encoding)
                    yield Record(kind, at_ns, wall_offset_ns, self._boot_id, own, payload)


def newest_boot(folder: Path) -> str:
    """The boot that was recorded last, "" when there is none."""
    for path in reversed(segment_paths(folder)):
        try:
            reader = SegmentReader(path)
        except DamagedError:
            continue
        reader.close()
        return str(reader.about.get("boot_id", ""))
    return ""


class Moment(Struct, frozen=True):
    """The last thing that was recorded: when, by whom, on which boot."""

    at_ns: int
    wall_offset_ns: int
    boot_id: str
    node: str
    cluster: str


def last_moment(folder: Path) -> Moment | None:
    """None when nothing was recorded."""
    for path in reversed(segment_paths(folder)):
        try:
            reader = SegmentReader(path)
            try:
                at_ns, wall_offset_ns = reader.last_ns(), reader.last_wall_offset_ns()
            finally:
                reader.close()
        except DamagedError:
            continue
        if at_ns:
            about = {name: str(reader.about.get(name, "")) for name in ("boot_id", "node", "cluster")}
            return Moment(at_ns, wall_offset_ns, **about)
    return None
