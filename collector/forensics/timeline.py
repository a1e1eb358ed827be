"""What happened, in the order of the one clock: of every kind of record, what a person should read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ...probes.model import Event, Severity, Stall
from ..view.sentences import sentence
from ..view.words import clean, seconds
from .bundle import UNREADABLE, Bundle, Line
from .outliers import outliers

# `<level>[seconds.fraction] text`, as in saved logs; the level is that of syslog.
SAVED_LINE = re.compile(r"^(?:<(\d{1,3})>)?\[ *(\d{1,10})\.(\d{1,9})\](?:\[[^\]]{1,16}\])? ?(.*)")
SEVERITIES: tuple[Severity, ...] = ("fatal", "fatal", "fatal", "error", "warning", "info", "info", "info")
SLOW_STEP = 5.0


class Entry(Struct, frozen=True):
    """One line of the story. `kind` is the event's, or says what else it is; `entity` whom it is about."""

    at_ns: int
    severity: Severity
    kind: str
    entity: str
    text: str


def timeline(bundle: Bundle) -> list[Entry]:
    """Every entry, by time. Raises EagleEyeError where the records cannot be read."""
    lines = list(bundle.lines())
    snapshots = [line for line in lines if line.kind == "snapshot"]
    found = [entry for line in lines if line.kind != "snapshot" for entry in _entries(line)]
    found += [Entry(*each) for each in outliers(snapshots)]
    found += _slow_steps(lines)
    return sorted(found, key=lambda entry: entry.at_ns)


def _entries(line: Line) -> Iterator[Entry]:
    if line.kind == UNREADABLE:
        yield Entry(line.at_ns, "warning", UNREADABLE, "host", "a record that cannot be read")
    elif line.kind in _TELLERS:
        yield from _TELLERS[line.kind](line)


def _event(line: Line) -> Iterator[Entry]:
    event = msgspec.convert(line.data, Event)
    yield Entry(event.at_ns, event.severity, event.kind, event.entity, sentence(event))


def _stall(line: Line) -> Iterator[Entry]:
    stall = msgspec.convert(line.data, Stall)
    causes = ", ".join(f"{one.name} {one.share_ratio:.0%}" for one in stall.causes) or "cause unknown"
    text = f"{stall.what} took {seconds(stall.excess_ns / 1e9)} too long: {causes}"
    yield Entry(stall.at_ns, "warning", "stall", stall.entity, clean(text))


def _engines(line: Line) -> Iterator[Entry]:
    for state in line.data:
        if state["kind"] in ("gone", "draining", "unknown"):
            severity: Severity = "warning" if state["kind"] != "draining" else "info"
            text = f"{state['engine']} rank {state.get('dp_rank', 0)} is {state['kind']}"
            yield Entry(int(state["at_ns"]), severity, "engine.state", str(state["engine"]), clean(text))


def _kmsg(line: Line) -> Iterator[Entry]:
    for record in line.data:
        level = str(record.get("level", "info"))
        yield Entry(line.at_ns, _by_name(level), "kmsg.record", "host", clean(record.get("text", "")))


def _saved(line: Line) -> Iterator[Entry]:
    """The lines of a log that the kernel saved; they are stamped with the clock of the boot that wrote them."""
    name = str(line.data["name"])
    for text in str(line.data["text"]).splitlines():
        found = SAVED_LINE.match(text)
        if found:
            at_ns = int(found[2]) * 10**9 + int(found[3].ljust(9, "0"))
            yield Entry(at_ns, SEVERITIES[int(found[1] or 6) % 8], f"saved.{clean(name)[:40]}", "host", clean(found[4]))


def _by_name(level: str) -> Severity:
    names = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
    return SEVERITIES[names.index(level)] if level in names else "info"


_TELLERS = {"event": _event, "stall": _stall, "engine": _engines, "kmsg": _kmsg, "pstore": _saved}


def _slow_steps(lines: Iterable[Line]) -> Iterator[Entry]:
    """Steps that took much longer than the usual one of their engine in this window."""
    for engine, steps in steps_of(lines).items():
        usual_ns = sorted(end - start for start, end in steps)[len(steps) // 2]
        for start_ns, end_ns in steps:
            if end_ns - start_ns > SLOW_STEP * usual_ns and len(steps) >= 10:
                took, usual = seconds((end_ns - start_ns) / 1e9), seconds(usual_ns / 1e9)
                yield Entry(end_ns, "info", "engine.slow_step", engine, f"a step took {took}; the usual one {usual}")


def steps_of(lines: Iterable[Line]) -> dict[str, list[tuple[int, int]]]:
    """Start and end of the steps of each engine rank, as far as they were recorded."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in lines:
        for name, start_ns, end_ns in _steps(line):
            if 0 < start_ns <= end_ns:
                found.setdefault(name, []).append((start_ns, end_ns))
    return found


def _steps(line: Line) -> Iterator[tuple[str, int, int]]:
    data: Any = line.data
    if line.kind == "step":
        start, end = data["columns"].index("start_ns"), data["columns"].index("end_ns")
        name = f"{clean(data.get('engine', 'engine'))} rank {data.get('dp_rank', 0)}"
        yield from ((name, int(row[start]), int(row[end])) for row in data["rows"])


def relative(at_ns: int, trigger_ns: int) -> str:
    """Seconds from the trigger, as in `-12.345`."""
    return f"{(at_ns - trigger_ns) / 1e9:+.3f}"
