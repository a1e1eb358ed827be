"""One minute to read: what, when, why, what to do, and what proves it. Markdown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import get_args

import msgspec

from ...probes.catalogue.scale import in_words
from ...probes.model import Event, Incident, IncidentPart, Severity
from ..view.sentences import sentence
from ..view.words import clean, size
from .bundle import Bundle, Line
from .timeline import Entry, relative

EXCERPT = 40
# What Markdown would obey in foreign text.
_MARKS = str.maketrans({"`": "'", "<": "(", ">": ")", "[": "(", "]": ")"})
PREFIX = "eagle_eye_device_"
STATE = re.compile(PREFIX + r"(?:utilization_ratio|memory_used_bytes|temperature_celsius|power_watts|clock_hertz)")
IMPORTANT = ("warning", "error", "fatal")
MAX_STACK_LINES = 6
MAX_STUCK = 4


def report(bundle: Bundle, entries: Sequence[Entry]) -> str:
    """The text; the same for the same bundle."""
    return "\n".join(_report(bundle, entries)) + "\n"


def incident_of(bundle: Bundle) -> Incident | None:
    """The incident that the bundle was frozen for, as it was told last; else the most severe on the same entity.

    Where nothing is said about whom it is for, because a person asked or the boot crashed, of the whole window.
    """
    found: dict[str, Incident] = {}
    wanted = ""
    for line in bundle.lines():
        if line.kind == "snapshot":
            told = msgspec.convert(line.data.get("incidents", []), list[Incident])
            found.update({one.id: one for one in told})
        elif line.kind == "event" and line.data["kind"].startswith("incident."):
            with suppress(msgspec.ValidationError):
                incident = msgspec.convert(line.data.get("attributes"), Incident)
                found[incident.id] = incident
                if line.data["id"] == bundle.manifest.trigger.event:
                    wanted = incident.id
    trigger = bundle.manifest.trigger
    anyone = trigger.kind in ("request", "recorder.previous_boot")
    concerned = [one for one in found.values() if anyone or one.entity == trigger.entity]
    worst = sorted(concerned, key=lambda one: get_args(Severity).index(one.severity))
    return found.get(wanted) or (worst[-1] if worst else None)


def _plain(text: object) -> str:
    return clean(text).translate(_MARKS)


def _report(bundle: Bundle, entries: Sequence[Entry]) -> Iterator[str]:
    manifest, incident = bundle.manifest, incident_of(bundle)
    trigger = manifest.trigger
    yield f"# {_plain(trigger.reason)} on {_plain(manifest.node)}"
    if manifest.simulated:
        yield "\n**Devices were simulated.**"
    yield "\n## What"
    what = next((_told(line) for line in bundle.lines() if _is(line, trigger.event)), trigger.reason)
    if incident and incident.meaning:
        what = f"{incident.mnemonic or incident.code}: {incident.meaning}"
    yield f"\n{_plain(what).rstrip('.')}. Entity: `{_plain(trigger.entity or 'host')}`, severity {trigger.severity}."
    yield "\n## When"
    wall_s = (manifest.at_ns + manifest.wall_offset_ns) / 1e9
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall_s)) + f".{int(wall_s % 1 * 1000):03d} UTC"
    before, after = (manifest.at_ns - manifest.start_ns) / 1e9, (manifest.end_ns - manifest.at_ns) / 1e9
    span = f"{before:.0f} s before and {max(after, 0):.0f} s after"
    yield f"\n{moment}; the bundle holds {span}. Boot `{manifest.boot_id}`."
    yield "\n## Cause"
    yield from _cause(incident)
    yield "\n## Action"
    action = in_words(incident.action) if incident else "unknown"
    yield f"\n{action}. {_plain(incident.check) if incident else ''}".rstrip()
    yield "\n## Evidence"
    yield from _evidence(bundle, entries)
    yield "\n## Timeline"
    yield "\nSeconds from the trigger; errors, and the warnings nearest to it.\n"
    yield "```"
    yield from (shown(entry, manifest.at_ns).replace("`", "'") for entry in excerpt(entries, manifest.at_ns))
    yield "```"


def _is(line: Line, event: str) -> bool:
    return line.kind == "event" and line.data["id"] == event


def _told(line: Line) -> str:
    return sentence(msgspec.convert(line.data, Event))


def _cause(incident: Incident | None) -> Iterator[str]:
    if incident is None:
        yield "\nUnknown: no incident was open on it in this window."
        return
    yield f"\n{_named(incident)} on `{_plain(incident.entity)}`.\n"
    for part in incident.parts:
        told_by = ", ".join(map(_plain, part.sources)) or "?"
        where = "" if part.entity == incident.entity else f" on `{_plain(part.entity)}`"
        times = "once" if part.count == 1 else f"{part.count} times"
        yield f"- {part.role}: {_named(part)}{where}, told {times} by {told_by}"


def _named(of: Incident | IncidentPart) -> str:
    return f"`{_plain(of.family)}` `{_plain(of.code)}` {_plain(of.mnemonic)}".rstrip()


def _evidence(bundle: Bundle, entries: Sequence[Entry]) -> Iterator[str]:
    manifest = bundle.manifest
    yield ""
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.counts.items())) or "none"
    yield f"- records: {counts}; {size(bundle.size_bytes)}"
    worst = sum(entry.severity in ("error", "fatal") for entry in entries)
    yield f"- {worst} errors, {sum(entry.severity == 'warning' for entry in entries)} warnings"
    told = [(name, text) for name, text in sorted(manifest.versions.items()) if name != "kernel command line"]
    versions = ", ".join(f"{_plain(name)} {_plain(text)}" for name, text in told)
    yield f"- versions: {versions[:800]}"
    yield from _device(bundle)
    for lack in manifest.incomplete:
        yield f"- missing: {_plain(lack)}"
    yield from _stacks(bundle)


def _device(bundle: Bundle) -> Iterator[str]:
    """The last readings of the device that it is about, before the trigger."""
    entity, at_ns = bundle.manifest.trigger.entity, bundle.manifest.at_ns
    readings = [
        reading
        for line in bundle.lines()
        if line.kind == "snapshot" and line.at_ns <= at_ns
        for reading in line.data.get("device_readings", ())
        if reading["entity"] == entity
    ]
    if readings:
        values = {name: value for name, value in readings[-1]["values"].items() if STATE.match(name)}
        told = ", ".join(f"{_plain(name.removeprefix(PREFIX))} {value:g}" for name, value in sorted(values.items()))
        yield f"- device at {relative(readings[-1]['at_ns'], at_ns)} s: {told or 'nothing known'}"


def _stacks(bundle: Bundle) -> Iterator[str]:
    for seen in (bundle.processes() or [[]])[-1]:
        for thread in [one for one in seen.threads if one.state == "D"][:MAX_STUCK]:
            yield f"- `{_plain(seen.comm)}` ({seen.pid}) thread {thread.tid} sleeps uninterruptibly:"
            yield from (f"    - `{_plain(line)}`" for line in thread.stack.splitlines()[:MAX_STACK_LINES])


def excerpt(entries: Sequence[Entry], at_ns: int) -> list[Entry]:
    """What matters most, by time: errors and worse, then warnings, of each those nearest to the trigger."""
    important = [entry for entry in entries if entry.severity in IMPORTANT]
    nearest = sorted(important, key=lambda entry: (entry.severity == "warning", abs(entry.at_ns - at_ns)))[:EXCERPT]
    return sorted(nearest, key=lambda entry: entry.at_ns)


def shown(entry: Entry, at_ns: int) -> str:
    """One line for people."""
    who = "" if entry.entity == "host" else f" [{clean(entry.entity)}]"
    return f"{relative(entry.at_ns, at_ns):>9}  {entry.severity:<7}  {clean(entry.kind):<20} {entry.text}{who}"
