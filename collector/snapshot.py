"""Composes the snapshot: the latest sample of every probe, with histograms as quantiles of the interval."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import lt, sub

from ..probes.model import Health, Reading, Snapshot
from ..probes.probe import Histogram, Sample, Series

QUANTILES = (0.5, 0.99)
HOST = "host"
# What a device's own reading need not say again.
DEVICE_LABELS = frozenset({"gpu", "uuid", "model"})


class Composer:
    """Makes successive snapshots of one node; remembers histogram counts to tell what the interval added."""

    def __init__(self, *, node: str, cluster: str, boot_id: str) -> None:
        self._node = node
        self._cluster = cluster
        self._boot_id = boot_id
        self._agent = f"{os.getpid()}-{time.monotonic_ns():x}"
        self._seq = 0
        self._previous: dict[str, list[int]] = {}

    def compose(
        self, now_ns: int, interval_ns: int, samples: Sequence[tuple[str, int, Sample]], health: Sequence[Health]
    ) -> Snapshot:
        """`samples` are (probe, taken at, sample); probes that never succeeded are left out, not zero."""
        self._seq += 1
        taken = [one for one in samples if one[1]]
        readings = [reading for probe, at_ns, sample in taken for reading in self._readings(probe, at_ns, sample)]
        return Snapshot(
            node=self._node,
            cluster=self._cluster,
            boot_id=self._boot_id,
            agent=self._agent,
            seq=self._seq,
            at_ns=now_ns,
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            interval_ns=interval_ns,
            host=tuple(reading for reading in readings if reading.entity == HOST),
            health=tuple(health),
            devices=tuple(device for _, _, sample in taken for device in sample.devices),
            device_readings=tuple(reading for reading in readings if reading.entity != HOST),
            topology=tuple(link for _, _, sample in taken for link in sample.topology),
        )

    def _readings(self, probe: str, at_ns: int, sample: Sample) -> Iterator[Reading]:
        values: dict[str, dict[str, float]] = {HOST: {}}
        for series in sample.series:
            of_entity = values.setdefault(series.entity, {})
            if isinstance(series.value, Histogram):
                of_entity.update(self._summary(series, series.value))
            else:
                of_entity[series_key(series)] = series.value
        for entity, found in values.items():
            yield Reading(entity=entity, probe=probe, at_ns=sample.taken_ns.get(entity, at_ns), values=found)

    def _summary(self, series: Series, histogram: Histogram) -> dict[str, float]:
        key = f"{series.entity} {series_key(series)}"
        # A dozen buckets: plain numbers are quicker than arrays.
        counts: list[int] = histogram.counts.tolist()
        added = _added(self._previous.get(key), counts)
        self._previous[key] = counts
        summary = {
            series_key(series, "_count"): float(sum(counts)),
            series_key(series, "_sum"): float(histogram.total),
        }
        if any(added):
            for quantile in QUANTILES:
                summary[series_key(series, "", quantile)] = quantile_of(histogram.bounds, added, quantile)
        return summary


def _added(previous: list[int] | None, counts: list[int]) -> list[int]:
    """All of `counts` where there is nothing to compare with: at first, and after the probe was built anew."""
    if previous is None or len(previous) != len(counts) or any(map(lt, counts, previous)):
        return counts
    return list(map(sub, counts, previous))


def series_key(series: Series, suffix: str = "", quantile: float | None = None) -> str:
    """The series as Prometheus writes it: `name{label="value"}`; without DEVICE_LABELS, unless it is the host's."""
    metric = series.metric
    return _key(metric.name + suffix, metric.labels, series.labels, series.entity == HOST, quantile)


@lru_cache(maxsize=20_000)
def _key(name: str, names: tuple[str, ...], values: tuple[str, ...], is_host: bool, quantile: float | None) -> str:
    pairs = [pair for pair in zip(names, values, strict=True) if is_host or pair[0] not in DEVICE_LABELS]
    if quantile is not None:
        pairs.append(("quantile", f"{quantile:g}"))
    if not pairs:
        return name
    return name + "{" + ",".join(f'{label}="{_escape(value)}"' for label, value in pairs) + "}"


def quantile_of(bounds: Sequence[float], counts: Sequence[int], quantile: float) -> float:
    """The quantile by linear interpolation within its bucket, as Prometheus does it.

    Values above the last bound are reported as the last bound: the histogram knows no more.
    """
    rank = quantile * sum(counts)
    below, lower = 0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if below + count > rank:
            return lower + (rank - below) / count * (upper - lower)
        below, lower = below + count, upper
    return float(lower)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
