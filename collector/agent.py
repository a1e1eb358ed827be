"""The agent: puts probes, schedule, publisher and exporter together, and takes them apart in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog
from msgspec.structs import replace

from .. import __version__
from ..native.errors import UnavailableError
from ..probes.model import Event, Health, Snapshot
from ..probes.probe import Context, EventSource, Metric, Sample, Series, Spec
from .engines_now import EnginesNow
from .exporter import Exporter, Source
from .forensics.black_box import BlackBox
from .incidents.incidents import DIRECTORY, Incidents
from .own_health import build_info, probe_health
from .publisher_source import make_publisher, publisher_source
from .routing.source import Routing
from .runner import Runner
from .schedule import Schedule
from .self_cost import self_cost
from .settings import Settings
from .snapshot import Composer
from .web import WebServer

FIRST_ROUND_S = 10.0
LAST_ROUND_S = 0.5
PROBE_STOP_S = 2.0
PUBLISHER_STOP_S = 5.0
BLACK_BOX_STOP_S = 3.0
ROUTING_STOP_S = 0.3
SILENT_NS = 10_000_000_000
EVENTS_PER_SNAPSHOT = 1000

SNAPSHOTS = Metric("eagle_eye_snapshots_total", "counter", "Snapshots made.")
MISSED = Metric("eagle_eye_snapshots_missed_total", "counter", "Snapshots left out because the agent came too late.")

Subscriber = Callable[[Snapshot, tuple[Event, ...]], None]

log = structlog.get_logger(component="agent")


class Agent:
    """Watches this machine until told to stop.

    `settings.state_dir` must be set. `helpers` gives the pids of child processes by name, so that their cost is
    told too; `sources` are others who have series for the page.

    Raises UsageError when the address, the state folder or the web configuration cannot be used, and
    UnavailableError when a probe that the user asked for by name cannot work here.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[Spec],
        *,
        helpers: Callable[[], Mapping[str, int]] = dict,
        sources: Sequence[Source] = (),
        libbpf: str = "",
    ) -> None:
        assert settings.state_dir is not None
        self._settings = settings
        self._specs = [spec for spec in specs if settings.probes[spec.name].enabled]
        self._off = [spec for spec in specs if not settings.probes[spec.name].enabled]
        self._boot_id = settings.paths.boot_id()
        self._subscribers: list[Subscriber] = []
        self._recent: list[Event] = []
        self._newest_ns = 0
        self._runners: list[Runner] = []
        self._schedule: Schedule | None = None
        self.publisher = make_publisher(settings, settings.state_dir)
        self.routing = Routing(settings, self._boot_id, self.publisher, self._engines_read_ns)
        self._engines = EnginesNow()
        self.incidents = Incidents(
            settings.state_dir / DIRECTORY,
            node=settings.node,
            cluster=settings.cluster,
            boot_id=self._boot_id,
            paths=settings.paths,
        )
        self.black_box = BlackBox(settings, self._boot_id, self._take_events)
        self.web = self._make_web([*sources, self_cost(helpers=helpers), build_info(__version__, libbpf)])

    def subscribe(self, subscriber: Subscriber) -> None:
        """Calls `subscriber` with every snapshot and the events since the one before, on the event loop."""
        self._subscribers.append(subscriber)

    async def run(self, stop: asyncio.Event) -> None:
        """Starts everything, works until `stop` is set, and stops in the reverse order."""
        async with AsyncExitStack() as stack:
            await self.publisher.start()
            stack.push_async_callback(self.publisher.stop, PUBLISHER_STOP_S)
            self.black_box.start()
            stack.push_async_callback(self.black_box.stop, BLACK_BOX_STOP_S)
            await self.web.start()
            stack.push_async_callback(self.web.close)
            stack.push_async_callback(cancelled, asyncio.create_task(self.incidents.run(self._take_events)))
            schedule = self._make_schedule()
            stack.push_async_callback(self.routing.stop, ROUTING_STOP_S)  # at once: routers hear that nobody looks now
            stack.push_async_callback(self._stop_probes)
            await self._until(stop, self._work(schedule))
            if self._schedule is not None:
                await schedule.last_round(LAST_ROUND_S)
            log.info("stopping")

    @property
    def health(self) -> tuple[Health, ...]:
        """Health of every probe, also of those that are switched off, of the way to NATS and of the black box."""
        return (
            *(runner.health for runner in self._runners),
            *(Health(probe=spec.name, state="off") for spec in self._off),
            self.publisher.health(),
            *self.black_box.health(),
        )

    def _make_schedule(self) -> Schedule:
        self._runners = [Runner(spec, self._context(spec), self._take_sample) for spec in self._specs]
        composer = Composer(node=self._settings.node, cluster=self._settings.cluster, boot_id=self._boot_id)
        return Schedule(self._runners, composer, self._settings.interval_ns, lambda: self.health, self._take_snapshot)

    async def _work(self, schedule: Schedule) -> None:
        await schedule.first_round(FIRST_ROUND_S)
        self._refuse_impossible()
        self._schedule = schedule
        await schedule.run()

    async def _until(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
        working = asyncio.create_task(work, name="schedule")
        told = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, told):
            task.cancel()
        await asyncio.wait({working, told})
        if not working.cancelled():
            working.result()

    async def _stop_probes(self) -> None:
        stopped = await asyncio.gather(*(runner.stop(PROBE_STOP_S) for runner in self._runners))
        for runner, in_time in zip(self._runners, stopped, strict=True):
            if not in_time:
                log.warning("probe did not stop and was left behind", probe=runner.spec.name)

    def _context(self, spec: Spec) -> Context:
        settings = self._settings
        events = EventSource(spec.name, node=settings.node, cluster=settings.cluster, boot_id=self._boot_id)
        return Context(paths=settings.paths, options=settings.probes[spec.name].options, events=events)

    def _refuse_impossible(self) -> None:
        for runner in self._runners:
            if runner.error is not None and self._settings.probes[runner.spec.name].asked:
                message = f"probe {runner.spec.name} was asked for and cannot work here: {runner.error.message}"
                raise UnavailableError(message, remedy=runner.error.remedy)

    def _engines_read_ns(self) -> int:
        """When the probe of engines last worked."""
        return next((runner.sample_at_ns for runner in self._runners if runner.spec.name == "engines"), 0)

    def _take_sample(self, sample: Sample) -> None:
        self.routing.sample(sample)
        self._engines.take(sample.engines, time.monotonic_ns())
        self.black_box.sample(sample)
        changed = self.incidents.take(sample)
        if changed:
            self.routing.incidents(self.incidents.open())
        self._take_events([*sample.events, *changed])

    def _take_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self.black_box.event(event, self.publisher.publish_event(event))
        self._recent += events[: EVENTS_PER_SNAPSHOT - len(self._recent)]

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        self._newest_ns = snapshot.at_ns
        engines = self._engines.now(snapshot.at_ns)
        snapshot = replace(snapshot, incidents=self.incidents.open(), engines=engines)
        self.routing.snapshot(snapshot)
        self.black_box.snapshot(snapshot, self.publisher.publish_snapshot(snapshot))
        events, self._recent = tuple(self._recent), []
        for subscriber in self._subscribers:
            subscriber(snapshot, events)

    def _make_web(self, others: Sequence[Source]) -> WebServer:
        exporter = Exporter()
        exporter.add_probes(self._specs, lambda: {r.spec.name: r.sample for r in self._runners}, lambda: self.health)
        exporter.add(probe_health(lambda: self.health))
        exporter.add(Source("agent", (SNAPSHOTS, MISSED), self._series))
        exporter.add(publisher_source(self.publisher))
        exporter.add(self.routing.source())
        exporter.add(self.incidents.source())
        for source in (*self.black_box.sources(), *others):
            exporter.add(source)
        return WebServer(
            exporter,
            self._settings.listen,
            alive=self._silence,
            ready=self._unready,
            web_config=self._settings.web_config,
            version=__version__,
        )

    def _series(self) -> Iterator[Series]:
        if self._schedule is not None:
            yield Series(SNAPSHOTS, self._schedule.snapshots)
            yield Series(MISSED, self._schedule.missed_beats)

    def _silence(self) -> list[str]:
        limit_ns = max(SILENT_NS, 10 * self._settings.interval_ns)
        age_ns = time.monotonic_ns() - self._newest_ns
        if self._newest_ns and age_ns > limit_ns:
            return [f"no snapshot for {age_ns / 1e9:.0f} s"]
        return []

    def _unready(self) -> list[str]:
        if not self._newest_ns:
            return ["the first round of the probes is not done"]
        now = self.publisher.statistics()
        if now.state != "connected" and now.spool_reason:
            return [f"NATS is away and events have no place on disk: {now.spool_reason}"]
        return []


async def cancelled(task: asyncio.Task[None]) -> None:
    """Ends a task that works until it is cancelled."""
    task.cancel()
    await asyncio.wait({task})
