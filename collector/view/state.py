"""What the screen shows, gathered from snapshots and events; bounded however long it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from msgspec import Struct

from ...probes.model import Event, Snapshot
from .figures import RUN_QUEUE, Figures, figures_of
from .window import Window

MAX_KINDS = 64
MAX_EVENTS_PER_KIND = 16
MAX_HISTORY = 30


class Cost(Struct, frozen=True):
    """What this process costs."""

    cpu_ratio: float
    resident_bytes: int


class State(Struct, frozen=True):
    """All that a screen shows. `waits` are the last p99 waits in seconds, oldest first, None where unknown.

    `events` are the last ones of each kind, in no order.
    """

    snapshot: Snapshot
    figures: Figures
    waits: tuple[float | None, ...]
    events: tuple[Event, ...]
    addresses: Mapping[str, str]
    kernel: str
    cost: Cost | None = None


class View:
    """Gathers snapshots and events into the state of the screen; bounded in memory."""

    def __init__(self, kernel: str, addresses: Mapping[str, str]) -> None:
        self._kernel = kernel
        self._addresses = addresses
        self._snapshot: Snapshot | None = None
        self._window = Window()
        self._waits: deque[float | None] = deque(maxlen=MAX_HISTORY)
        self._events: dict[str, deque[Event]] = {}

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        self._snapshot = snapshot
        self._window.add(snapshot)
        self._waits.append(self._window.value(RUN_QUEUE, quantile="0.99"))
        self._keep(events)

    def state(self, cost: Cost | None = None) -> State:
        """What to show now; there must have been a snapshot."""
        assert self._snapshot is not None
        return State(
            snapshot=self._snapshot,
            figures=figures_of(self._window),
            waits=tuple(self._waits),
            events=tuple(event for kept in self._events.values() for event in kept),
            addresses=self._addresses,
            kernel=self._kernel,
            cost=cost,
        )

    def _keep(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind in self._events or len(self._events) < MAX_KINDS:
                self._events.setdefault(event.kind, deque(maxlen=MAX_EVENTS_PER_KIND)).append(event)
