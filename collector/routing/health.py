"""Whether an engine's devices and node are fit to serve: from open incidents, findings and device readings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from ...probes.model import Device, EngineState, Finding, Health, Incident, Reading, Snapshot

Level = Literal["ok", "unknown", "degraded", "avoid"]

# A snapshot comes at least once a minute; what is older than this says nothing of now.
STALE_NS = 5_000_000_000
MAX_FINDINGS = 1000
MAX_LOST = 64
MAX_REASON_CHARACTERS = 200
# Clocks held down by heat or power for more than half of the time.
HELD_DOWN_RATIO = 0.5

_WORSE: tuple[Level, ...] = ("ok", "unknown", "degraded", "avoid")
_LEAVE = ("drain", "reset_device", "reboot_node", "replace")
_DEVICE_LEVEL: Mapping[str, Level] = {"ok": "ok", "degraded": "degraded", "failed": "avoid", "stuck": "avoid"}
_STATE = re.compile(r'eagle_eye_device_health\{state="(\w+)"\}')
_THROTTLE = re.compile(r'eagle_eye_device_throttle_seconds_total\{reason="(\w+)"\}')
_USER = re.compile(r'eagle_eye_device_process_memory_bytes\{pod="([^"]*)",namespace="[^"]*",container="([^"]*)"\}')
_READ = ("eagle_eye_device_health{", "eagle_eye_device_throttle_", "eagle_eye_device_process_memory_")
# A device that waits for work is not held back, and a cap of power under full load is how it is meant to run.
_NO_PRESSURE = ("low_utilization",)
_NO_HARM = ("low_utilization", "power_cap", "sync_boost")


class Verdict(Struct, frozen=True):
    """Of one engine. `at_ns` is when the evidence was read; `pressure_ratio` None where no device tells."""

    level: Level = "unknown"
    reason: str = "nothing is known of the node yet"
    at_ns: int = 0
    pressure_ratio: float | None = None


class _Concern(Struct, frozen=True):
    """Something open: of which entity (uuid, instance, `host`) or PCI address, how bad, in words."""

    entity: str
    device: str
    level: Level
    reason: str


class _Facts(Struct, frozen=True):
    """What the readings say of one device."""

    device: Device
    level: Level
    reason: str
    at_ns: int
    users: frozenset[str] = frozenset()
    pressure_ratio: float | None = None


class Pressure(Struct, frozen=True):
    """Share of the time between two readings in which any reason, or a harmful one, held the clocks down."""

    any_ratio: float | None = None
    harmful_ratio: float | None = None


class _Throttled(Struct, frozen=True):
    at_ns: int
    seconds: dict[str, float]
    pressure: Pressure


class Judge:
    """Knows the node's open troubles, and what they mean for an engine on it."""

    def __init__(self) -> None:
        self._incidents: list[_Concern] = []
        self._findings: dict[str, _Concern] = {}
        self._facts: dict[str, _Facts] = {}
        self._pids: Mapping[str, Sequence[int]] = {}
        self._throttled: dict[str, _Throttled] = {}
        self._lost: dict[str, Device] = {}
        self._trouble = ""
        self._at_ns = 0

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """The node's devices and incidents, with every snapshot."""
        self._at_ns = snapshot.at_ns
        self.take_incidents(snapshot.incidents)
        self._trouble = next((f"devices: {each.state}" for each in snapshot.health if _blind(each)), "")
        readings = {reading.entity: reading for reading in snapshot.device_readings}
        before = self._facts
        self._facts = {each.uuid: self._read(each, readings.get(each.uuid)) for each in snapshot.devices}
        lost = {uuid: facts.device for uuid, facts in before.items() if uuid not in self._facts} | self._lost
        self._lost = {uuid: device for uuid, device in lost.items() if uuid not in self._facts}
        while len(self._lost) > MAX_LOST:
            del self._lost[next(iter(self._lost))]
        self._throttled = {uuid: kept for uuid, kept in self._throttled.items() if uuid in self._facts}

    def take_incidents(self, incidents: Iterable[Incident]) -> None:
        """All that are open now."""
        self._incidents = [
            _Concern(each.entity, each.device, level_of(each.severity, each.action), _words(each))
            for each in incidents
            if each.state == "open"
        ]

    def take_finding(self, finding: Finding) -> None:
        """One diagnosis, open or cleared; its `entities` are uuids, instances or `host`."""
        self._findings = {key: value for key, value in self._findings.items() if not key.startswith(f"{finding.id} ")}
        if finding.state == "open" and len(self._findings) < MAX_FINDINGS:
            level = level_of(finding.severity, finding.action)
            reason = f"{finding.fault}: {finding.recommendation}"
            for entity in finding.entities:
                self._findings[f"{finding.id} {entity}"] = _Concern(entity, "", level, reason)

    def take_pids(self, pids: Mapping[str, Sequence[int]]) -> None:
        """Processes that have a device open, by its uuid; of a device that vanished the last ones are remembered."""
        remembered = self._facts.keys() | self._lost.keys()
        self._pids = {uuid: found for uuid, found in self._pids.items() if uuid in remembered} | dict(pids)

    def verdict(self, state: EngineState, now_ns: int) -> Verdict:
        """What is open and concerns this engine; the worst comes first."""
        if not self._at_ns or now_ns - self._at_ns > STALE_NS:
            return Verdict(reason="nothing was heard of the node's devices lately" if self._at_ns else Verdict().reason)
        own = self._devices_of(state)
        used = own or list(self._facts.values())
        found: list[tuple[Level, str]] = [("unknown", self._trouble)] if self._trouble else []
        found += self._of_node(state)
        for facts in used:
            found += [_capped(each, known=bool(own)) for each in self._of_device(facts)]
        level, reason = max(found, key=lambda each: _WORSE.index(each[0]), default=("ok", ""))
        pressures = [facts.pressure_ratio for facts in own if facts.pressure_ratio is not None]
        return Verdict(
            level,
            reason[:MAX_REASON_CHARACTERS] if level != "ok" else "",
            min([self._at_ns, *(facts.at_ns for facts in used if facts.at_ns)]),
            max(pressures, default=None),
        )

    def _of_node(self, state: EngineState) -> Iterator[tuple[Level, str]]:
        for concern in [*self._incidents, *self._findings.values()]:
            if concern.entity in ("host", state.instance):
                yield concern.level, concern.reason
            elif concern.level == "avoid" and not self._is_listed(concern):
                # A device that fell off the bus is not listed any more.
                yield _capped((concern.level, f"{concern.entity}: {concern.reason}"), known=False)
        pids = {state.pid, *state.worker_pids} - {0}
        for uuid, device in self._lost.items():
            if not pids.isdisjoint(self._pids.get(uuid, ())):
                yield "avoid", f"{_name(device)}, which it uses, is not listed any more"

    def _is_listed(self, concern: _Concern) -> bool:
        return any(
            concern.entity == uuid or (concern.device and concern.device == facts.device.pci_bdf)
            for uuid, facts in self._facts.items()
        )

    def _of_device(self, facts: _Facts) -> Iterator[tuple[Level, str]]:
        yield facts.level, facts.reason
        device = facts.device
        for concern in [*self._incidents, *self._findings.values()]:
            if concern.entity == device.uuid or (concern.device and concern.device == device.pci_bdf):
                yield concern.level, f"{_name(device)}: {concern.reason}"

    def _devices_of(self, state: EngineState) -> list[_Facts]:
        pids = {state.pid, *state.worker_pids} - {0}
        names = {state.pod, state.container} - {""}
        return [
            facts
            for uuid, facts in self._facts.items()
            if not pids.isdisjoint(self._pids.get(uuid, ())) or not names.isdisjoint(facts.users)
        ]

    def _read(self, device: Device, reading: Reading | None) -> _Facts:
        if reading is None or self._at_ns - reading.at_ns > STALE_NS:
            return _Facts(device, "unknown", f"{_name(device)}: no reading of now", reading.at_ns if reading else 0)
        state = "unknown"
        users: set[str] = set()
        throttled: dict[str, float] = {}
        for key, value in reading.values.items():
            if not key.startswith(_READ):
                continue
            if (found := _STATE.match(key)) and value:
                state = found[1]
            elif found := _THROTTLE.match(key):
                throttled[found[1]] = value
            elif found := _USER.match(key):
                users |= {found[1], found[2]} - {""}
        level = _DEVICE_LEVEL.get(state, "unknown")
        reason = f"{_name(device)} is {state}"
        pressure = self._held_down(device.uuid, reading.at_ns, throttled)
        if level == "ok" and (pressure.harmful_ratio or 0.0) > HELD_DOWN_RATIO:
            level, reason = "degraded", f"{_name(device)}: clocks held down {pressure.harmful_ratio:.0%} of the time"
        return _Facts(device, level, reason, reading.at_ns, frozenset(users), pressure.any_ratio)

    def _held_down(self, uuid: str, at_ns: int, throttled: dict[str, float]) -> Pressure:
        before = self._throttled.get(uuid)
        if before is not None and before.at_ns >= at_ns:
            return before.pressure
        pressure = _pressure(before, at_ns, throttled) if before else Pressure()
        self._throttled[uuid] = _Throttled(at_ns, throttled, pressure)
        return pressure


def _pressure(before: _Throttled, at_ns: int, throttled: dict[str, float]) -> Pressure:
    if not throttled:
        return Pressure()
    elapsed_s = (at_ns - before.at_ns) / 1e9
    shares = {
        reason: min(1.0, max(0.0, seconds - before.seconds.get(reason, seconds)) / elapsed_s)
        for reason, seconds in throttled.items()
    }
    return Pressure(_worst(shares, _NO_PRESSURE), _worst(shares, _NO_HARM))


def _worst(shares: Mapping[str, float], left_out: Sequence[str]) -> float:
    return max((share for reason, share in shares.items() if reason not in left_out), default=0.0)


def level_of(severity: str, action: str) -> Level:
    """What an open incident or finding means for who would send work there."""
    if severity == "info" or action == "none":
        return "ok"
    return "avoid" if severity == "fatal" or action in _LEAVE else "degraded"


def _capped(found: tuple[Level, str], *, known: bool) -> tuple[Level, str]:
    """Trouble of a device that the engine may not use is no reason to leave the engine alone."""
    level, reason = found
    if known or level == "ok":
        return found
    return ("degraded" if level == "avoid" else level), f"{reason} (whether this engine uses it is not known)"


def _blind(health: Health) -> bool:
    return health.probe == "devices" and health.state in ("starting", "failing", "hung", "off")


def _words(incident: Incident) -> str:
    name = f"{incident.family} {incident.code}"
    return f"{name} {incident.mnemonic}: {incident.action}" if incident.mnemonic else f"{name}: {incident.action}"


def _name(device: Device) -> str:
    return f"{device.kind} {device.index}"
