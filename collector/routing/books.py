"""What became of every change of an engine's state."""

from __future__ import annotations

from collections import Counter

from nats.aio.client import Client


class Books:
    """At any time produced = delivered + coalesced + sum of dropped + held.

    A change is delivered once the server has answered a ping that left after its message, and dropped when the
    connection broke before (it may have arrived; the latest state is sent again). `repeats` are messages without
    a change: heartbeats, changes of health, and the latest states after a new connection.
    """

    def __init__(self) -> None:
        self.produced = 0
        self.delivered = 0
        self.coalesced = 0
        self.repeats = 0
        self.dropped: Counter[str] = Counter()
        self.waiting = 0
        self._unconfirmed = 0

    @property
    def held(self) -> int:
        """Changes that wait, and those that left and are not confirmed yet."""
        return self.waiting + self._unconfirmed

    def left(self, is_change: bool) -> None:
        """A message was handed over."""
        if is_change:
            self.waiting -= 1
            self._unconfirmed += 1
        else:
            self.repeats += 1

    def drop(self, reason: str) -> None:
        """A change that waited is given up."""
        self.waiting -= 1
        self.dropped[reason] += 1

    def mark(self, client: Client) -> int:
        """How many of the unconfirmed a ping that leaves now stands behind: none while nats-py has bytes left."""
        return self._unconfirmed if client.pending_data_size == 0 else 0

    def confirm(self, mark: int) -> None:
        """The ping of `mark` was answered."""
        self._unconfirmed -= mark
        self.delivered += mark

    def disconnected(self) -> None:
        """Nobody knows of those that left."""
        self.dropped["nats_disconnected"] += self._unconfirmed
        self._unconfirmed = 0
