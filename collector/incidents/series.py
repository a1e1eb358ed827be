"""Faults and incidents on the page of metrics. Label sets are bounded, and nothing cleared looks current."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ...probes.model import Fault
from ...probes.probe import Histogram, Metric, Series
from .engine import Change, Engine
from .places import HOST, Places, is_part
from .record import ACTIONS, SEVERITIES, Record

MAX_CODES = 500
MAX_ACTIVE = 1000
# A fault that ended is shown as 0 for so long, so that every scrape sees the end.
SHOWN_AFTER_END_NS = 15 * 60 * 1_000_000_000
BOUNDS_SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0)

FAULTS = Metric(
    "eagle_eye_faults_total",
    "counter",
    "Faults by family and code; past 500 codes the code is other.",
    ("family", "code"),
)
ACTIVE = Metric(
    "eagle_eye_fault_active",
    "gauge",
    "1 while an open incident holds the fault, 0 for 15 minutes after it was cleared; gpu, uuid and model are empty "
    "for what is no accelerator, device is the PCI address or, without one, what names it: disk:sda.",
    ("gpu", "uuid", "model", "device", "family", "code"),
)
OPEN = Metric("eagle_eye_incidents_open", "gauge", "Open incidents by severity and action.", ("severity", "action"))
CHANGES = Metric(
    "eagle_eye_incidents_total",
    "counter",
    "Incidents that were opened, reopened, escalated or cleared.",
    ("change",),
)
DROPPED = Metric(
    "eagle_eye_incidents_dropped_total",
    "counter",
    "Faults that are in no incident, or no longer, because there were too many; and those that failed.",
    ("reason",),
)
DURATION = Metric("eagle_eye_incident_open_seconds", "histogram", "How long incidents were open that were cleared.")
SAVE_ERRORS = Metric(
    "eagle_eye_incidents_save_errors_total", "counter", "Times the incidents could not be written to the state folder."
)
FOLDED = Metric(
    "eagle_eye_fault_events_folded_total",
    "counter",
    "Faults that made no event of their own, for one alike was told in the last ten minutes or 60 of the same code in "
    "the last one; their incident counts them.",
)
METRICS = (FAULTS, FOLDED, ACTIVE, OPEN, CHANGES, DROPPED, DURATION, SAVE_ERRORS)

_COUNTED = ("opened", "reopened", "escalated", "cleared")
_REASONS = ("too_many_open", "displaced", "too_many_parts", "failed")
_Labels = tuple[str, str, str, str, str, str]


class Figures:
    """Counts what the series tell; `series` is for the exporter."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self.save_errors = 0
        self.folded = 0
        self._engine = engine
        self._places = places
        self._faults: Counter[tuple[str, str]] = Counter()
        self._changes: Counter[str] = Counter()
        self._durations = np.zeros(len(BOUNDS_SECONDS) + 1, np.int64)
        self._duration_seconds = 0.0

    def count(self, fault: Fault, new: int) -> None:
        """`new` faults that nobody had told yet; a recovery is none."""
        if new and fault.phase != "recovery":
            key = (fault.family, fault.code)
            if key not in self._faults and len(self._faults) >= MAX_CODES:
                key = (fault.family, "other")
            if key not in self._faults and len(self._faults) >= 2 * MAX_CODES:
                key = ("other", "other")
            self._faults[key] += new

    def note(self, change: Change) -> None:
        self._changes[change.kind] += 1
        if change.kind == "cleared" and not change.record.merged_into:
            record = change.record
            seconds = max(0.0, (record.cleared_wall_ns - record.opened_wall_ns) / 1e9)
            self._durations[np.searchsorted(BOUNDS_SECONDS, seconds)] += 1
            self._duration_seconds += seconds

    def series(self) -> Iterator[Series]:
        for labels, count in self._faults.items():
            yield Series(FAULTS, count, labels)
        yield Series(FOLDED, self.folded)
        for active, value in self._active().items():
            yield Series(ACTIVE, value, active)
        opened = Counter((one.severity, one.action) for one in self._engine.book.open.values())
        for severity in SEVERITIES:
            for action in ACTIONS:
                yield Series(OPEN, opened[severity, action], (severity, action))
        for change in _COUNTED:
            yield Series(CHANGES, self._changes[change], (change,))
        for reason in _REASONS:
            yield Series(DROPPED, self._engine.dropped[reason], (reason,))
        yield Series(DURATION, Histogram(BOUNDS_SECONDS, self._durations.copy(), self._duration_seconds))
        yield Series(SAVE_ERRORS, self.save_errors)

    def _active(self) -> dict[_Labels, int]:
        since_ns = time.time_ns() - SHOWN_AFTER_END_NS
        ended = [one for one in self._engine.book.cleared.values() if one.cleared_wall_ns >= since_ns]
        found = {labels: 0 for record in ended for labels in self._labels(record)}
        for record in self._engine.book.open.values():
            for labels in self._labels(record):
                found.pop(labels, None)
                found[labels] = 1
        newest = list(found.items())[-MAX_ACTIVE:]
        return dict(newest)

    def _labels(self, record: Record) -> Iterator[_Labels]:
        for part in record.parts:
            device = self._places.device(part.place.entity)
            gpu, model = ("", "") if device is None else (str(device.index), device.model)
            entity = part.place.entity
            is_uuid = entity != HOST and not entity.startswith("pci:") and not is_part(entity)
            where = entity if is_part(entity) else part.place.address
            yield (gpu, entity if is_uuid else "", model, where, part.family, part.code)
