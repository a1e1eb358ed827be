"""Where decoded records wait for others that belong to them; all leave in the order of the log."""

from __future__ import annotations

from collections import deque

from msgspec import Struct, structs

from .family import Decoded, Family
from .record import Record

HOLD_NS = 20_000_000
HOLD_RECORDS = 64
_MAX_HELD = 64
_MAX_OPEN = 16  # of a family
_MAX_LINES = 256
_JOIN_NS = 1_000_000_000


class Found(Struct, frozen=True, gc=False):
    """What was decoded, of which record, and the places in the log of all records that it covers.

    `count` is how often the log says that it came: more than 1 for a record that tells of repeats.
    """

    decoded: Decoded
    record: Record
    lines: tuple[int, ...]
    count: int = 1


class _Held:
    __slots__ = ("found", "open", "since_ns")

    def __init__(self, found: Found, now_ns: int) -> None:
        self.found = found
        self.since_ns = now_ns
        self.open = found.decoded.incomplete

    def may_be_joined(self, record: Record, now_ns: int) -> bool:
        """Soon enough. Of a record with several lines only the first may have a time."""
        then_ns = self.found.record.at_ns
        soon = record.at_ns < 0 or (then_ns >= 0 and abs(record.at_ns - then_ns) <= _JOIN_NS)
        return soon and not self.expired(record.line, now_ns)

    def expired(self, line: int, now_ns: int) -> bool:
        return line - self.found.lines[-1] > HOLD_RECORDS or now_ns - self.since_ns >= HOLD_NS

    def leave(self) -> Found:
        decoded = self.found.decoded
        if not decoded.incomplete:
            return self.found
        return structs.replace(self.found, decoded=structs.replace(decoded, incomplete=False))


class WaitingRoom:
    """Bounded in what it holds, in how many records pass meanwhile, and in time where the log is live."""

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._open: dict[str, deque[_Held]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def enter(self, family: Family, found: Found, now_ns: int) -> None:
        held = _Held(found, now_ns)
        self._held.append(held)
        if held.open:
            self._open.setdefault(family.name, deque(maxlen=_MAX_OPEN)).append(held)

    def join(self, family: Family, later: Decoded, record: Record, now_ns: int) -> Found | None:
        """What `later` belongs to, with it; the youngest first."""
        if family.join is None:
            return None
        for held in reversed(self._open.get(family.name, ())):
            joined = family.join(held.found.decoded, later) if held.open else None
            if joined is not None and held.may_be_joined(record, now_ns):
                held.found = structs.replace(held.found, decoded=joined, lines=(*held.found.lines, record.line))
                held.open = joined.incomplete and len(held.found.lines) < _MAX_LINES
                return held.found
        return None

    def leave(self, line: int, now_ns: int) -> list[Found]:
        """Those that need not wait any more when the log has come to `line`."""
        given = []
        while self._held and (
            not self._held[0].open or len(self._held) > _MAX_HELD or self._held[0].expired(line, now_ns)
        ):
            given.append(self._pop())
        return given

    def leave_in_time(self, now_ns: int | None) -> list[Found]:
        """Those that have waited long enough at `now_ns`; all without one."""
        given = []
        while self._held and (now_ns is None or not self._held[0].open or now_ns - self._held[0].since_ns >= HOLD_NS):
            given.append(self._pop())
        return given

    def _pop(self) -> Found:
        held = self._held.popleft()
        held.open = False
        return held.leave()
