"""The few figures of a node that people watch, out of the last second of snapshots. Unknown is None, never zero."""

from __future__ import annotations

from msgspec import Struct

from .window import Window

RUN_QUEUE = "eagle_eye_sched_run_queue_seconds"
CONTEXT_SWITCHES = "eagle_eye_sched_context_switches_total"
LONG_WAITS = "eagle_eye_sched_long_waits_total"
WAITING = "eagle_eye_pressure_waiting_seconds_total"
LOAD = "eagle_eye_load_average"
MEMORY_SIZE = "eagle_eye_memory_size_bytes"
MEMORY_AVAILABLE = "eagle_eye_memory_available_bytes"
THROTTLED = "eagle_eye_cgroup_throttled_seconds_total"
THROTTLED_LEFT_OUT = "eagle_eye_cgroup_left_out"
UNINTERRUPTIBLE = "eagle_eye_tasks_uninterruptible"
STUCK = "eagle_eye_tasks_stuck"
OOM_KILLS = "eagle_eye_oom_kills_total"
LOG_RECORDS = "eagle_eye_kmsg_records_total"
LOG_LOST = "eagle_eye_kmsg_lost_records_total"

RESOURCES = ("cpu", "memory", "io")
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class Pressure(Struct, frozen=True):
    """Share of time in which some, or all, tasks waited for a resource."""

    some_ratio: float | None = None
    full_ratio: float | None = None


class Figures(Struct, frozen=True):
    """Per second, in seconds, bytes and ratios, as the names say."""

    run_queue_p50_seconds: float | None
    run_queue_p99_seconds: float | None
    context_switches_rate: float | None
    long_waits_rate: float | None
    pressure: dict[str, Pressure]
    load: float | None
    memory_size_bytes: float | None
    memory_available_bytes: float | None
    uninterruptible: float | None
    stuck: float | None
    oom_kills: float | None
    throttled: tuple[tuple[str, float], ...] | None
    kernel_log_rates: dict[str, float]
    kernel_log_lost: float | None


def figures_of(window: Window) -> Figures:
    return Figures(
        run_queue_p50_seconds=window.value(RUN_QUEUE, quantile="0.5"),
        run_queue_p99_seconds=window.value(RUN_QUEUE, quantile="0.99"),
        context_switches_rate=window.rate(CONTEXT_SWITCHES),
        long_waits_rate=window.rate(LONG_WAITS),
        pressure={resource: _pressure(window, resource) for resource in RESOURCES},
        load=window.value(LOAD, window="1m"),
        memory_size_bytes=window.value(MEMORY_SIZE),
        memory_available_bytes=window.value(MEMORY_AVAILABLE),
        uninterruptible=window.total(UNINTERRUPTIBLE),
        stuck=window.total(STUCK),
        oom_kills=window.total(OOM_KILLS),
        throttled=_throttled(window),
        kernel_log_rates={labels["level"]: rate for labels, rate in window.rates(LOG_RECORDS)},
        kernel_log_lost=window.total(LOG_LOST),
    )


def _pressure(window: Window, resource: str) -> Pressure:
    return Pressure(
        some_ratio=window.rate(WAITING, resource=resource, kind="some"),
        full_ratio=window.rate(WAITING, resource=resource, kind="full"),
    )


def _throttled(window: Window) -> tuple[tuple[str, float], ...] | None:
    """Cgroups held back by their CPU quota just now, with the time per second, summed over CPUs, most first."""
    if window.value(THROTTLED_LEFT_OUT) is None:
        return None
    named = [(labels.get("cgroup", "?"), rate) for labels, rate in window.rates(THROTTLED) if rate > 0]
    return tuple(sorted(named, key=lambda pair: -pair[1]))
