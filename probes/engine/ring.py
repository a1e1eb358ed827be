"""One engine's ring, read. Reads rather than maps: who shortens a mapped file kills its reader."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from typing import Any

import numpy as np
from msgspec import Struct

from .layout import (
    TOP_BYTES,
    Array,
    Handshake,
    RefusedError,
    read_handshake,
    unpack_header,
    unpack_tick,
)
from .vllm import wire

_RENEW_NS = 1_000_000_000
_LEASE = _GUARD = struct.Struct("<Q")
# What all records begin and end with: the guard, the kind, the guard again.
_GUARDS = struct.Struct(f"<QH{wire.SLOT_BYTES - 18}xQ")
# What one round reads of one ring, so that a writer in a hurry holds nobody up.
_ROUND_RECORDS = 1024
_LONGEST_JUMP = 2**40
_MOST_RECORDS = 2**62
_HISTOGRAM = wire.HISTOGRAM_BUCKETS + 1
_HISTOGRAM_BYTES = 8 * _HISTOGRAM * len(wire.HISTOGRAM_NAMES)


class Identity(Struct, frozen=True):
    """Which file it is, and whose."""

    device: int
    inode: int
    owner_uid: int


class Top(Struct, frozen=True, eq=False):
    """Header and tick of one look, by the names of `wire`; `tick` is None unless there is a new one, and whole."""

    header: dict[str, Any]
    tick: dict[str, Any] | None

    @property
    def head(self) -> int:
        return self.header["head"] or 0


class Batch(Struct, frozen=True, eq=False):
    """New records of one look: those of steps in order, as bytes, and how many others. `missed` were overwritten
    before they could be read."""

    steps: list[bytes]
    others: int
    missed: int
    more: bool


class Ring:
    """An open ring. `produced` = delivered + missed + those not read yet, since it was opened.

    Raises RefusedError for what is no ring of a version that is known, OSError where it cannot be opened.
    """

    def __init__(self, name: str, folder: int) -> None:
        """`name` in the open `folder`. Neither a link nor anything but a regular file is looked at."""
        self.name = name
        self.next = 0
        self.delivered = 0
        self.missed = 0
        self.torn = 0
        self._lease_ns = 0
        self._tick_begin = 0
        self.fd, self.can_ask = _opened(name, folder)
        try:
            self.identity = _identity(self.fd)
            self.handshake, self.version_minor, self.created_ns = self._greet()
        except (RefusedError, OSError):
            self.close()
            raise

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def ask(self, now_ns: int) -> None:
        """Tells the writer that somebody reads. Two readers may; nothing else is ever written."""
        if self.can_ask and now_ns - self._lease_ns >= _RENEW_NS:
            self._lease_ns = now_ns
            with contextlib.suppress(OSError):
                os.pwrite(self.fd, _LEASE.pack(now_ns + wire.LEASE_NS), wire.LEASE_OFFSET)

    def is_abandoned(self) -> bool:
        """Whether the writer is dead: it holds a lock on the file as long as it lives."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return True

    def top(self) -> Top:
        """Raises RefusedError when the file was shortened or is another than it was."""
        raw = self._read(TOP_BYTES, 0)
        header = unpack_header(raw)
        if header["magic"] != wire.MAGIC or header["created_ns"] != self.created_ns:
            raise RefusedError("the file has become another")
        (begin,), (end,) = _GUARD.unpack_from(raw, wire.TICK_OFFSET), _GUARD.unpack_from(raw, TOP_BYTES - _GUARD.size)
        if begin == self._tick_begin or begin != end or begin % 2:
            return Top(header, None)
        self._tick_begin = begin
        return Top(header, unpack_tick(raw, wire.TICK_OFFSET))

    def begin(self, head: int) -> None:
        """Goes on behind all but the newest record, which tells the state of an engine that was there before us."""
        self.next = max(0, head - 1)

    def records(self, head: int) -> Batch:
        """Those up to `head`, at most `_ROUND_RECORDS` of them; a head that jumps back or absurdly far begins anew."""
        if head >= _MOST_RECORDS:
            raise RefusedError("a head out of range")
        if not self.next <= head <= self.next + _LONGEST_JUMP:
            self.begin(head)
        missed = max(0, head - wire.SLOTS - self.next)
        self.next += missed
        count = min(head - self.next, _ROUND_RECORDS)
        steps, others = self._whole(count)
        torn = count - len(steps) - others
        self.next += count
        self.delivered += count - torn
        self.missed += missed + torn
        return Batch(steps, others, missed + torn, more=head > self.next)

    def histograms(self) -> Array:
        """Counts per bucket and, last, the sum in nanoseconds: one row for each of wire.HISTOGRAM_NAMES."""
        raw = self._read(_HISTOGRAM_BYTES, wire.HISTOGRAM_OFFSET)
        return np.frombuffer(raw, "<u8").reshape(len(wire.HISTOGRAM_NAMES), _HISTOGRAM)

    def _whole(self, count: int) -> tuple[list[bytes], int]:
        """Few come at once, and numpy takes longer to begin than to look at each of them."""
        raw, steps, others = self._slots(self.next, count), [], 0
        for index in range(count):
            place = index * wire.SLOT_BYTES
            begin, kind, end = _GUARDS.unpack_from(raw, place)
            if not begin == end == self.next + 1 + index:
                continue
            if kind == wire.KIND_STEP:
                steps.append(raw[place : place + wire.SLOT_BYTES])
            else:
                others += 1
        return steps, others

    def _slots(self, first: int, count: int) -> bytes:
        place = first % wire.SLOTS
        before_the_end = min(count, wire.SLOTS - place)
        raw = self._read(before_the_end * wire.SLOT_BYTES, wire.RING_OFFSET + place * wire.SLOT_BYTES)
        if count > before_the_end:
            raw += self._read((count - before_the_end) * wire.SLOT_BYTES, wire.RING_OFFSET)
        return raw

    def _greet(self) -> tuple[Handshake, int, int]:
        header = unpack_header(self._read(TOP_BYTES, 0))
        _refuse(header)
        handshake = read_handshake(self._read(header["handshake_bytes"], wire.HANDSHAKE_OFFSET))
        return handshake, header["version_minor"], header["created_ns"]

    def _read(self, length: int, offset: int) -> bytes:
        data = os.pread(self.fd, length, offset)
        if len(data) < length:
            raise RefusedError("the file is too short")
        return data


def _opened(name: str, folder: int) -> tuple[int, bool]:
    """The descriptor, and whether it may be written: who may only read gets what others ask for."""
    common = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(name, os.O_RDWR | common, dir_fd=folder), True
    except OSError:
        return os.open(name, os.O_RDONLY | common, dir_fd=folder), False


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError("not a regular file")
    if status.st_size < wire.FILE_BYTES:
        raise RefusedError("the file is too short")
    return Identity(status.st_dev, status.st_ino, status.st_uid)


def _refuse(header: dict[str, Any]) -> None:
    if header["magic"] != wire.MAGIC:
        raise RefusedError("not an engine's ring, or not finished yet")
    major = header["version_major"]
    if major != wire.VERSION_MAJOR:
        told = f"version {major} of the ring"
        raise RefusedError(f"{told}, and version {wire.VERSION_MAJOR} is known here: bring plugin and agent together")
    if header["slot_bytes"] != wire.SLOT_BYTES or header["slots"] != wire.SLOTS:
        raise RefusedError("a ring of unknown size")
    if not 0 < (header["handshake_bytes"] or 0) <= wire.HANDSHAKE_BYTES:
        raise RefusedError("a handshake of unlawful length")
