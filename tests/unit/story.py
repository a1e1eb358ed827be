"""Replays a story of faults: lines of a log, decoded as always, and the incidents that come of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from eagle_eye.collector.incidents.engine import Engine
from eagle_eye.collector.incidents.incidents import RESETS, Incidents
from eagle_eye.collector.incidents.merge import Merger
from eagle_eye.collector.incidents.places import Places
from eagle_eye.collector.incidents.record import Record
from eagle_eye.collector.incidents.rules import load
from eagle_eye.probes.decode.grammar import decode_lines
from eagle_eye.probes.faults import make_fault
from eagle_eye.probes.model import Device, Fault
from eagle_eye.probes.paths import Paths

STORIES = Path(__file__).resolve().parents[1] / "fixtures/stories"
WALL_OFFSET_NS = 1_700_000_000_000_000_000
RULES = load()
SECOND_NS = 1_000_000_000


def read_story(name: str) -> dict[str, Any]:
    return yaml.safe_load((STORIES / f"{name}.yaml").read_text())


def faults_of(lines: str) -> list[Fault]:
    """The faults that the lines tell, each with the time of its line."""
    found = []
    times = [float(match[1]) for line in lines.splitlines() if (match := re.match(r"\[ *(\d+\.\d+)\]", line))]
    for at, one in enumerate(decode_lines(lines.splitlines())):
        at_ns = round(times[one.lines[0] - 1] * 1e9)
        fault = make_fault(one.decoded, at_ns=at_ns, source="kmsg", event_id=f"boot:kmsg:{at}", count=one.count)
        if fault is not None:
            found.append(fault)
    return found


class Node:
    """A machine of the story: its ports as links in a sysfs, its devices, and an engine."""

    def __init__(self, folder: Path, story: dict[str, Any], boot_id: str = "boot") -> None:
        pci = folder / "bus/pci/devices"
        pci.mkdir(parents=True, exist_ok=True)
        for address, ports in story.get("ports", {}).items():
            for at, name in enumerate([*ports, address]):
                link = pci / name
                if not link.is_symlink():
                    link.symlink_to("../../../devices/pci0000:00/" + "/".join([*ports[:at], name]))
        self.places = Places(folder)
        devices = [
            Device(vendor="nvidia", index=at, uuid=uuid, pci_bdf=address)
            for at, (address, uuid) in enumerate(story.get("devices", {}).items())
        ]
        self.places.learn(devices)
        self.engine = Engine(RULES, self.places, boot_id)
        self.merger = Merger(RULES.merge.window)
        self.told = self.merged = 0

    def take(self, fault: Fault):
        new = self.merger.new(self.places.place(fault).entity, fault)
        self.told += new
        self.merged += fault.count - new
        return self.engine.take(fault, new, WALL_OFFSET_NS)

    def event(self, event: dict[str, Any]):
        if event["kind"] in RESETS:
            wall_ns = event["at"] * 10**9 + WALL_OFFSET_NS
            return self.engine.device_was_reset(event["entity"], RESETS[event["kind"]], wall_ns)
        return []

    @property
    def records(self) -> list[Record]:
        cleared = [one for one in self.engine.book.cleared.values() if not one.merged_into]
        return [*cleared, *self.engine.book.open.values()]

    @property
    def in_incidents(self) -> int:
        return sum(part.count for record in self.records for part in record.parts)


def replay(folder: Path, story: dict[str, Any], faults: list[Fault] | None = None) -> Node:
    node = Node(folder, story)
    for fault in faults_of(story["lines"]) if faults is None else faults:
        node.take(fault)
    for event in story.get("events", []):
        node.event(event)
    return node


def told(record: Record, expected: dict[str, Any]) -> dict[str, Any]:
    """What `expected` asks of an incident, as it is."""
    incident = record.export("node", "cluster")
    with_entity = any("@" in name for name in expected["parts"])
    names = {
        f"{part.family} {part.code}" + (f" @{part.entity}" if with_entity else ""): part.role for part in incident.parts
    }
    every = {"cause": f"{incident.family} {incident.code}", "parts": names}
    return {name: every.get(name, getattr(incident, name, None)) for name in expected}


def shape(node: Node) -> list[Any]:
    """All that must not depend on the order in which faults arrive."""
    incidents = [record.export("node", "cluster") for record in node.records]
    return sorted(
        (
            one.family,
            one.code,
            one.entity,
            one.severity,
            one.action,
            one.state,
            one.occurrences,
            sorted((part.family, part.code, part.entity, part.role, part.count) for part in one.parts),
        )
        for one in incidents
    )


def another(fault: Fault, **changes: Any) -> Fault:
    return replace(fault, **changes)


def xid(
    code: object,
    at_s: float = 100.0,
    *,
    address: str = "0000:01:00.0",
    source: str = "kmsg",
    number: int = 0,
    **more: Any,
) -> Fault:
    """A fault of NVIDIA's driver, unless `more` says otherwise."""
    at_ns = round(at_s * SECOND_NS)
    return Fault(
        id=f"boot:faults.{source}:{number or at_ns}",
        at_ns=at_ns,
        entity=more.pop("entity", f"pci:{address}"),
        family=more.pop("family", "nvidia.xid"),
        code=str(code),
        device=address,
        sources=(source,),
        **more,
    )


def only(records: Any) -> Any:
    (record,) = records
    return record


def kinds(events: Any) -> list[str]:
    return [event.kind for event in events]


def incidents_in(folder: Path, boot_id: str = "boot") -> Incidents:
    """The incidents of a machine; from the same folder, those that were saved there."""
    return Incidents(folder / "incidents", node="node", cluster="cluster", boot_id=boot_id, paths=Paths(sys=folder))
