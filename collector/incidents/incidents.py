"""Faults become incidents: sources merged, events made, figures counted, state kept over restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog

from ...probes.model import Device, DeviceLink, Event, Fault, Incident
from ...probes.paths import Paths
from ...probes.probe import EventSource, Sample, Series
from ..exporter import Source
from ..io_thread import IoThread
from . import requests, state
from .engine import Change, Engine
from .merge import Merger
from .places import Places
from .rules import Rules, load
from .series import METRICS, Figures
from .telling import FaultTeller, IncidentTeller

DIRECTORY = "incidents"
TICK_S = 1.0
ENGINE_TICK_NS = 1_000_000_000
SAVE_GAP_NS = 1_000_000_000
URGENT_SAVE_GAP_NS = 50_000_000
# A large state is saved less often: saving may take a hundredth of the time.
SAVE_SHARE = 100
STOP_S = 2.0
MAX_MARKS = 64
# Two readings of one log do not agree to the nanosecond on when a record was written.
SAME_TIME_NS = 1_000_000_000
MAX_SNAPSHOT_INCIDENTS = 64
MAX_SNAPSHOT_PARTS = 8
RESETS = {
    "device.appeared": "the device went away and came back",
    "device.counter_reset": "the device's counters began anew",
}

log = structlog.get_logger(component="incidents")


class Incidents:
    """The incidents of this node; everything but the writing of files runs on the event loop.

    `directory` is STATE_DIR/incidents. `take` gives the events to publish; `run` saves, heeds requests and makes the
    events that have waited.
    """

    def __init__(
        self, directory: Path, *, node: str, cluster: str, boot_id: str, paths: Paths, rules: Rules | None = None
    ) -> None:
        self._directory = directory
        self._boot_id = boot_id
        self._rules = rules or load()
        self._places = Places(paths.sys)
        self._engine = Engine(self._rules, self._places, boot_id)
        self._merger = Merger(self._rules.merge.window)
        events = EventSource("incidents", node=node, cluster=cluster, boot_id=boot_id)
        self._faults = FaultTeller(events)
        self._incidents = IncidentTeller(events)
        self._figures = Figures(self._engine, self._places)
        self._names = (node, cluster)
        self._marks: dict[str, tuple[int, int]] = {}
        self._old_marks: dict[str, tuple[int, int]] = {}
        self._gone: set[str] = set()
        self._dirty = self._urgent = True
        self._saving: asyncio.Task[None] | None = None
        self._saved_ns = self._encode_ns = self._ticked_ns = 0
        self._wake = asyncio.Event()
        self._early = self._restore()

    def take(self, sample: Sample) -> list[Event]:
        """Everything that a probe's round tells about faults; events to publish. Never raises."""
        now_ns = time.monotonic_ns()
        events = self._learn(sample.devices, sample.topology, now_ns) if sample.devices else []
        for event in sample.events:
            if event.kind.startswith("device."):
                events += self._heed_device(event, now_ns)
        for fault in sample.faults:
            try:
                events += self._take(fault, now_ns)
            except Exception as error:  # one strange fault must not cost the others
                self._engine.dropped["failed"] += 1
                log.warning(
                    "a fault could not be taken", family=fault.family, code=fault.code, reason=repr(error)[:200]
                )
        return events

    def tick(self) -> list[Event]:
        """What time and the operator have brought; events to publish."""
        now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        changes = [*self._early, *self._heed_requests(wall_ns)]
        self._early = []
        if now_ns - self._ticked_ns >= ENGINE_TICK_NS:
            self._ticked_ns = now_ns
            changes += self._engine.tick(now_ns, wall_ns)
        return [*self._tell(changes, now_ns), *self._incidents.due(now_ns)]

    async def run(self, publish: Callable[[Sequence[Event]], None]) -> None:
        """Works until cancelled, then saves."""
        thread = IoThread("incidents")
        try:
            while True:
                self._publish_tick(publish)
                self._save_if_due(thread)
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), TICK_S)
                except TimeoutError:
                    continue
        finally:
            try:
                await asyncio.wait_for(asyncio.shield(self._save(thread)), STOP_S)
            except TimeoutError:
                log.warning("incidents were not saved: the disk does not answer", directory=str(self._directory))
            thread.close()

    def _publish_tick(self, publish: Callable[[Sequence[Event]], None]) -> None:
        try:
            publish(self.tick())
        except Exception as error:  # the next tick may do better; a task that died would tell nobody
            log.warning("a round of the incidents failed", reason=repr(error)[:200])

    def open(self) -> tuple[Incident, ...]:
        """The open incidents, the most severe first; at most 64, each with its first parts."""
        records = self._engine.book.open.values()
        worst = sorted(records, key=lambda one: (-one.weight, -one.updated_wall_ns))
        return tuple(one.export(*self._names, MAX_SNAPSHOT_PARTS) for one in worst[:MAX_SNAPSHOT_INCIDENTS])

    def source(self) -> Source:
        """Their part of the page of metrics."""
        return Source("incidents", METRICS, self._series)

    def save(self) -> None:
        """Writes the state now. Raises OSError."""
        state.write(self._directory, self._content())

    def _series(self) -> Iterator[Series]:
        return self._figures.series()

    def _take(self, fault: Fault, now_ns: int) -> list[Event]:
        if self._is_replayed(fault):
            return []
        entity = self._places.place(fault).entity
        new = self._merger.new(entity, fault)
        self._figures.count(fault, new)
        wall_offset_ns = time.time_ns() - time.monotonic_ns()
        changes = self._engine.take(fault, new, wall_offset_ns)
        incident = next((change.record.id for change in reversed(changes)), "")
        told = self._faults.tell(fault, entity, incident, wall_offset_ns) if new else None
        self._figures.folded += new if told is None else 0
        return [*([told] if told else []), *self._tell(changes, now_ns)]

    def _tell(self, changes: list[Change], now_ns: int) -> list[Event]:
        for change in changes:
            self._figures.note(change)
            self._dirty = True
            if change.urgent:
                self._urgent = True
                self._wake.set()
        return self._incidents.tell(changes, now_ns)

    def _is_replayed(self, fault: Fault) -> bool:
        """Whether it is in the saved state already: a log that is read from its start tells it again."""
        source, _, number = fault.id.rpartition(":")
        if not source.startswith(f"{self._boot_id}:") or not number.isascii() or not number.isdigit():
            return False
        at = int(number[:20])
        told, told_ns = self._old_marks.get(source, (-1, 0))
        if at <= told and fault.at_ns <= told_ns + SAME_TIME_NS:
            return True
        newest, newest_ns = self._marks.get(source, (-1, 0))
        if source in self._marks or len(self._marks) < MAX_MARKS:
            self._marks[source] = (max(at, newest), max(fault.at_ns, newest_ns))
        return False

    def _learn(self, devices: Sequence[Device], topology: Sequence[DeviceLink], now_ns: int) -> list[Event]:
        uuids = self._places.learn(devices, topology)
        if not uuids:
            return []
        self._merger.rename(uuids)
        return self._tell(self._engine.rename(uuids), now_ns)

    def _heed_device(self, event: Event, now_ns: int) -> list[Event]:
        if event.kind == "device.vanished":
            self._gone.add(event.entity)
        came_back = event.kind == "device.appeared" and event.entity in self._gone
        if came_back or event.kind == "device.counter_reset":
            self._gone.discard(event.entity)
            return self._tell(self._engine.device_was_reset(event.entity, RESETS[event.kind], time.time_ns()), now_ns)
        return []

    def _heed_requests(self, wall_ns: int) -> list[Change]:
        changes = []
        for path, request in requests.waiting(self._directory):
            record = self._engine.book.open.get(request.id)
            if record is None:
                log.warning("a request names no open incident", incident=request.id)
            else:
                by = f" ({request.by})" if request.by else ""
                changes.append(self._engine.clear(record, f"operator{by}: {request.reason}", wall_ns))
            requests.done(path)
        return changes

    # The state.

    def _restore(self) -> list[Change]:
        saved = state.read_or_set_aside(self._directory)
        if saved is None:
            return []
        self._engine.frequency.restore(saved.occasions)
        if saved.boot_id == self._boot_id:
            self._places.restore(saved.uuids)
            self._marks = dict(saved.marks)
            self._old_marks = dict(saved.marks)
        return self._engine.restore(saved.records, time.time_ns())

    def _content(self) -> bytes:
        book = self._engine.book
        node, cluster = self._names
        return state.encode(
            state.State(
                boot_id=self._boot_id,
                records=[*book.cleared.values(), *book.open.values()],
                occasions=self._engine.frequency.export(),
                uuids=self._places.uuids,
                marks=self._marks,
                node=node,
                cluster=cluster,
            )
        )

    def _save_if_due(self, thread: IoThread) -> None:
        """Begins to save, unless that is under way: a sick disk must not hold up what is told."""
        if self._saving is not None and not self._saving.done():
            return
        gap_ns = max(URGENT_SAVE_GAP_NS if self._urgent else SAVE_GAP_NS, SAVE_SHARE * self._encode_ns)
        if self._dirty and time.monotonic_ns() - self._saved_ns >= gap_ns:
            self._saving = asyncio.create_task(self._save(thread))

    async def _save(self, thread: IoThread) -> None:
        started_ns = time.thread_time_ns()
        content = self._content()
        self._encode_ns = time.thread_time_ns() - started_ns
        self._dirty = self._urgent = False
        try:
            await thread.call(state.write, self._directory, content)
        except OSError as error:
            self._figures.save_errors += 1
            self._dirty = True
            log.warning("incidents were not saved", directory=str(self._directory), reason=str(error))
        self._saved_ns = time.monotonic_ns()
