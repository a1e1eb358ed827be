"""What the agent tells about its probes and its build. The state of a probe is never left to guess."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from ..probes.model import Health, HealthState
from ..probes.probe import Metric, Series
from .exporter import UP_STATES, Source

PROBE_UP = Metric("eagle_eye_probe_up", "gauge", "1 while the probe sees what it should, also if degraded.", ("probe",))
PROBE_STATE = Metric("eagle_eye_probe_state", "gauge", "1 for the state the probe is in.", ("probe", "state"))
PROBE_DURATION = Metric(
    "eagle_eye_probe_duration_seconds", "gauge", "Time that the last round of the probe took.", ("probe",)
)
PROBE_LAST_SUCCESS = Metric(
    "eagle_eye_probe_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the probe's last round that worked.",
    ("probe",),
)
EVENTS = Metric("eagle_eye_events_total", "counter", "Events that the probe made.", ("probe",))
EVENTS_DROPPED = Metric(
    "eagle_eye_events_dropped_total",
    "counter",
    "Evidence that the probe lost, by reason.",
    ("probe", "reason"),
)
BUILD_INFO = Metric(
    "eagle_eye_build_info", "gauge", "Versions of this agent and what it runs on.", ("version", "python", "libbpf")
)

_STATES: tuple[str, ...] = get_args(HealthState)


def probe_health(health: Callable[[], Iterable[Health]]) -> Source:
    """The source of every probe's own health; `health` gives the latest of each."""
    metrics = (PROBE_UP, PROBE_STATE, PROBE_DURATION, PROBE_LAST_SUCCESS, EVENTS, EVENTS_DROPPED)
    return Source("probe_health", metrics, lambda: [series for one in health() for series in _series(one)])


def build_info(version: str, libbpf: str) -> Source:
    """The source of the build's identity; `libbpf` is "" where the library is missing."""
    series = [Series(BUILD_INFO, 1, (version, platform.python_version(), libbpf))]
    return Source("build_info", (BUILD_INFO,), lambda: series)


def _series(health: Health) -> Iterator[Series]:
    probe = health.probe
    for state in _STATES:
        yield Series(PROBE_STATE, float(state == health.state), (probe, state))
    if health.state == "off":
        return
    yield Series(PROBE_UP, float(health.state in UP_STATES), (probe,))
    yield Series(PROBE_DURATION, health.duration_ns / 1e9, (probe,))
    if health.last_success_ns:
        yield Series(PROBE_LAST_SUCCESS, _unix_seconds(health.last_success_ns), (probe,))
    yield Series(EVENTS, health.events, (probe,))
    for reason, count in health.dropped.items():
        yield Series(EVENTS_DROPPED, count, (probe, reason))


def _unix_seconds(at_ns: int) -> float:
    return round((at_ns + time.time_ns() - time.monotonic_ns()) / 1e9, 3)
