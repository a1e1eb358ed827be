"""The latest state of every engine of the node, for the snapshot; those that ended stay a while."""

from __future__ import annotations

from collections.abc import Iterable

from ..probes.model import EngineState
from .routing.coalesce import without_load

MOST = 256
GONE_STAYS_NS = 60_000_000_000


class EnginesNow:
    """At most `MOST`: those that are gone leave first, then those that were heard of longest ago."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[int, EngineState]] = {}

    def take(self, states: Iterable[EngineState], now_ns: int) -> None:
        for state in states:
            told = without_load(state) if state.kind in ("unknown", "gone") else state
            self._states.pop(state.instance, None)
            self._states[state.instance] = (now_ns, told)
        while len(self._states) > MOST:
            gone = next((name for name, (_, state) in self._states.items() if state.kind == "gone"), None)
            del self._states[gone or next(iter(self._states))]

    def now(self, now_ns: int) -> tuple[EngineState, ...]:
        """In the order of their names."""
        for name, (heard_ns, state) in list(self._states.items()):
            if state.kind == "gone" and now_ns - heard_ns > GONE_STAYS_NS:
                del self._states[name]
        states = [state for _, state in self._states.values()]
        return tuple(sorted(states, key=lambda state: (state.engine, state.model, state.dp_rank, state.instance)))
