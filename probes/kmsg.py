"""The kernel log, streamed: every record counted, every record an event unless a flood forbids it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..native.alarm import Alarm
from ..native.kmsg import LEVELS, Batch, KernelLog
from .flood import Admission
from .kmsg_faults import LogFaults
from .kmsg_order import LogClock, Losses
from .model import Event, Fault, Severity
from .options import Option
from .paths import Paths
from .probe import Context, EventSource, Metric, Sample, Series, Spec

RECORDS = Metric("eagle_eye_kmsg_records_total", "counter", "Kernel-log records read, by level.", ("level",))
LOST = Metric(
    "eagle_eye_kmsg_lost_records_total", "counter", "Kernel-log records that were overwritten before they were read."
)
OVERRUNS = Metric("eagle_eye_kmsg_overruns_total", "counter", "Times the kernel log overran its reader (EPIPE).")

# Numbers 12 to 15 have no name (include/uapi or <sys/syslog.h>).
FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
SEVERITIES: tuple[Severity, ...] = ("fatal", "fatal", "fatal", "error", "warning", "info", "info", "info")

_ERR = LEVELS.index("err")
_ROUND_NS = 20_000_000
_MAX_REPEATED = 256
# More than a kernel log buffer holds at boot.
_BACKLOG_RECORDS = 100_000


class KmsgProbe:
    def __init__(
        self,
        log: KernelLog,
        events: EventSource,
        *,
        max_level: int,
        rate: int,
        burst: int,
        backlog: int,
        driver: str = "",
    ) -> None:
        self._log = log
        self._faults = LogFaults(events.boot_id, driver)
        self._alarm = Alarm()
        self._events = events
        self._max_level = max_level
        self._admission = Admission(rate, burst)
        self._clock = LogClock()
        self._losses = Losses(log.next_sequence)
        self._by_level = np.zeros(len(LEVELS), np.int64)
        self._repeats: dict[int, tuple[int, dict[str, Any]]] = {}
        self._rate_limited = 0
        self._overruns = log.overruns
        self._caught_up = False
        # What the log holds at the start is no flood.
        self._backlog = backlog

    def sample(self, now_ns: int) -> Sample:
        lost_before = self._losses.records
        faults: list[Fault] = []
        events = list(self._summaries()) if self._admission.start_round(now_ns) else []
        until_ns = time.monotonic_ns() + _ROUND_NS
        while True:
            batch = self._log.read()
            events += self._take(batch)
            faults += self._faults.take(batch, self._clock.skew_ns, now_ns)
            if not batch.more or time.monotonic_ns() > until_ns:
                break
        if self._losses.records > lost_before:
            events.append(self._lost(self._losses.records - lost_before, now_ns))
        faults += self._faults.flush(time.monotonic_ns())
        self._alarm.set(self._faults.hold_ns)
        return Sample(self._series(), events, self._dropped(), self._degraded(), faults=faults)

    def wake_fds(self) -> Sequence[int]:
        return (self._alarm.fd,) if self._log.wake_fd is None else (self._log.wake_fd, self._alarm.fd)

    def close(self) -> None:
        self._log.close()
        self._alarm.close()

    def _take(self, batch: Batch) -> Iterator[Event]:
        records = batch.records
        self._losses.add(records["seq"], self._log.overruns - self._overruns)
        if len(records):
            self._overruns = self._log.overruns
            self._by_level += np.bincount(records["level"], minlength=len(LEVELS))
            self._learn(int(records["time_ns"][-1]))
            yield from self._admit(batch, np.flatnonzero(records["level"] <= self._max_level))
        if not batch.more:
            self._caught_up = True
            self._backlog = 0

    def _learn(self, youngest_ns: int) -> None:
        if self._caught_up and self._log.is_device:
            self._clock.learn(youngest_ns, time.monotonic_ns())

    def _admit(self, batch: Batch, wanted: np.ndarray[Any, Any]) -> Iterator[Event]:
        if self._backlog > 0:
            self._backlog -= len(wanted)
            yield from (self._event(self._attributes(batch, index)) for index in wanted.tolist())
        else:
            yield from self._admit_some(batch, wanted)

    def _admit_some(self, batch: Batch, wanted: np.ndarray[Any, Any]) -> Iterator[Event]:
        records = batch.records[wanted]
        admitted, repeated = self._admission.sort(
            records["text_hash"], records["template_hash"], records["level"] <= _ERR
        )
        self._rate_limited += len(records) - len(admitted) - len(repeated)
        for index in wanted[admitted].tolist():
            yield self._event(self._attributes(batch, index))
        self._collect(batch, wanted[repeated])

    def _collect(self, batch: Batch, repeated: np.ndarray[Any, Any]) -> None:
        hashes = batch.records["text_hash"][repeated]
        keys, from_end, counts = np.unique(hashes[::-1], return_index=True, return_counts=True)
        for key, back, count in zip(keys.tolist(), from_end.tolist(), counts.tolist(), strict=True):
            if key in self._repeats or len(self._repeats) < _MAX_REPEATED:
                last = self._attributes(batch, int(repeated[-1 - back]))
                self._repeats[key] = (self._repeats.get(key, (0, {}))[0] + count, last)
            else:
                self._rate_limited += count

    def _summaries(self) -> Iterator[Event]:
        repeats, self._repeats = self._repeats, {}
        for count, attributes in repeats.values():
            urgent = LEVELS.index(attributes["level"]) <= _ERR
            if (self._admission.urgent if urgent else self._admission.ordinary).take(1):
                yield self._event({**attributes, "repeats": count})
            else:
                self._rate_limited += count

    def _attributes(self, batch: Batch, index: int) -> dict[str, Any]:
        record = batch.records[index]
        facility = int(record["facility"])
        attributes: dict[str, Any] = {
            "level": LEVELS[record["level"]],
            "facility": facility_name(facility),
            "sequence": int(record["seq"]),
            "log_time_ns": int(record["time_ns"]),
            "text": batch.text(index),
        }
        properties = batch.properties(index)
        for key in ("SUBSYSTEM", "DEVICE"):
            if key in properties:
                attributes[key.lower()] = properties[key]
        if record["caller_kind"]:
            attributes["caller"] = f"{record['caller_kind']:c}{record['caller']}"
        if record["continuation"]:
            attributes["continuation"] = True
        return attributes

    def _event(self, attributes: dict[str, Any]) -> Event:
        at_ns = min(attributes["log_time_ns"] + self._clock.skew_ns, time.monotonic_ns())
        severity = SEVERITIES[LEVELS.index(attributes["level"])]
        seq = attributes["sequence"]
        return self._events.make("kmsg.record", at_ns, entity="host", severity=severity, seq=seq, **attributes)

    def _lost(self, records: int, now_ns: int) -> Event:
        return self._events.make("kmsg.lost", now_ns, entity="host", severity="warning", records=records)

    def _series(self) -> list[Series]:
        by_level = [Series(RECORDS, int(n), (name,)) for name, n in zip(LEVELS, self._by_level, strict=True)]
        return [*by_level, Series(LOST, self._losses.records), Series(OVERRUNS, self._log.overruns)]

    def _dropped(self) -> dict[str, int]:
        return {
            "rate_limited": self._rate_limited,
            "overwritten": self._losses.records,
            "malformed": self._log.malformed,
            "oversized": self._log.rejected,
            "fault_flood": self._faults.dropped,
        }

    def _degraded(self) -> str:
        return f"{self._log.path} has gone; waiting for it to come back" if self._log.missing else ""


def facility_name(number: int) -> str:
    """Name as in syslog, "local0" to "local7" for 16 to 23, the number where there is no name."""
    if 16 <= number <= 23:
        return f"local{number - 16}"
    return FACILITIES[number] if number < len(FACILITIES) else str(number)


def nvidia_version(paths: Paths) -> str:
    """Of the loaded driver, "" without one."""
    try:
        return (paths.sys / "module/nvidia/version").read_text().strip()
    except (OSError, ValueError):
        return ""


def build(context: Context) -> KmsgProbe:
    options, from_boot = context.options, context.options["from"] == "boot"
    return KmsgProbe(
        # An absolute path replaces the root.
        KernelLog(context.paths.dev / options["path"], from_boot=from_boot),
        context.events,
        max_level=LEVELS.index(options["min_level"]),
        rate=options["events_per_second"],
        burst=options["burst"],
        backlog=_BACKLOG_RECORDS if from_boot else 0,
        driver=nvidia_version(context.paths),
    )


SPEC = Spec(
    name="kmsg",
    help="The kernel log: records by level, each one as an event; gaps and overruns counted.",
    build=build,
    metrics=(RECORDS, LOST, OVERRUNS),
    needs=("kmsg",),
    options=(
        Option("path", "path", "kmsg", "the log, below the /dev root; or a file or FIFO in the same format"),
        Option("from", "choice", "end", "where to start: new records only, or all since boot", choices=("end", "boot")),
        Option("min_level", "choice", "debug", "least important level that becomes events", choices=LEVELS),
        Option("events_per_second", "integer", 200, "sustained events, of errors and of the rest", 1, 10_000),
        Option("burst", "integer", 1000, "events at once, of errors and of the rest", 1, 100_000),
    ),
    cost="0.1 ms per round, 0.2 ms per line, 5 µs per line in a flood",
)
