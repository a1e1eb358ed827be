"""A probe's sample is checked before anyone else sees it: one bad probe must not break a page or a message."""

from __future__ import annotations

import math
from numbers import Real

from ..probes.model import Event
from ..probes.probe import Histogram, Sample, Series, Spec


class GarbageError(Exception):
    """A probe returned something that no probe may return; the message says what."""


def refuse_garbage(spec: Spec, sample: object) -> Sample:
    """`sample` itself when it is lawful for `spec`; GarbageError naming the first thing that is not."""
    if not isinstance(sample, Sample):
        raise GarbageError(f"the round returned {type(sample).__name__}, not a Sample")
    for series in sample.series:
        _refuse_series(spec, series)
    for event in sample.events:
        if not isinstance(event, Event):
            raise GarbageError(f"an event is {type(event).__name__}, not an Event")
    return sample


def _refuse_series(spec: Spec, series: Series) -> None:
    metric = series.metric
    if metric not in spec.metrics:
        raise GarbageError(f"{metric.name} is not among the metrics that {spec.name} declares")
    if len(series.labels) != len(metric.labels):
        raise GarbageError(f"{metric.name} has {len(series.labels)} label values for {len(metric.labels)} labels")
    if metric.kind == "histogram":
        _refuse_histogram(metric.name, series.value)
    elif not isinstance(series.value, Real) or not math.isfinite(series.value):
        raise GarbageError(f"{metric.name} is {series.value!r}, not a finite number")


def _refuse_histogram(name: str, value: object) -> None:
    if not isinstance(value, Histogram):
        raise GarbageError(f"{name} is {type(value).__name__}, not a Histogram")
    if len(value.counts) != len(value.bounds) + 1:
        raise GarbageError(f"{name} has {len(value.counts)} counts for {len(value.bounds)} bounds")
