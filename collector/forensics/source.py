"""What the page says about frozen evidence."""

from __future__ import annotations

from collections.abc import Iterator

from ...probes.probe import Metric, Series
from ..exporter import Source
from .freezer import Freezer

FROZEN = Metric(
    "eagle_eye_forensics_frozen_total", "counter", "Triggers for which evidence was frozen, by result.", ("result",)
)
REFUSED = Metric(
    "eagle_eye_forensics_refused_total", "counter", "Triggers for which nothing was frozen, by reason.", ("reason",)
)
BUNDLES = Metric("eagle_eye_forensics_bundles", "gauge", "Bundles of evidence on disk.")
DISK = Metric("eagle_eye_forensics_disk_bytes", "gauge", "Disk space that they take.")
METRICS = (FROZEN, REFUSED, BUNDLES, DISK)


def forensics_source(freezer: Freezer) -> Source:
    """The source of the freezer's own series."""
    return Source("forensics", METRICS, lambda: _series(freezer))


def _series(freezer: Freezer) -> Iterator[Series]:
    for result in ("whole", "incomplete", "failed"):
        yield Series(FROZEN, freezer.frozen[result], (result,))
    for reason, count in freezer.refused.items():
        yield Series(REFUSED, count, (reason,))
    bundles, disk_bytes = freezer.disk
    yield Series(BUNDLES, bundles)
    yield Series(DISK, disk_bytes)
