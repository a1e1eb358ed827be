"""The feed that the settings ask for, and what the page says about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from ...native.errors import UsageError
from ...probes.model import Incident, Snapshot
from ...probes.probe import Metric, Sample, Series
from ..exporter import Source
from ..publisher import Publisher
from ..settings import Settings
from .feed import Feed, FeedOptions

CHANGES = Metric(
    "eagle_eye_routing_changes_total",
    "counter",
    "Changes of engines' states: delivered, coalesced, dropped and held ones add up to them.",
)
DELIVERED = Metric("eagle_eye_routing_delivered_total", "counter", "Changes in messages that the NATS server has read.")
COALESCED = Metric(
    "eagle_eye_routing_coalesced_total", "counter", "Changes that a later message of the engine stands for."
)
DROPPED = Metric("eagle_eye_routing_dropped_total", "counter", "Changes that were not told, by reason.", ("reason",))
HELD = Metric("eagle_eye_routing_held", "gauge", "Changes that wait, or are not confirmed by the server yet.")
REPEATS = Metric("eagle_eye_routing_repeats_total", "counter", "Messages without a change, such as heartbeats.")
ENGINES = Metric("eagle_eye_routing_engines", "gauge", "Engines that routers are told of.")
WRITTEN = Metric("eagle_eye_routing_last_values_total", "counter", "Last values written for late subscribers.")
KEPT = Metric("eagle_eye_routing_last_values_kept", "gauge", "1 while late subscribers get last values.")

METRICS = (CHANGES, DELIVERED, COALESCED, DROPPED, HELD, REPEATS, ENGINES, WRITTEN, KEPT)

_SUBJECT = re.compile(r"[^\s.*>$][^\s.*>]*(\.[^\s.*>]+)*")


class Routing:
    """The feed as the agent has it: nothing at all when it is switched off.

    Raises UsageError when the subject is none. `last_success_ns` is of the probe of engines (CLOCK_MONOTONIC).
    """

    def __init__(
        self, settings: Settings, boot_id: str, publisher: Publisher, last_success_ns: Callable[[], int]
    ) -> None:
        self.feed: Feed | None = None
        if settings.routing.enabled:
            self.feed = Feed(
                _options(settings),
                node=settings.node,
                cluster=settings.cluster,
                boot_id=boot_id,
                last_success_ns=last_success_ns,
            )
            publisher.share(self.feed)

    def sample(self, sample: Sample) -> None:
        """What a probe has just said."""
        if self.feed is None:
            return
        if sample.device_pids:
            self.feed.take_pids(sample.device_pids)
        if sample.engines:
            self.feed.take(sample.engines)

    def snapshot(self, snapshot: Snapshot) -> None:
        """The node now."""
        if self.feed is not None:
            self.feed.take_snapshot(snapshot)

    def incidents(self, incidents: Iterable[Incident]) -> None:
        """All that are open, as soon as they changed."""
        if self.feed is not None:
            self.feed.take_incidents(incidents)

    async def stop(self, deadline_s: float) -> None:
        """Tells routers that this agent will say nothing more."""
        if self.feed is not None:
            await self.feed.stop(deadline_s)

    def source(self) -> Source:
        """Of the feed's own series."""
        return Source("routing", METRICS, lambda: _series(self.feed))


def _options(settings: Settings) -> FeedOptions:
    routing = settings.routing
    if not _SUBJECT.fullmatch(routing.subject):
        raise UsageError(f"routing.subject: {routing.subject!r} is not a NATS subject without wildcards")
    return FeedOptions(
        subject=routing.subject,
        aggregate=routing.aggregate,
        per_engine=routing.per_engine,
        last_values=routing.last_values,
        floor_ns=routing.floor_ns,
        max_silence_ns=routing.max_silence_ns,
        encoding="msgpack" if settings.payload == "msgpack" else "json",
    )


def _series(feed: Feed | None) -> Iterator[Series]:
    if feed is None:
        return
    books = feed.books
    yield Series(CHANGES, books.produced)
    yield Series(DELIVERED, books.delivered)
    yield Series(COALESCED, books.coalesced)
    for reason, count in books.dropped.items():
        yield Series(DROPPED, count, (reason,))
    yield Series(HELD, books.held)
    yield Series(REPEATS, books.repeats)
    yield Series(ENGINES, feed.engines)
    if feed.last_values is not None:
        yield Series(WRITTEN, feed.last_values.written)
        yield Series(KEPT, float(not feed.last_values.reason))
