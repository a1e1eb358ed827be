"""What a probe is: the shape that its file fills in and the registry lists.

A probe is a `Spec` (static, declared at module level) and a class that the spec's `build` makes.
Everything else follows from the spec: flags, environment names, configuration keys, the row in
`eagle-eye check`, the row in the docs, self-metrics and the exporter's HELP and TYPE lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from msgspec import Struct

from .engine.layout import StepBatch
from .model import Device, DeviceLink, EngineState, Event, Fault, Severity
from .options import Option
from .paths import Paths

MetricKind = Literal["counter", "gauge", "histogram"]


class Metric(Struct, frozen=True):
    """Name (with prefix, base unit, `_total` on counters), kind, HELP text and label names.

    `foreign`: the name is another product's, whose rules it follows; shown only while it has series.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    foreign: bool = False


class Histogram(Struct, frozen=True, eq=False):
    """Counts per bucket (not cumulative) since the probe started.

    `bounds` are inclusive upper bounds in the metric's unit, ascending, without +Inf;
    `counts` has one entry more than `bounds`, the last for everything above.
    """

    bounds: tuple[float, ...]
    counts: np.ndarray[Any, Any]
    total: float


class Series(Struct, frozen=True, eq=False):
    """One value of one metric; `labels` are values in the order of the metric's label names.

    `entity` is what the value is of: "host" or a device's uuid.
    """

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()
    entity: str = "host"


class Sample(Struct, frozen=True, eq=False):
    """What one round of a probe gives.

    `dropped` counts evidence lost since the probe started, by reason (`ring_full`, `rate_limited`, …).
    `degraded`, when not empty, says in one sentence what this probe cannot see here.
    `taken_ns` says of an entity when its values were read, where that was not in this round.
    `engines` are those whose state changed since the round before, `steps` what their schedulers did since then.
    `device_pids` are the processes that have a device open, by its uuid, where the probe knows.
    """

    series: Sequence[Series] = ()
    events: Sequence[Event] = ()
    dropped: Mapping[str, int] = {}
    degraded: str = ""
    devices: Sequence[Device] = ()
    topology: Sequence[DeviceLink] = ()
    taken_ns: Mapping[str, int] = {}
    faults: Sequence[Fault] = ()
    engines: Sequence[EngineState] = ()
    steps: Sequence[StepBatch] = ()
    device_pids: Mapping[str, Sequence[int]] = {}


class Probe(Protocol):
    """A running probe. All calls come from one thread; `sample` may block, at its own cost only."""

    def sample(self, now_ns: int) -> Sample:
        """One round at `now_ns` (CLOCK_MONOTONIC). Any exception counts as this probe's failure."""
        ...

    def wake_fds(self) -> Sequence[int]:
        """Descriptors whose readability asks for a round at once (rings, the kernel log)."""
        ...

    def close(self) -> None:
        """Give back descriptors, maps and links."""
        ...


class EventSource:
    """Makes a probe's events: ids that never repeat within a boot, also over agent restarts.

    The sequence is the event's own time unless the source has a better one (the kernel log's
    record number): time never runs back within a boot, so no counter must be kept on disk.
    """

    def __init__(self, probe: str, *, node: str, cluster: str, boot_id: str) -> None:
        self.probe = probe
        self.node = node
        self.cluster = cluster
        self.boot_id = boot_id
        self._last_seq = -1

    def make(
        self,
        kind: str,
        at_ns: int,
        *,
        entity: str,
        severity: Severity = "info",
        seq: int | None = None,
        **attributes: Any,
    ) -> Event:
        """An event of `kind` (`sched.long_wait`) that happened at `at_ns`; `seq` when the source numbers its own."""
        if seq is None:
            seq = self._last_seq = max(self._last_seq + 1, int(at_ns))
        return Event(
            id=f"{self.boot_id}:{self.probe}:{seq}",
            kind=kind,
            at_ns=int(at_ns),
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            node=self.node,
            cluster=self.cluster,
            boot_id=self.boot_id,
            entity=entity,
            severity=severity,
            attributes=attributes,
        )


class Context(Struct, frozen=True):
    """What a probe is given when it is built. `options` holds parsed values by option name."""

    paths: Paths
    options: Mapping[str, Any]
    events: EventSource


class Spec(Struct, frozen=True):
    """Registration of a probe. `build` raises `UnavailableError` when the machine lacks what it needs.

    `needs` name rows of `probes.needs`; `optional` ones only degrade the probe.
    `period_ns` 0 means every snapshot; rounds that `wake_fds` ask for come `wake_gap_ns` apart or more.
    `cost` is the expected cost in the words of `eagle-eye check`.
    """

    name: str
    help: str
    build: Callable[[Context], Probe]
    metrics: tuple[Metric, ...]
    default_on: bool = True
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    period_ns: int = 0
    deadline_ns: int = 1_000_000_000
    wake_gap_ns: int = 10_000_000
    cost: str = ""
