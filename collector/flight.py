"""The head of the outbox: messages that are ready to send, and those that are sent and not settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .spool import Record


class Entry:
    """`number` is 0 until the disk has it; `passed` once it and everything before it is settled."""

    __slots__ = ("done", "drop_reason", "number", "passed", "promoted", "record", "size_bytes")

    def __init__(self, record: Record, number: int = 0) -> None:
        self.record: Record | None = record
        self.number = number
        self.size_bytes = len(record.payload) + 256
        self.promoted = number > 0
        self.done = False
        self.passed = False
        self.drop_reason = ""


class Flight:
    """Keeps order. `take` gives a token for each sending; a token of before the last `rewind` settles nothing.

    `on_pass` is called for each entry, in order, once it and everything before it is settled; `size_bytes` is
    what all entries take, `in_flight_bytes` those in flight.
    """

    def __init__(self, on_pass: Callable[[Entry], None]) -> None:
        self.size_bytes = 0
        self.in_flight_bytes = 0
        self.ready: deque[Entry] = deque()
        self.flying: deque[Entry] = deque()
        self._on_pass = on_pass
        self._first_token = 0

    def __len__(self) -> int:
        return len(self.ready) + len(self.flying)

    @property
    def in_flight(self) -> int:
        """Messages sent and not passed yet."""
        return len(self.flying)

    def add(self, entry: Entry) -> None:
        """Make `entry` the last that is ready."""
        self.ready.append(entry)
        self.size_bytes += entry.size_bytes

    def peek(self) -> Record | None:
        """The message that `take` would give."""
        return self.ready[0].record if self.ready else None

    def take(self) -> int:
        """Put the next message in flight; the token that settles it."""
        entry = self.ready.popleft()
        self.flying.append(entry)
        self.in_flight_bytes += entry.size_bytes
        return self._first_token + len(self.flying) - 1

    def is_flying(self, token: int) -> bool:
        """`token` was given for a message that is in flight and not settled yet."""
        index = token - self._first_token
        return 0 <= index < len(self.flying) and not self.flying[index].done

    def settle(self, token: int, drop_reason: str = "") -> bool:
        """The message of `token` arrived, or can never be sent and is dropped; False when that is no news."""
        if not self.is_flying(token):
            return False
        entry = self.flying[token - self._first_token]
        entry.done = True
        entry.drop_reason = drop_reason
        while self.flying and self.flying[0].done:
            self._pass(self.flying.popleft())
        return True

    def _pass(self, entry: Entry) -> None:
        self._first_token += 1
        self.size_bytes -= entry.size_bytes
        self.in_flight_bytes -= entry.size_bytes
        entry.passed = True
        entry.record = None
        self._on_pass(entry)

    def rewind(self) -> None:
        """Nothing in flight can be counted on: make all of it ready again, also what was settled out of turn."""
        self._first_token += len(self.flying)
        for entry in self.flying:
            entry.done = False
        self.ready.extendleft(reversed(self.flying))
        self.flying.clear()
        self.in_flight_bytes = 0
