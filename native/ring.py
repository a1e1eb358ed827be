"""Records in batches: a ring buffer drained, an iterator swept, into one reused array each.

The drain is in C: numpy over the mapping itself would spare the copy, but can neither acquire nor
release, so on arm64 it would read records that are not written yet.
"""

from __future__ import annotations

import io
import mmap
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ._bpf import ffi, lib
from .errors import BpfError, BpfMapError
from .failures import error_name
from .maps import Map

if TYPE_CHECKING:
    from .bpf import Link


class Ring:
    """Reader of one ring buffer whose records all have the dtype's size. The only reader there may be.

    `fd` becomes readable when a program submits with BPF_RB_FORCE_WAKEUP. The ring outlives its object.
    """

    def __init__(self, ring_map: Map, dtype: np.dtype[Any], capacity_records: int = 8192) -> None:
        if ring_map.type != lib.BPF_MAP_TYPE_RINGBUF:
            raise BpfMapError(f"map '{ring_map.name}' is no ring buffer")
        if capacity_records < 1 or dtype.itemsize < 1:
            raise BpfMapError(f"ring '{ring_map.name}' needs room for one record at least")
        self.name = ring_map.name
        self._records = np.zeros(capacity_records, dtype)
        self._out = ffi.from_buffer("uint8_t[]", self._records, require_writable=True)
        self._lock = threading.Lock()
        self.fd = os.dup(ring_map.fd)
        self._close_fd = weakref.finalize(self, os.close, self.fd)
        self._map(ring_map.max_entries)

    def _map(self, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        try:
            self._consumer = mmap.mmap(self.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._producer = mmap.mmap(self.fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError as why:
            self._close_fd()
            raise BpfMapError(f"cannot map ring '{self.name}': {why}", errno=why.errno or 0) from None
        self._borrowed = ffi.from_buffer(self._consumer), ffi.from_buffer(self._producer)
        consumer, producer = self._borrowed
        self._ring = ffi.new(
            "struct ring *",
            {
                "consumer_position": ffi.cast("uint64_t *", consumer),
                "producer_position": ffi.cast("uint64_t *", producer),
                "data": ffi.cast("uint8_t *", producer) + page,
                "size_bytes": size_bytes,
            },
        )

    def drain(self) -> np.ndarray[Any, Any]:
        """The records that are ready, at most `capacity_records`, oldest first; valid until the next drain."""
        with self._lock:
            if self.fd < 0:
                raise BpfError(f"ring '{self.name}' is closed")
            count = lib.ring_drain(self._ring, self._out, self._records.itemsize, len(self._records))
        return self._records[:count]

    @property
    def bad_records(self) -> int:
        """Records of another size than the dtype's, skipped."""
        return int(self._ring.bad_records)

    def close(self) -> None:
        """Unmaps. Arrays that drain() gave stay valid."""
        with self._lock:
            if self.fd < 0:
                return
            for borrowed in self._borrowed:
                ffi.release(borrowed)
            self._consumer.close()
            self._producer.close()
            self._close_fd()
            self.fd = -1


class Iterator:
    """Reader of an attached iterator program (`SEC("iter/…")`) that writes records of one size.

    `truncated` counts the records that did not fit under `capacity_records`.
    """

    FIRST_ROOM = 1024

    def __init__(self, link: Link, dtype: np.dtype[Any], capacity_records: int) -> None:
        if capacity_records < 1:
            raise BpfError("an iterator needs room for one record at least")
        self._link = link
        self._capacity = capacity_records
        self._records = np.zeros(min(self.FIRST_ROOM, capacity_records), dtype)
        self._lock = threading.Lock()
        self.truncated = 0

    def read(self) -> np.ndarray[Any, Any]:
        """One sweep. The array is reused and valid until the next read."""
        with self._lock, self._open() as stream:
            used = self._fill(stream)
            surplus = self._discard(stream)
        size = self._records.itemsize
        if (used + surplus) % size:
            raise BpfError(f"program '{self._link.program}' wrote {used + surplus} bytes, no multiple of {size}")
        self.truncated += surplus // size
        return self._records[: used // size]

    def _open(self) -> io.FileIO:
        fd = self._link.iterate()
        return io.FileIO(fd)

    def _fill(self, stream: io.FileIO) -> int:
        used = 0
        while True:
            room = self._records.view(np.uint8).data[used:]
            if not room:
                if len(self._records) == self._capacity:
                    return used
                self._grow()
                continue
            got = _read(stream, room)
            if not got:
                return used
            used += got

    def _grow(self) -> None:
        larger = np.zeros(min(2 * len(self._records), self._capacity), self._records.dtype)
        larger[: len(self._records)] = self._records
        self._records = larger

    def _discard(self, stream: io.FileIO) -> int:
        surplus, scratch = 0, memoryview(bytearray(65536))
        while got := _read(stream, scratch):
            surplus += got
        return surplus


def _read(stream: io.FileIO, room: memoryview) -> int:
    try:
        # None stands for EAGAIN: the kernel paused after a long stretch without output.
        while (got := stream.readinto(room)) is None:
            pass
    except OSError as why:
        raise BpfError(f"an iterator failed: {error_name(why.errno or 0)}", errno=why.errno or 0) from None
    return got
