"""Turns series into Prometheus metric families. Whatever the series hold, the page stays lawful."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from ..native.errors import EagleEyeError
from ..probes.probe import Histogram, Metric, Series

MAX_SERIES = 10_000
MAX_LABEL_CHARACTERS = 1024

_NAME = re.compile(r"eagle_eye(_[a-z0-9]+)+")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED_ENDINGS = ("_bucket", "_count", "_sum", "_created", "_total")
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\N{REPLACEMENT CHARACTER}")
_FAMILIES: dict[str, Callable[..., Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class BadSeriesError(Exception):
    """A series that cannot be on the page; the message is the `reason` label of the drop counter."""


def check_metric(metric: Metric) -> None:
    """Raises EagleEyeError when `metric` breaks a naming rule of Prometheus or of this product."""
    problem = _problem(metric)
    if problem:
        raise EagleEyeError(f"metric {metric.name!r}: {problem}")


def _problem(metric: Metric) -> str:
    if not metric.foreign and not _NAME.fullmatch(metric.name):
        return "the name must be eagle_eye_ and lower-case words joined by underscores"
    if metric.kind not in _FAMILIES:
        return f"the kind {metric.kind!r} is none of {', '.join(_FAMILIES)}"
    if metric.kind == "counter" and not metric.name.endswith("_total"):
        return "a counter's name ends in _total"
    if metric.kind != "counter" and metric.name.endswith(_RESERVED_ENDINGS):
        return f"only counters end in _total, and none of {', '.join(_RESERVED_ENDINGS[:-1])} may end a name"
    if not metric.help.strip():
        return "the help text is empty"
    return _label_problem(metric)


def _label_problem(metric: Metric) -> str:
    if len(set(metric.labels)) != len(metric.labels):
        return "a label name appears twice"
    for label in metric.labels:
        if not _LABEL.fullmatch(label) or label in {"le", "quantile"}:
            return f"the label name {label!r} is not allowed"
    return ""


def make_families(metrics: Iterable[Metric], series: Iterable[Series], on_drop: Callable[[str], None]) -> list[Family]:
    """One family per metric, in their order, also where there is no series (save foreign ones).

    `on_drop` is called with a reason for each series that cannot be shown.
    """
    families = {
        metric.name: (metric, _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels))
        for metric in metrics
    }
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for one in series:
        try:
            _add(families, seen, one)
        except BadSeriesError as error:
            on_drop(str(error))
        except Exception:
            on_drop("malformed")
    return [family for metric, family in families.values() if family.samples or not metric.foreign]


def _add(families: dict[str, tuple[Metric, Any]], seen: set[tuple[str, tuple[str, ...]]], one: Series) -> None:
    if one.metric.name not in families:
        raise BadSeriesError("undeclared_metric")
    metric, family = families[one.metric.name]
    if isinstance(one.labels, str) or len(one.labels) != len(metric.labels):
        raise BadSeriesError("wrong_label_count")
    labels = tuple(clean_label(label) for label in one.labels)
    if (metric.name, labels) in seen:
        raise BadSeriesError("duplicate")
    if len(seen) >= MAX_SERIES:
        raise BadSeriesError("too_many_series")
    _ADDERS[metric.kind](family, labels, one.value)
    seen.add((metric.name, labels))


def clean_label(value: object) -> str:
    """`value` as text that every Prometheus reads: no control characters, no lone surrogates, bounded."""
    return str(value)[:MAX_LABEL_CHARACTERS].translate(_CONTROLS)


def _add_counter(family: CounterMetricFamily, labels: tuple[str, ...], value: Any) -> None:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise BadSeriesError("not_a_count")
    family.add_metric(labels, number)


def _add_gauge(family: GaugeMetricFamily, labels: tuple[str, ...], value: Any) -> None:
    number = float(value)
    if math.isnan(number):
        raise BadSeriesError("not_a_number")
    family.add_metric(labels, number)


def _add_histogram(family: HistogramMetricFamily, labels: tuple[str, ...], value: Any) -> None:
    if not isinstance(value, Histogram):
        raise BadSeriesError("bad_histogram")
    counts = np.asarray(value.counts, dtype=np.float64)
    total = float(value.total)
    lawful = counts.shape == (len(value.bounds) + 1,) and bool(np.isfinite(counts).all() and (counts >= 0).all())
    if not lawful or not math.isfinite(total):
        raise BadSeriesError("bad_histogram")
    family.add_metric(labels, list(zip(_upper_bounds(value.bounds), np.cumsum(counts).tolist(), strict=True)), total)


@lru_cache(maxsize=256)
def _upper_bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    ascending = all(low < high for low, high in pairwise(bounds))
    if not ascending or not all(map(math.isfinite, bounds)):
        raise BadSeriesError("bad_histogram")
    return (*map(_go_float, bounds), "+Inf")


def _go_float(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_ADDERS: dict[str, Callable[[Any, tuple[str, ...], Any], None]] = {
    "counter": _add_counter,
    "gauge": _add_gauge,
    "histogram": _add_histogram,
}
