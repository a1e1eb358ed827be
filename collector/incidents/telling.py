"""What is published of faults and incidents: each distinct fault once, incidents at once or once a second."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from ...probes.model import Event, Fault
from ...probes.probe import EventSource
from .engine import Change

TELL_AGAIN_NS = 600_000_000_000
UPDATE_GAP_NS = 1_000_000_000
URGENT_GAP_NS = 100_000_000
MAX_KNOWN = 8192
MAX_CODES = 1024
# Of one code on one entity, distinct ones in a minute; what is above is in its incident's count.
MAX_DISTINCT = 60
MINUTE_NS = 60_000_000_000

KINDS = {
    "opened": "incident.opened",
    "updated": "incident.updated",
    "escalated": "incident.escalated",
    "cleared": "incident.cleared",
    "reopened": "incident.reopened",
}
_OF_EVENT = ("id", "at_ns", "entity", "severity")


class FaultTeller:
    """Makes an event of a fault that was not told before, or not for ten minutes."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._known: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._lately: OrderedDict[tuple[str, str, str], deque[int]] = OrderedDict()

    def tell(self, fault: Fault, entity: str, incident: str, wall_offset_ns: int) -> Event | None:
        """The event, None for one that is alike; `entity` and `incident` are what became of it."""
        if not self._is_new(fault, entity):
            return None
        attributes = to_builtins(fault)
        for name in _OF_EVENT:
            attributes.pop(name, None)
        if incident:
            attributes["incident"] = incident
        return Event(
            id=fault.id if fault.id.count(":") >= 2 else f"{self._source.boot_id}:{fault.id}",
            kind=fault.family,
            at_ns=fault.at_ns,
            wall_offset_ns=wall_offset_ns,
            node=self._source.node,
            cluster=self._source.cluster,
            boot_id=self._source.boot_id,
            entity=entity,
            severity=fault.severity,
            attributes=attributes,
        )

    def _is_new(self, fault: Fault, entity: str) -> bool:
        alike = (entity, fault.family, fault.code, fault.subcode, fault.cause, fault.pid, fault.phase, _digest(fault))
        told_ns = self._known.get(alike)
        if told_ns is not None and fault.at_ns - told_ns < TELL_AGAIN_NS:
            return False
        if not self._has_room((entity, fault.family, fault.code), fault.at_ns):
            return False
        self._known[alike] = fault.at_ns
        self._known.move_to_end(alike)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return True

    def _has_room(self, key: tuple[str, str, str], at_ns: int) -> bool:
        times = self._lately.setdefault(key, deque(maxlen=MAX_DISTINCT))
        self._lately.move_to_end(key)
        if len(self._lately) > MAX_CODES:
            self._lately.popitem(last=False)
        if len(times) == MAX_DISTINCT and at_ns - times[0] < MINUTE_NS:
            return False
        times.append(at_ns)
        return True


class IncidentTeller:
    """Makes events of changes: what is new at once, what goes on or goes to and fro once per incident and second."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._waiting: dict[str, Change] = {}
        self._told_ns: dict[str, int] = {}

    def tell(self, changes: list[Change], now_ns: int) -> list[Event]:
        """Events of what cannot wait; the rest waits for `due`, of each incident the last change alone."""
        events = []
        for change in changes:
            if self._may_tell(change, now_ns):
                events.append(self._event(change, now_ns))
            elif change.kind != "updated" or change.record.id not in self._waiting:
                self._waiting[change.record.id] = change
        return events

    def due(self, now_ns: int) -> list[Event]:
        """Events of what has waited for long enough."""
        ready = [change for change in self._waiting.values() if self._age_ns(change, now_ns) >= UPDATE_GAP_NS]
        self._told_ns = {key: at_ns for key, at_ns in self._told_ns.items() if now_ns - at_ns < UPDATE_GAP_NS}
        return [self._event(change, now_ns) for change in ready]

    def _may_tell(self, change: Change, now_ns: int) -> bool:
        if change.kind in ("opened", "escalated"):
            return True
        if change.kind == "updated" and not change.urgent:
            return False
        waits = change.record.id in self._waiting and self._waiting[change.record.id].kind != "updated"
        gap_ns = URGENT_GAP_NS if change.kind == "updated" and not waits else UPDATE_GAP_NS
        return self._age_ns(change, now_ns) >= gap_ns or (change.kind == "cleared" and not change.record.reopened)

    def _age_ns(self, change: Change, now_ns: int) -> int:
        return now_ns - self._told_ns.get(change.record.id, now_ns - UPDATE_GAP_NS)

    def _event(self, change: Change, now_ns: int) -> Event:
        record = change.record
        self._waiting.pop(record.id, None)
        if change.kind != "opened":
            self._told_ns[record.id] = now_ns
        kind = "cleared" if record.state == "cleared" else change.kind
        incident = record.export(self._source.node, self._source.cluster)
        event = self._source.make(
            KINDS[kind],
            now_ns,
            entity=incident.entity,
            severity="info" if kind == "cleared" else incident.severity,
        )
        return replace(event, attributes=to_builtins(incident))


def _digest(fault: Fault) -> int:
    try:
        return hash(msgspec.msgpack.encode(fault.fields))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return hash(repr(fault.fields))
