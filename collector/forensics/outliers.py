"""What stands out in a row of snapshots: counters of trouble that rose, states that changed, values far from usual."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from ...probes.model import Severity
from ..view.words import clean
from .bundle import Line

# (at_ns, severity, kind, entity, text)
Told = tuple[int, Severity, str, str, str]

TROUBLE = re.compile(r"_(?:errors|replay|lost_records|overruns|oom_kills|dropped|retries|stuck)(?:_\w+)?_total")
LEVELS = re.compile(
    r"eagle_eye_(?:device_(?:temperature_celsius|power_watts|clock_hertz|utilization_ratio)|sched_run_queue_seconds"
    r"|tasks_(?:uninterruptible|stuck)|memory_available_bytes)"
)
QUIET = re.compile(r"_(?:count|sum)(?:\{|$)")
MIN_SNAPSHOTS = 8
# Of the usual distance from the median; and of the median itself, so that a value that hardly moves is not shown.
FAR = 8.0
RELATIVE = 0.25
MAX_TOLD = 400


def outliers(snapshots: Sequence[Line]) -> list[Told]:
    """Bounded; of values far from usual, the first of each run."""
    found = [*_states(snapshots), *_values(snapshots)]
    return sorted(found)[:MAX_TOLD]


def _states(snapshots: Sequence[Line]) -> Iterator[Told]:
    known: dict[str, str] = {}
    for line in snapshots:
        for health in line.data.get("health", ()):
            name, state = str(health.get("probe")), str(health.get("state"))
            before = known.get(name, state)
            known[name] = state
            if state != before:
                severity: Severity = "info" if state == "ok" else "warning"
                reason = f": {clean(health['reason'])}" if health.get("reason") else ""
                yield (
                    line.at_ns,
                    severity,
                    "probe.state",
                    "host",
                    f"{clean(name)} went from {before} to {state}{reason}",
                )


def _values(snapshots: Sequence[Line]) -> Iterator[Told]:
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in snapshots:
        for reading in (*line.data.get("host", ()), *line.data.get("device_readings", ())):
            for name, value in _numbers(reading):
                series.setdefault((str(reading.get("entity", "host")), name), []).append((line.at_ns, value))
    for (entity, name), points in series.items():
        if TROUBLE.search(name):
            yield from _rises(entity, name, points)
        elif name.startswith("eagle_eye_device_health{"):
            yield from _health(entity, name, points)
        elif LEVELS.match(name) and len(points) >= MIN_SNAPSHOTS:
            yield from _far(entity, name, points)


def _numbers(reading: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in reading.get("values", {}).items():
        wanted = TROUBLE.search(name) or LEVELS.match(name) or name.startswith("eagle_eye_device_health{")
        if wanted and not QUIET.search(name) and isinstance(value, int | float):
            yield str(name), float(value)


def _rises(entity: str, name: str, points: Sequence[tuple[int, float]]) -> Iterator[Told]:
    for (_, before), (at_ns, now) in pairwise(points):
        if now > before:
            yield at_ns, "warning", "counter", entity, f"{clean(name)} rose by {now - before:g} to {now:g}"


def _health(entity: str, name: str, points: Sequence[tuple[int, float]]) -> Iterator[Told]:
    state = name.partition('"')[2].rpartition('"')[0]
    for (_, before), (at_ns, now) in pairwise(points):
        if now > before:
            severity: Severity = "info" if state == "ok" else "error" if state in ("failed", "stuck") else "warning"
            yield at_ns, severity, "device.health", entity, f"health is {clean(state)}"


def _far(entity: str, name: str, points: Sequence[tuple[int, float]]) -> Iterator[Told]:
    usual = median(value for _, value in points)
    spread = median(abs(value - usual) for _, value in points)
    least = max(FAR * spread, RELATIVE * abs(usual), 1e-9)
    was_far = False
    for at_ns, value in points:
        is_far = abs(value - usual) > least
        if is_far and not was_far:
            yield at_ns, "info", "outlier", entity, f"{clean(name)} is {value:g}; usual in this window is {usual:g}"
        was_far = is_far
