"""Decodes the kernel records of a bundle again, makes incidents of them again, and tells what differs from then.

Only what the kernel log told is decoded anew; faults that other sources told are taken as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...native.kmsg import LEVELS
from ...probes.decode.grammar import Decoder, Found
from ...probes.decode.record import Record, tokenize
from ...probes.faults import make_fault
from ...probes.model import Device, DeviceLink, Event, Fault
from ..incidents.engine import MERGED, Engine
from ..incidents.merge import Merger
from ..incidents.places import Places
from ..incidents.rules import load
from .bundle import Bundle, Line

NOWHERE = Path("/nonexistent")
KERNEL = "kmsg"
COMPARED = ("severity", "action", "mnemonic")

Key = tuple[str, str, str]
Verdicts = dict[Key, dict[str, str]]


class Difference(Struct, frozen=True):
    """`then` is what the agent said when it was recorded, `today` what this version says; None: nothing."""

    what: Literal["fault", "incident"]
    entity: str
    family: str
    code: str
    then: Mapping[str, str] | None
    today: Mapping[str, str] | None

    @property
    def same(self) -> bool:
        return self.then == self.today


class _Told(Struct):
    """What a bundle holds, sorted out. `incidents` by their ids, each as it was told last.

    `older` are those of the incidents that began before the bundle does: what made them need not be in it.
    """

    records: list[Record]
    faults: list[tuple[Fault, int]]
    incidents: dict[str, tuple[Key, dict[str, str]]]
    devices: list[Device]
    topology: list[DeviceLink]
    older: set[str]


def replay(bundle: Bundle) -> list[Difference]:
    """Every fault and incident of then or today; `same` tells which do not differ. Raises EagleEyeError."""
    told = _sort_out(bundle)
    places = Places(NOWHERE)
    places.learn(told.devices, told.topology)
    offset_ns = bundle.manifest.wall_offset_ns
    today = list(_decoded_again(told))
    others = [fault for fault, _ in told.faults if fault.sources and KERNEL not in fault.sources]
    incidents = _incidents_again([*today, *others], places, bundle.manifest.boot_id, offset_ns)
    then = _verdicts((fault for fault, _ in told.faults if not fault.sources or KERNEL in fault.sources), places)
    return [
        *_compare("fault", then, _verdicts(today, places)),
        *_compare("incident", _incidents_then(told, incidents), incidents),
    ]


def _sort_out(bundle: Bundle) -> _Told:
    told = _Told([], [], {}, [], [], set())
    start_wall_ns = bundle.manifest.start_ns + bundle.manifest.wall_offset_ns
    for line in bundle.lines():
        if line.kind == "event":
            _take_event(msgspec.convert(line.data, Event), told, start_wall_ns)
        elif line.kind == "kmsg":
            told.records += [_record(one, len(told.records)) for one in line.data]
        elif line.kind == "pstore":
            told.records += _saved(line, bundle.manifest.boot_id, len(told.records))
        elif line.kind == "snapshot" and line.data.get("devices"):
            told.devices = msgspec.convert(line.data["devices"], list[Device])
            told.topology = msgspec.convert(line.data.get("topology", []), list[DeviceLink])
    return told


def _incidents_then(told: _Told, today: Verdicts) -> Verdicts:
    found = told.incidents.items()
    return {key: verdict for name, (key, verdict) in found if name not in told.older or key in today}


def _take_event(event: Event, told: _Told, start_wall_ns: int) -> None:
    attributes = event.attributes
    if event.kind == "kmsg.record":
        told.records.append(_record(attributes, len(told.records)))
    elif event.kind.startswith("incident."):
        _take_incident(attributes, told, start_wall_ns)
    elif attributes.get("family") == event.kind and "code" in attributes:
        fault = _fault(event)
        if fault is not None:
            told.faults.append((fault, event.wall_offset_ns))


def _take_incident(attributes: Mapping[str, Any], told: _Told, start_wall_ns: int) -> None:
    """What named an incident at first is no incident of its own, nor is one that went into another."""
    words = {
        name: str(attributes.get(name, "")) for name in ("id", "entity", "family", "code", *COMPARED, "cleared_by")
    }
    if words["cleared_by"].startswith(MERGED):
        told.incidents.pop(words["id"], None)
    else:
        key = (words["entity"], words["family"], words["code"])
        told.incidents[words["id"]] = (key, {name: words[name] for name in COMPARED})
        opened_wall_ns = attributes.get("opened_wall_ns")
        if isinstance(opened_wall_ns, int) and opened_wall_ns < start_wall_ns:
            told.older.add(words["id"])


def _record(attributes: Mapping[str, Any], number: int) -> Record:
    level = attributes.get("level")
    at_ns = attributes.get("log_time_ns")
    return Record(
        text=tokenize(str(attributes.get("text", ""))).text,
        line=number + 1,
        at_ns=at_ns if isinstance(at_ns, int) else -1,
        level=LEVELS.index(level) if level in LEVELS else -1,
    )


def _saved(line: Line, boot_id: str, number: int) -> Iterator[Record]:
    if line.data.get("boot_id") == boot_id:
        for index, text in enumerate(line.data["text"].splitlines()):
            yield tokenize(text, number + index + 1)


def _fault(event: Event) -> Fault | None:
    own = {"id": event.id, "at_ns": event.at_ns, "entity": event.entity, "severity": event.severity}
    try:
        return msgspec.convert({**event.attributes, **own}, Fault)
    except msgspec.ValidationError:
        return None


def _decoded_again(told: _Told) -> Iterator[Fault]:
    decoder = Decoder()
    uuids = {device.pci_bdf: device.uuid for device in told.devices if not device.parent_uuid}
    driver = _driver(told)
    for found in _found(decoder, told.records):
        said = found.decoded.fields
        if found.decoded.family == "nvidia.identity":
            driver = str(said.get("driver", driver))
        at_ns = max(found.record.at_ns, 0)
        event_id = f"replay:{KERNEL}:{found.lines[0]}"
        fault = make_fault(
            found.decoded,
            at_ns=at_ns,
            source=KERNEL,
            driver=driver,
            event_id=event_id,
            uuids=uuids,
            count=found.count,
        )
        if fault is not None:
            yield fault


def _driver(told: _Told) -> str:
    """The version under which the agent read the faults, so that only the rules make a difference."""
    drivers = [fault.driver for fault, _ in told.faults if fault.family.startswith("nvidia.")]
    drivers = drivers or [device.driver for device in told.devices if device.vendor == "nvidia"]
    return next(iter(drivers[0].split()), "") if drivers else ""


def _found(decoder: Decoder, records: Iterable[Record]) -> Iterator[Found]:
    for record in records:
        yield from decoder.take(record)
    yield from decoder.flush()


def _incidents_again(faults: Iterable[Fault], places: Places, boot_id: str, offset_ns: int) -> Verdicts:
    rules = load()
    engine, merger = Engine(rules, places, boot_id), Merger(rules.merge.window)
    for fault in sorted(faults, key=lambda one: one.at_ns):
        engine.take(fault, merger.new(places.place(fault).entity, fault), offset_ns)
    records = (*engine.book.open.values(), *engine.book.cleared.values())
    exported = [record.export("", "") for record in records if not record.merged_into]
    return {(one.entity, one.family, one.code): _verdict(one) for one in exported}


def _verdicts(faults: Iterable[Fault], places: Places) -> Verdicts:
    """The last word on each code of each device."""
    return {(places.place(fault).entity, fault.family, fault.code): _verdict(fault) for fault in faults}


def _verdict(of: Any) -> dict[str, str]:
    return {name: str(getattr(of, name)) for name in COMPARED}


def _compare(what: Literal["fault", "incident"], then: Verdicts, today: Verdicts) -> Iterator[Difference]:
    for key in sorted({*then, *today}):
        yield Difference(what, *key, then=then.get(key), today=today.get(key))
