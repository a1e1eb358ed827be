"""Wakes the reader of engines' rings: a thread in C that looks at their heads, so that no engine makes a call."""

from __future__ import annotations

from msgspec import Struct

from ._engine_poll import ffi, lib
from .errors import UnavailableError

SLOTS = lib.ENGINE_POLL_SLOTS


class Times(Struct, frozen=True):
    """All rings are looked at `busy_ns` apart or more: up to `flight_ns` while steps go on and none is expected yet,

    up to `idle_ns` where nothing moves. Whether a writer lives is tried `alive_ns` apart.
    """

    busy_ns: int = 500_000
    flight_ns: int = 4_000_000
    idle_ns: int = 10_000_000
    alive_ns: int = 20_000_000


class Counts(Struct, frozen=True):
    """Looks at all rings, wake-ups, and the thread's CPU time since it began."""

    looks: int
    wakes: int
    cpu_ns: int


class EnginePoll:
    """Watches at most `SLOTS` files. `fd` is readable when `take` has something. Without files the thread sleeps."""

    def __init__(self, times: Times = Times()) -> None:  # noqa: B008 - frozen
        started = lib.engine_poll_start([times.busy_ns, times.flight_ns, times.idle_ns, times.alive_ns])
        if started == ffi.NULL:
            raise UnavailableError("a thread to watch engines cannot be started", remedy="ulimit -u; ulimit -n")
        self._poll = ffi.gc(started, lib.engine_poll_stop)
        self._taken = ffi.new("uint32_t[]", SLOTS)
        self.fd = lib.engine_poll_fd(self._poll)

    def add(self, fd: int, floor_ns: int) -> int | None:
        """The slot of a file, whose descriptor may be closed afterwards; None when no more fit.

        Its wake-ups are `floor_ns` apart or more, unless they are urgent, its state changed or its writer died.
        """
        slot = lib.engine_poll_add(self._poll, fd, floor_ns)
        return None if slot < 0 else slot

    def remove(self, slot: int) -> None:
        lib.engine_poll_remove(self._poll, slot)

    def take(self) -> list[int]:
        """Slots that changed since the last call."""
        count = lib.engine_poll_take(self._poll, self._taken, SLOTS)
        return [self._taken[index] for index in range(count)]

    def counts(self) -> Counts:
        counts = lib.engine_poll_counts(self._poll)
        return Counts(counts.looks, counts.wakes, counts.cpu_ns)

    def close(self) -> None:
        """Safe twice."""
        if self._poll != ffi.NULL:
            ffi.release(self._poll)
            self._poll = ffi.NULL
