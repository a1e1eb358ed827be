"""Which metric a value on the board becomes: the table is device_metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, cast

import numpy as np
from msgspec import Struct

from ..native.device import FIELD, FIELDS, LINK_FIELDS
from .model import Device
from .probe import Metric, MetricKind, Series

PREFIX = "eagle_eye_device_"
# Every metric of a device has these first.
DEVICE_LABELS = ("gpu", "uuid", "model")
_OF_A_LINK = "link."


class Column(Struct, frozen=True):
    """One value of a sample: where it is (`number` of a field, or of a link's field), and what it is called."""

    number: int
    metric: Metric
    labels: tuple[str, ...]


class Table(Struct, frozen=True):
    """Columns of one vendor's devices, and of their links."""

    fields: tuple[Column, ...]
    links: tuple[Column, ...]


def _read(link_name: str) -> Table:
    """Links are called what the vendor calls them: nvlink or hccs."""
    fields: list[Column] = []
    links: list[Column] = []
    kind, help_text = "", ""
    with resources.files(__package__).joinpath("device_metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kind, help_text = row["kind"] or kind, row["help"] or help_text
            pairs = [pair.split("=") for pair in row["labels"].split()]
            is_link = row["field"].startswith(_OF_A_LINK)
            names = (*DEVICE_LABELS, *(("link",) if is_link else ()), *(name for name, _ in pairs))
            name = PREFIX + row["metric"].replace("nvlink", link_name)
            metric = Metric(name, cast("MetricKind", kind), help_text, names)
            number = LINK_FIELDS.index(row["field"].removeprefix(_OF_A_LINK)) if is_link else FIELD[row["field"]]
            (links if is_link else fields).append(Column(number, metric, tuple(value for _, value in pairs)))
    return Table(tuple(fields), tuple(links))


TABLES = {"nvidia": _read("nvlink"), "ascend": _read("hccs")}


def metrics() -> tuple[Metric, ...]:
    """All of the table, each once."""
    columns = [column for table in TABLES.values() for column in (*table.fields, *table.links)]
    return tuple({column.metric.name: column.metric for column in columns}.values())


def labels_of(device: Device, parent: Device | None = None) -> tuple[str, str, str]:
    """The values of DEVICE_LABELS; an instance is called `parent:instance`."""
    gpu = f"{parent.index}:{device.index}" if parent else str(device.index)
    return gpu, device.uuid, device.model


def _counters(columns: Sequence[Column], size: int) -> np.ndarray[Any, Any]:
    mask = np.zeros(size, bool)
    mask[[column.number for column in columns if column.metric.kind == "counter"]] = True
    return mask


def counter_masks() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Which fields, and which fields of links, only ever rise."""
    table = TABLES["nvidia"]
    return _counters(table.fields, len(FIELDS)), _counters(table.links, len(LINK_FIELDS))


class Row:
    """The columns of one device with their labels, in the order of one gather from a sample."""

    def __init__(self, device: Device, parent: Device | None, links: int) -> None:
        table = TABLES[device.vendor]
        own = labels_of(device, parent)
        self._fields = np.array([column.number for column in table.fields])
        self._links = np.array([column.number for column in table.links])
        per_link = [
            (column.metric, (*own, str(link), *column.labels)) for link in range(links) for column in table.links
        ]
        self._names = [(column.metric, (*own, *column.labels)) for column in table.fields] + per_link
        self._uuid = device.uuid
        self._link_count = links
        self._last = np.full(len(self._names), np.nan)
        self._series: list[Series | None] = [None] * len(self._names)

    def series(self, values: np.ndarray[Any, Any], link_values: np.ndarray[Any, Any]) -> Iterable[Series]:
        """One for each value that is a number; most are those of the last round, for most values rest."""
        found = np.concatenate([values[self._fields], link_values[: self._link_count, self._links].ravel()])
        changed = (found != self._last) & ~(np.isnan(found) & np.isnan(self._last))
        for place in np.flatnonzero(changed).tolist():
            metric, labels = self._names[place]
            value = float(found[place])
            self._series[place] = Series(metric, value, labels, self._uuid) if np.isfinite(value) else None
        self._last = found
        return filter(None, self._series)
