"""Reads the rings under /dev/shm with struct alone, and holds a lease on them: the reader's side, made anew."""

import json
import mmap
import struct
import threading
import time
from collections import namedtuple
from pathlib import Path

from eagle_eye_vllm import wire

SHM = Path("/dev/shm")


def _tuple(name, fields):
    return namedtuple(name, [field for field, _ in fields])


Header, Tick, Step, Request = (
    _tuple("Header", wire.HEADER), _tuple("Tick", wire.TICK), _tuple("Step", wire.STEP), _tuple("Request", wire.REQUEST)
)  # fmt: skip


def ring_files():
    return sorted(SHM.glob(f"{wire.NAME_PREFIX}*.ring"))


def writer_of(path):
    """The pid in a ring's header; 0 where it is gone already. Other engines may come and go on this machine."""
    try:
        with path.open("rb") as file:
            return Header(*wire.format_of(wire.HEADER).unpack(file.read(wire.format_of(wire.HEADER).size))).pid
    except (OSError, struct.error):
        return 0


class Reader:
    """Of one ring; keeps a lease until it is closed."""

    def __init__(self, path):
        self.path = path
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), wire.FILE_BYTES)
        said = self.memory[wire.HANDSHAKE_OFFSET :][: self.header().handshake_bytes]
        self.handshake = json.loads(said)
        self.next = 0
        self.ticks = []
        self.steps = []
        self.requests = []
        self._stop = threading.Event()
        self.renew()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def renew(self, nanoseconds=wire.LEASE_NS):
        struct.pack_into("<Q", self.memory, wire.LEASE_OFFSET, time.monotonic_ns() + nanoseconds)

    def header(self):
        return Header(*wire.format_of(wire.HEADER).unpack_from(self.memory, 0))

    def _follow(self):
        while not self._stop.wait(0.002):
            self.read()
            self.renew()

    def read(self):
        tick = Tick(*wire.format_of(wire.TICK).unpack_from(self.memory, wire.TICK_OFFSET))
        known = self.ticks[-1].begin if self.ticks else 0
        if tick.begin == tick.end != known and tick.begin % 2 == 0:
            self.ticks.append(tick)
        head = self.header().head
        assert head - self.next <= wire.SLOTS, "this reader was too slow"
        for number in range(self.next, head):
            at = wire.RING_OFFSET + number % wire.SLOTS * wire.SLOT_BYTES
            slot = bytes(self.memory[at : at + wire.SLOT_BYTES])
            begin, kind = struct.unpack_from("<QH", slot)
            assert begin == number + 1 == struct.unpack_from("<Q", slot, wire.SLOT_BYTES - 8)[0]
            if kind == wire.KIND_STEP:
                self.steps.append(Step(*wire.format_of(wire.STEP).unpack(slot)))
            else:
                self.requests.append(Request(*wire.format_of(wire.REQUEST).unpack(slot)))
        self.next = head

    def histogram(self, name):
        """(counts per bucket, sum in ns)."""
        words = wire.HISTOGRAM_BUCKETS + 1
        at = wire.HISTOGRAM_OFFSET + wire.HISTOGRAM_NAMES.index(name) * words * 8
        *counts, total = struct.unpack_from(f"<{words}Q", self.memory, at)
        return counts, total

    def close(self):
        self._stop.set()
        self._thread.join()
        self.read()
        struct.pack_into("<Q", self.memory, wire.LEASE_OFFSET, 0)
