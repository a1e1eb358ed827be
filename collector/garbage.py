"""A probe's sample is checked before anyone else sees it: one bad probe must not break a page or a message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..probes.model import Event, Fault
from ..probes.probe import Histogram, Metric, Sample, Series, Spec


class GarbageError(Exception):
    """A probe returned something that no probe may return; the message says what."""


def refuse_garbage(spec: Spec, sample: object, checked: Sequence[Series] = ()) -> Sample:
    """`sample` itself when it is lawful for `spec`; GarbageError naming the first thing that is not.

    `checked` are series of a sample before: a tuple that comes again is not looked at again.
    """
    if not isinstance(sample, Sample):
        raise GarbageError(f"the round returned {type(sample).__name__}, not a Sample")
    if sample.series is not checked or not isinstance(checked, tuple):
        declared = {metric.name: metric for metric in spec.metrics}
        for series in sample.series:
            _refuse_series(spec, declared, series)
    for event in sample.events:
        if not isinstance(event, Event):
            raise GarbageError(f"an event is {type(event).__name__}, not an Event")
    for fault in sample.faults:
        if not isinstance(fault, Fault):
            raise GarbageError(f"a fault is {type(fault).__name__}, not a Fault")
    _refuse_dropped(sample.dropped)
    if not isinstance(sample.degraded, str):
        raise GarbageError(f"`degraded` is {type(sample.degraded).__name__}, not a sentence")
    return sample


def _refuse_series(spec: Spec, declared: Mapping[str, Metric], series: Series) -> None:
    metric = series.metric
    known = declared.get(metric.name)
    if known is not metric and known != metric:
        raise GarbageError(f"{metric.name} is not among the metrics that {spec.name} declares")
    if len(series.labels) != len(metric.labels):
        raise GarbageError(f"{metric.name} has {len(series.labels)} label values for {len(metric.labels)} labels")
    for label in series.labels:
        if not isinstance(label, str):
            raise GarbageError(f"{metric.name} has label values that are no strings: {series.labels!r}")
    if metric.kind == "histogram":
        _refuse_histogram(metric.name, series.value)
    elif not _is_number(series.value):
        raise GarbageError(f"{metric.name} is {series.value!r}, not a finite number (int or float)")


def _is_number(value: object) -> bool:
    # numpy's own numbers cannot be encoded, its float64 included, which is a float.
    return (type(value) is float or type(value) is int) and math.isfinite(value)


def _refuse_histogram(name: str, value: object) -> None:
    if not isinstance(value, Histogram):
        raise GarbageError(f"{name} is {type(value).__name__}, not a Histogram")
    if not isinstance(value.counts, np.ndarray) or value.counts.dtype.kind not in "iu":
        raise GarbageError(f"{name} has counts that are no array of integers")
    if value.counts.shape != (len(value.bounds) + 1,):
        raise GarbageError(f"{name} has {value.counts.size} counts for {len(value.bounds)} bounds")
    if not _is_number(value.total) or not all(map(_is_number, value.bounds)):
        raise GarbageError(f"{name} has a total or bounds that are no finite numbers")


def _refuse_dropped(dropped: object) -> None:
    if not isinstance(dropped, Mapping):
        raise GarbageError(f"`dropped` is {type(dropped).__name__}, not counts by reason")
    for reason, count in dropped.items():
        if not isinstance(reason, str) or not isinstance(count, int):
            raise GarbageError(f"`dropped` has {reason!r}: {count!r}, not a reason and a count")
