"""When a state goes out: at once on an edge, else no more often than the floor, and never later than promised."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ...probes.model import EngineState

KV_MARK_RATIO = 0.9
IN_FLIGHT_MARK_NS = 100_000_000
# Edges in a row are coalesced too: an engine that flutters must not set the rate of the feed.
EDGE_GAP_NS = 1_000_000
# More steps at once than any engine makes between two looks: the number was not counted but written.
MOST_STEPS = 1_000_000

_WORKING = ("step", "tick")
_LOAD = (
    "running", "waiting", "deferred", "input_queue", "waiting_prefill_tokens", "running_context_tokens",
    "kv_blocks_free", "kv_usage_ratio", "step_duration_ns", "schedule_duration_ns", "prefill_requests",
    "prefill_tokens", "decode_requests", "decode_tokens", "in_flight_age_ns",
)  # fmt: skip


class Pace(Struct, frozen=True):
    """Between two messages of one engine: at least `floor_ns`, and at most `beat_ns` when nothing changes."""

    floor_ns: int = 10_000_000
    beat_ns: int = 500_000_000


class Line:
    """One engine on its way out: the state that waits (`pending`), the one that left last (`sent`).

    Every change counts once: as the one that a message carries, or as coalesced.
    """

    __slots__ = ("changes", "edge", "latest", "pending", "sent", "sent_ns", "seq")

    def __init__(self) -> None:
        self.latest: EngineState | None = None
        self.pending = False
        self.edge = False
        self.changes = 0
        self.sent: EngineState | None = None
        self.sent_ns = 0
        self.seq = 0

    def offer(self, state: EngineState) -> tuple[int, int]:
        """Takes a newer state; how many changes it stands for, and how many are coalesced now."""
        changes = _changes(self.latest, state)
        coalesced = changes - 1 + self.pending
        self.edge = self.edge or self.sent is None or is_edge(self.sent, state)
        self.latest = state
        self.pending = True
        self.changes += changes
        return changes, coalesced

    def due_ns(self, pace: Pace) -> int:
        """When the next message leaves."""
        if self.sent is None:
            return 0
        if self.edge:
            return self.sent_ns + min(EDGE_GAP_NS, pace.floor_ns)
        if not self.pending:
            return self.sent_ns + pace.beat_ns
        # The probe has coalesced what the plugin says, at ends of steps: to wait again would make it old.
        is_paced = self.latest is not None and self.latest.source == "plugin"
        return self.sent_ns + (pace.floor_ns // 2 if is_paced else pace.floor_ns)

    def leave(self, now_ns: int) -> int:
        """A message leaves now; how many other changes its state stands for."""
        coalesced = max(0, self.changes - 1)
        self.pending = self.edge = False
        self.changes = 0
        self.sent, self.sent_ns = self.latest, now_ns
        self.seq += 1
        return coalesced

    def repeat(self) -> None:
        """Nobody knows whether the last message arrived: the latest state is due."""
        self.sent = None


def is_edge(before: EngineState, now: EngineState) -> bool:
    """Whether a router must not wait for `now`."""
    if now.kind not in (before.kind, "tick"):
        return True  # also the end of a step that was so long that it was told of meanwhile
    if now.kind == "tick" and before.kind not in _WORKING:
        return True
    return (
        (_queue(now) > 0) > (_queue(before) > 0)
        or (now.kv_usage_ratio or 0.0) >= KV_MARK_RATIO > (before.kv_usage_ratio or 0.0)
        or (now.in_flight_age_ns or 0) >= IN_FLIGHT_MARK_NS > (before.in_flight_age_ns or 0)
        or (now.preemptions_total or 0) > (before.preemptions_total or 0)
    )


def silent(state: EngineState) -> EngineState:
    """What is left of `state` when its source says nothing more: who it is, and no load."""
    return without_load(msgspec.structs.replace(state, kind="unknown"))


def without_load(state: EngineState) -> EngineState:
    """Who is silent or gone may have had a load; what it is now is not known."""
    return msgspec.structs.replace(state, **dict.fromkeys(_LOAD))


def _queue(state: EngineState) -> int:
    return (state.waiting or 0) + (state.deferred or 0) + (state.input_queue or 0)


def _changes(before: EngineState | None, now: EngineState) -> int:
    """Steps since the state before, where both are numbered: what lies between was coalesced by the reader."""
    steps = now.step - before.step if before is not None else 1
    return steps if 1 <= steps <= MOST_STEPS else 1
