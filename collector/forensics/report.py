"""One minute to read: what, when, why, what to do, and what proves it. Markdown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..view.words import clean, size
from .bundle import Bundle
from .timeline import Entry, relative

EXCERPT = 40
IMPORTANT = ("warning", "error", "fatal")
MAX_STACK_LINES = 6


def report(bundle: Bundle, entries: Sequence[Entry]) -> str:
    """The text; the same for the same bundle."""
    return "\n".join(_report(bundle, entries)) + "\n"


def incident_of(bundle: Bundle) -> dict[str, Any] | None:
    """The incident that the bundle was frozen for, as it was told last; without one the most severe of the window."""
    found: dict[str, dict[str, Any]] = {}
    wanted = ""
    for line in bundle.lines():
        if line.kind == "snapshot":
            found.update({str(one["id"]): one for one in line.data.get("incidents", ())})
        elif line.kind == "event" and line.data["kind"].startswith("incident.") and "id" in line.data["attributes"]:
            incident = line.data["attributes"]
            found[str(incident["id"])] = incident
            if line.data["id"] == bundle.manifest.trigger.event:
                wanted = str(incident["id"])
    order = ("info", "warning", "error", "fatal")
    worst = sorted(found.values(), key=lambda one: order.index(one["severity"]) if one.get("severity") in order else 0)
    return found.get(wanted) or (worst[-1] if worst else None)


def _report(bundle: Bundle, entries: Sequence[Entry]) -> Iterator[str]:
    manifest, incident = bundle.manifest, incident_of(bundle)
    trigger = manifest.trigger
    yield f"# {clean(trigger.reason)} on {clean(manifest.node)}"
    if manifest.simulated:
        yield "\n**Devices were simulated.**"
    yield "\n## What"
    what = trigger.reason
    if incident and incident.get("meaning"):
        what = f"{incident.get('mnemonic') or incident.get('code', '')}: {incident['meaning']}"
    yield f"\n{clean(what)} Entity: `{clean(trigger.entity or 'host')}`, severity {trigger.severity}."
    yield "\n## When"
    wall_s = (manifest.at_ns + manifest.wall_offset_ns) / 1e9
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall_s)) + f".{int(wall_s % 1 * 1000):03d} UTC"
    before, after = (manifest.at_ns - manifest.start_ns) / 1e9, (manifest.end_ns - manifest.at_ns) / 1e9
    span = f"{before:.0f} s before and {max(after, 0):.0f} s after"
    yield f"\n{moment}; the bundle holds {span}. Boot `{manifest.boot_id}`."
    yield "\n## Cause"
    yield from _cause(incident)
    yield "\n## Action"
    action = incident and incident.get("action")
    check = clean(incident.get("check", "")) if incident else ""
    yield f"\n{clean(str(action)).replace('_', ' ') if action else 'unknown: no incident was open'}. {check}".rstrip()
    yield "\n## Evidence"
    yield from _evidence(bundle, entries)
    yield "\n## Timeline"
    yield "\nSeconds from the trigger; warnings and worse, nearest to it first chosen, then by time.\n"
    yield "```"
    yield from (shown(entry, manifest.at_ns) for entry in excerpt(entries, manifest.at_ns))
    yield "```"


def _cause(incident: dict[str, Any] | None) -> Iterator[str]:
    if incident is None:
        yield "\nUnknown: no incident was open in this window."
        return
    yield f"\n{_named(incident)} on `{clean(incident.get('entity', 'host'))}`.\n"
    for part in [one for one in incident.get("parts", ()) if isinstance(one, dict)]:
        told_by = ", ".join(map(clean, part.get("sources", ()))) or "?"
        yield f"- {clean(part.get('role', '?'))}: {_named(part)}, {part.get('count', '?')} times, told by {told_by}"


def _named(of: dict[str, Any]) -> str:
    family, code, mnemonic = (clean(of.get(name, "")) for name in ("family", "code", "mnemonic"))
    return f"`{family}` `{code}` {mnemonic}".rstrip()


def _evidence(bundle: Bundle, entries: Sequence[Entry]) -> Iterator[str]:
    manifest = bundle.manifest
    yield ""
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.counts.items())) or "none"
    yield f"- records: {counts}; {size(bundle.size_bytes)}"
    worst = sum(entry.severity in ("error", "fatal") for entry in entries)
    yield f"- {worst} errors, {sum(entry.severity == 'warning' for entry in entries)} warnings"
    versions = ", ".join(f"{clean(name)} {clean(text)}" for name, text in sorted(manifest.versions.items()))
    yield f"- versions: {versions[:800]}"
    for sentence in manifest.incomplete:
        yield f"- missing: {clean(sentence)}"
    yield from _stacks(bundle)


def _stacks(bundle: Bundle) -> Iterator[str]:
    for facts in bundle.processes()[-1:][0] if bundle.processes() else ():
        stuck = [one for one in facts.get("threads", ()) if one.get("state") == "D"]
        for thread in stuck[:4]:
            name, pid, tid = clean(facts.get("comm", "?")), facts.get("pid"), thread.get("tid")
            yield f"- `{name}` ({pid}) thread {tid} sleeps uninterruptibly:"
            yield from (
                f"    - `{clean(line)}`" for line in str(thread.get("stack", "")).splitlines()[:MAX_STACK_LINES]
            )


def excerpt(entries: Sequence[Entry], at_ns: int) -> list[Entry]:
    """What matters most: warnings and worse, those nearest to the trigger, by time."""
    important = [entry for entry in entries if entry.severity in IMPORTANT]
    nearest = sorted(important, key=lambda entry: abs(entry.at_ns - at_ns))[:EXCERPT]
    return sorted(nearest, key=lambda entry: entry.at_ns)


def shown(entry: Entry, at_ns: int) -> str:
    """One line for people."""
    who = "" if entry.entity == "host" else f" [{clean(entry.entity)}]"
    return f"{relative(entry.at_ns, at_ns):>9}  {entry.severity:<7}  {clean(entry.kind):<20} {entry.text}{who}"
