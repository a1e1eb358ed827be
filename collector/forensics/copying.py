"""Copies a window of time out of the black box, without secrets, as JSON lines by time."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from msgspec import Struct

from ..recorder.previous import SavedLog
from ..recorder.reading import Reading, Record
from ..recorder.steps import plain_steps
from .redact import is_clean, redacted

# What people and rules read is kept whole; snapshots are thinned out when there are more than a bundle should hold.
SNAPSHOT_BYTES = 48 * 2**20
OTHER_BYTES = 24 * 2**20
LEVEL = 6

Timed = tuple[int, bytes]
_encoder = msgspec.json.Encoder()


class Copy:
    """Of what one window held: `counts` by kind, whether devices were `simulated`, in `incomplete` what is missing."""

    def __init__(
        self, recorder: Path, boot_id: str, start_ns: int, end_ns: int, saved_logs: Sequence[SavedLog] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.incomplete: list[str] = []
        self.simulated = False
        self._reading = Reading(recorder, boot_id)
        self._window = start_ns, end_ns
        self._saved_logs = saved_logs

    def write(self, path: Path) -> None:
        """Writes the file. Raises OSError."""
        others = self._others()
        lines = heapq.merge(others, self._snapshots(self._stride()), key=itemgetter(0))
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        with path.open("xb") as file, compressor.stream_writer(file, closefd=False) as stream:
            for _, line in lines:
                stream.write(line)
                stream.write(b"\n")
        if not self.counts["snapshot"]:
            self.incomplete.append("no snapshot of that time was recorded")
        if self._reading.damaged:
            self.incomplete.append(f"{self._reading.damaged} parts of the recording could not be read")

    def _others(self) -> list[Timed]:
        end_ns = self._window[1]
        saved = [(end_ns, _encode("pstore", end_ns, redacted(msgspec.to_builtins(one)))) for one in self._saved_logs]
        found: deque[tuple[int, bytes, str]] = deque()
        size_bytes = left_out = 0
        for record in self._reading.records(*self._window):
            if record.kind == "snapshot":
                continue
            found.append((record.at_ns, _line(record), record.kind))
            size_bytes += len(found[-1][1])
            while size_bytes > OTHER_BYTES:  # the oldest go: they are farthest from the trigger
                size_bytes -= len(found.popleft()[1])
                left_out += 1
        if left_out:
            self.incomplete.append(f"the first {left_out} records did not fit")
        self.counts.update([*(kind for _, _, kind in found), *("pstore" for _ in saved)])
        return sorted((*saved, *((at_ns, line) for at_ns, line, _ in found)), key=itemgetter(0))

    def _stride(self) -> int:
        size_bytes = sum(len(one.payload) for one in self._reading.records(*self._window, kinds={"snapshot"}))
        stride = -(-size_bytes // SNAPSHOT_BYTES) or 1
        if stride > 1:
            self.incomplete.append(f"one snapshot in {stride} is kept")
        return stride

    def _snapshots(self, stride: int) -> Iterator[Timed]:
        for number, record in enumerate(self._reading.records(*self._window, kinds={"snapshot"})):
            if number % stride == 0:
                line = _line(record)
                self.counts["snapshot"] += 1
                self.simulated = self.simulated or _is_simulated(line)
                yield record.at_ns, line


class _Device(Struct):
    simulated: bool = False


class _Data(Struct):
    devices: list[_Device] = []


class _Snapshot(Struct):
    data: _Data


def _is_simulated(line: bytes) -> bool:
    try:
        return any(device.simulated for device in msgspec.json.decode(line, type=_Snapshot).data.devices)
    except msgspec.DecodeError:
        return False


def _line(record: Record) -> bytes:
    return _encode(record.kind, record.at_ns, _data(record))


def _encode(kind: str, at_ns: int, data: Any) -> bytes:
    return _encoder.encode({"kind": kind, "at_ns": at_ns, "data": data})


def _data(record: Record) -> Any:
    if record.encoding == "json":
        text = record.payload.decode("utf-8", "replace")
        return msgspec.Raw(record.payload) if is_clean(text) else redacted(msgspec.json.decode(record.payload))
    value = msgspec.msgpack.decode(record.payload)
    return redacted(plain_steps(value) if record.kind == "step" else value)
