"""The Prometheus page: the latest samples of all probes and the agent's own series.

Gathering reads live state and belongs to the event loop; rendering only reads what was gathered and
may run in any thread. No probe is asked for anything: a page costs what its lines cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import DuplicateTimeseries

from ..native.errors import EagleEyeError
from ..probes.model import Health
from ..probes.probe import Metric, Sample, Series, Spec
from .families import check_metric, make_families

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# A probe in any other state knows nothing of now, and its last values must not look current.
UP_STATES = frozenset({"ok", "degraded"})

SERIES_DROPPED = Metric(
    "eagle_eye_series_dropped_total",
    "counter",
    "Series left off the page because they were not lawful, by source and reason.",
    ("source", "reason"),
)


class Source(Struct, frozen=True):
    """Somebody who has series for the page: a probe, the publisher, the agent itself.

    `collect` is called on the event loop for every page and must only read.
    """

    name: str
    metrics: tuple[Metric, ...]
    collect: Callable[[], Iterable[Series]]


class Gathered(Struct, frozen=True, eq=False):
    """Everything that one page will show, still unchecked."""

    parts: tuple[tuple[Source, tuple[Series, ...]], ...]


class Exporter:
    """Sources, registered in a `CollectorRegistry` of its own, which refuses names that clash."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics: dict[str, str] = {}
        self._sources: list[Source] = []
        self._dropped: Counter[tuple[str, str]] = Counter()
        self.add(Source("exporter", (SERIES_DROPPED,), self._drops))

    def add(self, source: Source) -> None:
        """Registers `source`. Raises EagleEyeError for an unlawful metric or one that another source has."""
        for metric in source.metrics:
            check_metric(metric)
        try:
            self.registry.register(_Collector(self, source))
        except DuplicateTimeseries as error:
            raise self._clash(source, error) from None
        self.metrics.update((metric.name, source.name) for metric in source.metrics)
        self._sources.append(source)

    def add_probes(
        self,
        specs: Sequence[Spec],
        samples: Callable[[], Mapping[str, Sample]],
        health: Callable[[], Iterable[Health]],
    ) -> None:
        """One source per spec; a probe's series are shown only while its health says that they are current."""
        for spec in specs:
            self.add(Source(spec.name, spec.metrics, _current(spec.name, samples, health)))

    def gather(self) -> Gathered:
        """What all sources have now; a source that fails costs only its own series."""
        return Gathered(tuple((source, self._take(source)) for source in self._sources))

    def families(self, source: Source, series: Iterable[Series]) -> list[Family]:
        """The families of one source; series that cannot be shown are counted."""
        return make_families(source.metrics, series, lambda reason: self._count(source.name, reason))

    def render(self, gathered: Gathered, *, openmetrics: bool = False) -> bytes:
        """The page, as text format 0.0.4 or OpenMetrics 1.0.0."""
        families = [family for source, series in gathered.parts for family in self.families(source, series)]
        generate = generate_openmetrics if openmetrics else generate_latest
        return bytes(generate(_Families(families)))

    def _take(self, source: Source) -> tuple[Series, ...]:
        try:
            return tuple(source.collect())
        except Exception:
            self._count(source.name, "source_failed")
            return ()

    def _count(self, source: str, reason: str) -> None:
        self._dropped[source, reason] += 1

    def _drops(self) -> Iterable[Series]:
        return [Series(SERIES_DROPPED, count, labels) for labels, count in list(self._dropped.items())]

    def _clash(self, source: Source, error: DuplicateTimeseries) -> EagleEyeError:
        name = next((metric.name for metric in source.metrics if metric.name in self.metrics), "")
        if name:
            return EagleEyeError(f"metric {name} is declared by {self.metrics[name]} and by {source.name}: rename one")
        return EagleEyeError(f"metrics of {source.name} clash with others on: {', '.join(sorted(error.duplicates))}")


class _Collector:
    """A source as prometheus_client wants it."""

    def __init__(self, exporter: Exporter, source: Source) -> None:
        self._exporter = exporter
        self._source = source

    def describe(self) -> Iterable[Family]:
        return make_families(self._source.metrics, (), lambda reason: None)

    def collect(self) -> Iterable[Family]:
        return self._exporter.families(self._source, self._exporter._take(self._source))


class _Families(CollectorRegistry):
    """Families already made, in the place where the renderers look for a registry."""

    def __init__(self, families: Sequence[Family]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _current(
    name: str, samples: Callable[[], Mapping[str, Sample]], health: Callable[[], Iterable[Health]]
) -> Callable[[], Iterable[Series]]:
    def collect() -> Iterable[Series]:
        sample = samples().get(name)
        state = next((one.state for one in health() if one.probe == name), "unknown")
        return sample.series if sample is not None and state in UP_STATES else ()

    return collect
