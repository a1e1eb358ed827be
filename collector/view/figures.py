"""The few figures of a node that people watch, out of the last second of snapshots. Unknown is None, never zero."""

from __future__ import annotations

from msgspec import Struct

from .window import Window

RUN_QUEUE = "eagle_eye_sched_run_queue_seconds"
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
    memory_total_bytes: float | None
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
        context_switches_rate=window.rate("eagle_eye_sched_context_switches_total"),
        long_waits_rate=window.rate("eagle_eye_sched_long_waits_total"),
        pressure={resource: _pressure(window, resource) for resource in RESOURCES},
        load=window.value("eagle_eye_load_1m"),
        memory_total_bytes=window.value("eagle_eye_memory_total_bytes"),
        memory_available_bytes=window.value("eagle_eye_memory_available_bytes"),
        uninterruptible=window.total("eagle_eye_tasks_uninterruptible"),
        stuck=window.total("eagle_eye_tasks_stuck"),
        oom_kills=window.total("eagle_eye_oom_kills_total"),
        throttled=_throttled(window),
        kernel_log_rates={labels["level"]: rate for labels, rate in window.rates("eagle_eye_kmsg_records_total")},
        kernel_log_lost=window.total("eagle_eye_kmsg_lost_records_total"),
    )


def _pressure(window: Window, resource: str) -> Pressure:
    waiting = "eagle_eye_pressure_waiting_seconds_total"
    return Pressure(
        some_ratio=window.rate(waiting, resource=resource, kind="some"),
        full_ratio=window.rate(waiting, resource=resource, kind="full"),
    )


def _throttled(window: Window) -> tuple[tuple[str, float], ...] | None:
    """Cgroups held back by their CPU limit just now, with the share of time, most first."""
    metric = "eagle_eye_cgroup_throttled_seconds_total"
    if window.total(metric) is None:
        return None
    named = [(labels.get("container") or labels.get("cgroup", "?"), rate) for labels, rate in window.rates(metric)]
    return tuple(sorted((pair for pair in named if pair[1] > 0), key=lambda pair: -pair[1]))
