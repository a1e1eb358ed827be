"""A trace for Perfetto and chrome://tracing, in the Trace Event Format (JSON): instants, counters, engine steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from .bundle import Bundle, Line
from .timeline import Entry, steps_of

# One process of the trace per place where something happens.
NODE, KERNEL, ENGINES = 1, 2, 3
FIRST_DEVICE = 100
COUNTERS = re.compile(
    r"eagle_eye_(?:device_(?:temperature_celsius|power_watts|utilization_ratio|memory_used_bytes|clock_hertz)"
    r'|sched_run_queue_seconds\{quantile="0\.99"\}|memory_available_bytes|tasks_uninterruptible|load_average)'
)
COLOURS = {"fatal": "terrible", "error": "terrible", "warning": "bad", "info": "good"}
MAX_EVENTS = 400_000


def trace(bundle: Bundle, entries: Sequence[Entry]) -> bytes:
    """The trace; times are microseconds since the beginning of the window."""
    lines = list(bundle.lines())
    start_ns = bundle.manifest.start_ns
    devices = _devices(lines)
    events = [*_names(devices, lines), *_instants(entries, devices), *_counters(lines, devices), *_steps(lines)]
    shown = [_at(event, start_ns) for event in events[:MAX_EVENTS]]
    about = {"bundle": bundle.manifest.id, "node": bundle.manifest.node, "trigger": bundle.manifest.trigger.reason}
    body = {"displayTimeUnit": "ms", "otherData": about, "traceEvents": shown}
    return msgspec.json.encode(body)


def _at(event: dict[str, Any], start_ns: int) -> dict[str, Any]:
    if event["ph"] == "M":
        return event
    return {**event, "ts": max(0.0, (event["ts"] - start_ns) / 1000)}


def _devices(lines: Iterable[Line]) -> dict[str, tuple[int, str]]:
    """(process of the trace, name) of each device by uuid."""
    found: dict[str, tuple[int, str]] = {}
    for line in lines:
        for device in line.data.get("devices", ()) if line.kind == "snapshot" else ():
            uuid = str(device.get("uuid"))
            name = f"{device.get('vendor', '')} {device.get('index', '')} {device.get('model', '')}".strip()
            found.setdefault(uuid, (FIRST_DEVICE + len(found), name))
    return found


def _names(devices: Mapping[str, tuple[int, str]], lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    named = [(NODE, "node"), (KERNEL, "kernel log"), *devices.values()]
    if any(line.kind == "step" for line in lines):
        named.append((ENGINES, "engines"))
    for number, name in named:
        yield {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}


def _instants(entries: Iterable[Entry], devices: Mapping[str, tuple[int, str]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        kernel = entry.kind.startswith(("kmsg.", "saved."))
        number = KERNEL if kernel else devices.get(entry.entity, (NODE, ""))[0]
        yield {
            "ph": "i",
            "s": "g" if entry.severity in ("error", "fatal") else "p",
            "name": f"{entry.kind}: {entry.text}"[:200],
            "cat": entry.severity,
            "cname": COLOURS[entry.severity],
            "pid": number,
            "tid": 0,
            "ts": entry.at_ns,
            "args": {"entity": entry.entity, "text": entry.text},
        }


def _counters(lines: Iterable[Line], devices: Mapping[str, tuple[int, str]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.kind != "snapshot":
            continue
        for reading in (*line.data.get("host", ()), *line.data.get("device_readings", ())):
            number = devices.get(str(reading.get("entity")), (NODE, ""))[0]
            for name, value in reading.get("values", {}).items():
                if COUNTERS.match(name):
                    at_ns = int(reading.get("at_ns", line.at_ns))
                    shown = name.removeprefix("eagle_eye_")
                    yield {"ph": "C", "name": shown, "pid": number, "tid": 0, "ts": at_ns, "args": {"value": value}}


def _steps(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    for number, (engine, steps) in enumerate(sorted(steps_of(lines).items())):
        named = {"ph": "M", "name": "thread_name", "pid": ENGINES, "tid": number, "args": {"name": engine}}
        yield named
        for start_ns, end_ns in steps:
            duration_us = (end_ns - start_ns) / 1000
            yield {"ph": "X", "name": "step", "pid": ENGINES, "tid": number, "ts": start_ns, "dur": duration_us}
