"""What the page says about the recorder."""

from __future__ import annotations

from collections.abc import Iterator

from ...probes.probe import Metric, Series
from ..exporter import Source
from .recorder import Recorder

RECORDS = Metric("eagle_eye_recorder_records_total", "counter", "Records written to the black box.", ("kind",))
DROPPED = Metric(
    "eagle_eye_recorder_dropped_total",
    "counter",
    "Records that the black box lost, by reason.",
    ("kind", "reason"),
)
WRITTEN = Metric("eagle_eye_recorder_written_bytes_total", "counter", "Compressed bytes written to the black box.")
DISK = Metric("eagle_eye_recorder_disk_bytes", "gauge", "Disk space that the black box takes.")
FILES = Metric("eagle_eye_recorder_files", "gauge", "Files of the black box.")
SET_ASIDE = Metric("eagle_eye_recorder_files_set_aside_total", "counter", "Recordings that could not be read any more.")
FLUSH = Metric("eagle_eye_recorder_flush_seconds", "gauge", "Time that the last write to the black box took.")

METRICS = (RECORDS, DROPPED, WRITTEN, DISK, FILES, SET_ASIDE, FLUSH)


def recorder_source(recorder: Recorder) -> Source:
    """The source of the recorder's own series."""
    return Source("recorder", METRICS, lambda: _series(recorder))


def _series(recorder: Recorder) -> Iterator[Series]:
    now = recorder.statistics()
    for kind, count in now.records.items():
        yield Series(RECORDS, count, (kind,))
    for (kind, reason), count in now.dropped.items():
        yield Series(DROPPED, count, (kind, reason))
    yield Series(WRITTEN, now.written_bytes)
    yield Series(DISK, now.disk_bytes)
    yield Series(FILES, now.files)
    yield Series(SET_ASIDE, now.set_aside)
    yield Series(FLUSH, now.flush_seconds)
