"""Plain lines for pipes and files: one per event, one per second for the node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ...probes.model import Event, Snapshot
from .engines import engine_pairs
from .figures import Figures, figures_of
from .sentences import sentence
from .window import Window
from .words import clean

SECOND_NS = 1_000_000_000
# The timer of a snapshot jitters; without slack every other second would be skipped.
SLACK_NS = 50_000_000
WELL = ("ok", "off")


class PlainLines:
    """Turns snapshots and events into lines; remembers when it last wrote one for the node."""

    def __init__(self) -> None:
        self._window = Window()
        self._written_ns = -SECOND_NS

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> Iterator[str]:
        self._window.add(snapshot)
        for event in events:
            yield event_line(event)
        if snapshot.at_ns - self._written_ns >= SECOND_NS - SLACK_NS:
            self._written_ns = snapshot.at_ns
            yield snapshot_line(snapshot, figures_of(self._window))


def event_line(event: Event) -> str:
    """`2026-01-31T12:00:00.123Z sched.long_wait warning: …`"""
    return f"{timestamp(event.at_ns + event.wall_offset_ns)} {clean(event.kind)} {event.severity}: {sentence(event)}"


def snapshot_line(snapshot: Snapshot, figures: Figures) -> str:
    """`2026-01-31T12:00:00.123Z snapshot run_queue_p99_seconds=0.000012 …`; what is unknown is left out."""
    simulated = sum(device.simulated for device in snapshot.devices)
    pairs = [
        *_numbers(figures),
        *([f"simulated_devices={simulated}"] if simulated else []),
        *engine_pairs(snapshot),
        *([f"open_incidents={len(snapshot.incidents)}"] if snapshot.incidents else []),
        *(f"{clean(one.probe)}={one.state}" for one in snapshot.health if one.state not in WELL),
    ]
    return f"{timestamp(snapshot.at_ns + snapshot.wall_offset_ns)} snapshot seq={snapshot.seq} {' '.join(pairs)}"


def timestamp(wall_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole, rest = divmod(wall_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"


def _numbers(figures: Figures) -> Iterator[str]:
    values: dict[str, float | None] = {
        "run_queue_p50_seconds": figures.run_queue_p50_seconds,
        "run_queue_p99_seconds": figures.run_queue_p99_seconds,
        "context_switches_per_second": figures.context_switches_rate,
        **{f"{name}_waiting_ratio": pressure.some_ratio for name, pressure in figures.pressure.items()},
        "memory_available_bytes": figures.memory_available_bytes,
        "uninterruptible": figures.uninterruptible,
        "stuck": figures.stuck,
        "kmsg_per_second": sum(figures.kernel_log_rates.values()) if figures.kernel_log_rates else None,
    }
    for name, value in values.items():
        if value is not None:
            yield f"{name}={_plain(value)}"


def _plain(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 or value == int(value) else f"{value:.6f}".rstrip("0")
