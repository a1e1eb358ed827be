"""Writes the shared memory of wire.py: one writer process, no system call per record, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import platform
import re
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from . import wire

DIRECTORY = "/dev/shm"  # noqa: S108 - the place that readers look into
UNFINISHED = f".{wire.NAME_PREFIX}"
# A file without a lock may be one that another process is making right now.
GRACE_SECONDS = 60

_WORD = 8
_LEASE = wire.LEASE_OFFSET // _WORD
_HISTOGRAMS = wire.HISTOGRAM_OFFSET // _WORD
_TICK = wire.TICK_OFFSET // _WORD
_TICK_END = (wire.TICK_OFFSET + wire.offset_of(wire.TICK, "end")) // _WORD
_TICK_BODY = wire.format_of(wire.TICK[1:-1])
_HEAD, _URGENT, _DROPPED, _STATE = (
    wire.offset_of(wire.HEADER, name) // _WORD for name in ("head", "urgent", "dropped", "state")
)
_NAME = re.compile(rf"\.?{re.escape(wire.NAME_PREFIX)}[0-9a-f]+\.(ring|tmp)")

# x86 lets no store pass another one.
_STORES_MOVE = platform.machine().lower() not in ("x86_64", "amd64", "i686")

_open: weakref.WeakSet[Ring] = weakref.WeakSet()


def place_of(guard: int) -> int:
    """Where the record with this guard lies in the file."""
    return wire.RING_OFFSET + (guard - 1) % wire.SLOTS * wire.SLOT_BYTES


class Ring:
    """Of one process. `put`, `publish` and `count` belong to one thread, `tick` to another one or the same.

    Raises OSError where the folder is missing, read-only or full; nothing is left behind then.
    """

    def __init__(self, handshake: dict[str, Any], directory: str = DIRECTORY) -> None:
        self.path = os.path.join(directory, f"{wire.NAME_PREFIX}{handshake['instance']}.ring")
        self.head = 0
        self._ticks = 0
        self.memory, self._fd = _create(self.path, handshake)
        self._words = memoryview(self.memory).cast("Q")
        # `lease[0] > now` says whether somebody reads.
        self.lease = self._words[_LEASE : _LEASE + 1]
        self._histograms = self._words[_HISTOGRAMS : _HISTOGRAMS + _histogram_words()]
        self._record_fence = threading.Lock()
        self._tick_fence = threading.Lock()
        self.open = True
        _open.add(self)

    def wanted(self) -> bool:
        """Whether some reader holds a lease."""
        return self.open and self.lease[0] > time.monotonic_ns()

    def put(self, packer: struct.Struct, *values: Any) -> None:
        """Writes one record; `values` are its fields between the guards."""
        guard = self.head + 1
        packer.pack_into(self.memory, place_of(guard), guard, *values, guard)
        self.publish(guard)

    def publish(self, guard: int) -> None:
        """Shows readers the record that lies whole at `place_of(guard)`."""
        if _STORES_MOVE:
            # A lock let go and taken again keeps the stores in order where the processor would not.
            with self._record_fence:
                pass
            with self._record_fence:
                pass
        self.head = self._words[_HEAD] = guard

    def tick(self, *values: int) -> None:
        """Writes the fields of TICK between its guards."""
        self._ticks += 2
        self._words[_TICK] = self._words[_TICK_END] = self._ticks - 1
        with self._tick_fence:
            pass
        with self._tick_fence:
            _TICK_BODY.pack_into(self.memory, wire.TICK_OFFSET + _WORD, *values)
        with self._tick_fence:
            self._words[_TICK_END] = self._ticks
        with self._tick_fence:
            self._words[_TICK] = self._ticks

    def urge(self) -> None:
        """Tells the reader to look at once."""
        self._words[_URGENT] += 1

    def drop(self, count: int = 1) -> None:
        """Counts records that could not be made."""
        self._words[_DROPPED] += count

    def state(self, state: int) -> None:
        if self._words[_STATE] != state:
            self._words[_STATE] = state
            self.urge()

    def count(self, histogram: int, bucket: int, times: int) -> None:
        self._histograms[histogram * (wire.HISTOGRAM_BUCKETS + 1) + bucket] += times

    def add(self, histogram: int, nanoseconds: int) -> None:
        """To the sum of a histogram."""
        self._histograms[(histogram + 1) * (wire.HISTOGRAM_BUCKETS + 1) - 1] += nanoseconds

    def close(self) -> None:
        """Says that the engine is gone, and removes the file. Only the process that made it may."""
        if self.open:
            self.state(wire.STATE_GONE)
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.let_go()

    def let_go(self) -> None:
        """Without a word to the readers: a forked child does so, that its parent's lock dies with the parent."""
        self.open = False
        _open.discard(self)
        # A thread may be about to write still: it finds memory of its own.
        private, self.memory = self.memory, mmap.mmap(-1, wire.FILE_BYTES)
        words = self._words, self.lease, self._histograms
        self._words = memoryview(self.memory).cast("Q")
        self.lease = self._words[_LEASE : _LEASE + 1]
        self._histograms = self._words[_HISTOGRAMS : _HISTOGRAMS + _histogram_words()]
        with contextlib.suppress(BufferError):
            for view in reversed(words):
                view.release()
            private.close()
        os.close(self._fd)


def _histogram_words() -> int:
    return len(wire.HISTOGRAM_NAMES) * (wire.HISTOGRAM_BUCKETS + 1)


def _create(path: str, handshake: dict[str, Any]) -> tuple[mmap.mmap, int]:
    """The file, mapped, locked and whole before it gets its name."""
    if sys.byteorder != "little":
        raise OSError(errno.ENOTSUP, "the ring is little-endian, this machine is not")
    said = json.dumps(handshake, separators=(",", ":")).encode()[: wire.HANDSHAKE_BYTES]
    directory, name = os.path.split(path)
    unfinished = os.path.join(directory, f".{name[: -len('ring')]}tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(unfinished, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Every page is there now: a full file system must not kill the engine at a store.
        os.posix_fallocate(fd, 0, wire.FILE_BYTES)
        memory = mmap.mmap(fd, wire.FILE_BYTES)
        memory[wire.HANDSHAKE_OFFSET : wire.HANDSHAKE_OFFSET + len(said)] = said
        header = wire.format_of(wire.HEADER)
        version = wire.VERSION_MAJOR, wire.VERSION_MINOR
        sizes = wire.SLOT_BYTES, wire.SLOTS, len(said)
        header.pack_into(memory, 0, wire.MAGIC, *version, *sizes, os.getpid(), time.monotonic_ns(), 0, 0, 0, 0)
        os.rename(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        os.close(fd)
        raise
    return memory, fd


def sweep(directory: str = DIRECTORY) -> int:
    """Removes the files that dead engines of this user left, and says so in them; returns how many."""
    return sum(_remove_dead(path) for path in _candidates(directory))


def _candidates(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and _is_old_enough(entry):
                yield entry.path


def _is_old_enough(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    finished = not entry.name.startswith(UNFINISHED)
    return status.st_uid == os.geteuid() and (finished or time.time() - status.st_mtime > GRACE_SECONDS)


def _remove_dead(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _say_gone(fd)
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _say_gone(fd: int) -> None:
    """In the place of a writer that was killed; to readers that have the file open."""
    if os.pread(fd, len(wire.MAGIC), 0) == wire.MAGIC and os.fstat(fd).st_size >= wire.FILE_BYTES:
        urgent = struct.unpack("<Q", os.pread(fd, _WORD, _URGENT * _WORD))[0]
        os.pwrite(fd, struct.pack("<Q", wire.STATE_GONE), _STATE * _WORD)
        os.pwrite(fd, struct.pack("<Q", (urgent + 1) % 2**64), _URGENT * _WORD)


def _after_fork() -> None:
    for ring in list(_open):
        ring.let_go()


os.register_at_fork(after_in_child=_after_fork)
