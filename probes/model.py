"""The types that all parts share. Frozen; units are in the field names.

Every `at_ns` is CLOCK_MONOTONIC in nanoseconds, equal to `bpf_ktime_get_ns`; times of two nodes
compare only through `at_ns + wall_offset_ns` of their snapshots or events. What is published by itself
(Snapshot, Event, Stall, Finding) has every field, `schema` among them; its parts leave defaults out.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

SCHEMA_VERSION = 1

type_names = (
    "Device", "DeviceLink", "Reading", "Event", "Fault", "Step", "Cause", "Stall", "Health", "Snapshot", "Finding",
)  # fmt: skip

Severity = Literal["info", "warning", "error", "fatal"]
HealthState = Literal["starting", "ok", "degraded", "failing", "hung", "unavailable", "off"]
CauseClass = Literal["hardware", "driver", "host", "network", "application", "config", "unknown"]
Action = Literal["none", "watch", "restart_application", "drain", "reset_device", "reboot_node", "replace"]


class Device(Struct, frozen=True, omit_defaults=True):
    """Static identity of an accelerator; a MIG or vNPU instance names its parent's uuid.

    `uuid` says which one it is; `index` is the vendor's number of it, which may change with every boot.
    `numa_node` is -1 when the machine does not tell.
    """

    vendor: str
    index: int
    uuid: str
    pci_bdf: str = ""
    model: str = ""
    driver: str = ""
    firmware: str = ""
    serial: str = ""
    parent_uuid: str = ""
    simulated: bool = False
    kind: Literal["gpu", "npu", "mig", "vnpu"] = "gpu"
    vbios: str = ""
    inforom: str = ""
    numa_node: int = -1


class DeviceLink(Struct, frozen=True, omit_defaults=True):
    """How two devices reach each other, by uuid; `b` is "switch" where many meet in one.

    `kind` is nvlink, hccs, or the closest thing that both share on PCIe: board, pcie_switch, pcie_switches,
    host_bridge, numa_node, system. `count` is the number of parallel links.
    """

    a: str
    b: str
    kind: str
    count: int = 1


class Reading(Struct, frozen=True):
    """One numeric sample set of one entity, taken by one probe.

    Keys of `values` are Prometheus series: the metric name with its labels, if any, in braces.
    A histogram appears as a summary of the interval since the previous snapshot:
    `name{quantile="0.5"}`, `name{quantile="0.99"}`, and the running `name_count` and `name_sum`.
    `entity` is "host" or a device's uuid; the keys then leave out the labels that only say which device it is.
    """

    entity: str
    probe: str
    at_ns: int
    values: dict[str, float]


class Event(Struct, frozen=True):
    """A timestamped fact. `id` is boot_id:probe:time (kernel log: record number), and deduplicates on NATS."""

    id: str
    kind: str
    at_ns: int
    wall_offset_ns: int
    node: str
    boot_id: str
    entity: str
    severity: Severity = "info"
    attributes: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION
    cluster: str = ""

    def __post_init__(self) -> None:
        if not self.id or not self.kind:
            raise ValueError("an event needs an id and a kind")


class Fault(Struct, frozen=True, omit_defaults=True):
    """An event that a catalogue knows: what failed, and what to do about it."""

    id: str
    at_ns: int
    entity: str
    family: str
    code: str
    mnemonic: str = ""
    subcode: str = ""
    severity: Severity = "error"
    action: Action = "watch"
    driver: str = ""
    event_id: str = ""


class Step(Struct, frozen=True, omit_defaults=True):
    """One scheduler step of an inference engine."""

    engine: str
    seq: int
    start_ns: int
    end_ns: int
    running: int = 0
    waiting: int = 0
    preempted: int = 0
    tokens: int = 0
    kv_usage_ratio: float = 0.0


class Cause(Struct, frozen=True):
    """One reason for lost time, with its share of that time (0 to 1) and the ids that prove it."""

    name: str
    share_ratio: float
    evidence: tuple[str, ...] = ()


class Stall(Struct, frozen=True):
    """A slow step or a stuck call, explained; causes are ranked, largest share first."""

    id: str
    at_ns: int
    entity: str
    what: str
    excess_ns: int
    causes: tuple[Cause, ...] = ()
    schema: int = SCHEMA_VERSION


class Health(Struct, frozen=True, omit_defaults=True):
    """Of one probe. `reason` is one sentence, `remedy` one command; unknown is never `ok`."""

    probe: str
    state: HealthState
    reason: str = ""
    remedy: str = ""
    events: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    last_success_ns: int = 0
    duration_ns: int = 0


class Snapshot(Struct, frozen=True):
    """The node now. `values` of `host` carry their own `at_ns`, so a reader can tell their age."""

    node: str
    cluster: str
    boot_id: str
    agent: str
    seq: int
    at_ns: int
    wall_offset_ns: int
    interval_ns: int
    host: tuple[Reading, ...]
    health: tuple[Health, ...]
    devices: tuple[Device, ...] = ()
    device_readings: tuple[Reading, ...] = ()
    topology: tuple[DeviceLink, ...] = ()
    engines: tuple[Step, ...] = ()
    faults: tuple[Fault, ...] = ()
    schema: int = SCHEMA_VERSION


class Finding(Struct, frozen=True):
    """A diagnosis: one cause, a confidence (0 to 1), the evidence and an action."""

    id: str
    at_ns: int
    cause_class: CauseClass
    fault: str
    entities: tuple[str, ...]
    severity: Severity
    confidence_ratio: float
    evidence: tuple[str, ...]
    recommendation: str
    action: Action = "watch"
    state: Literal["open", "cleared"] = "open"
    schema: int = SCHEMA_VERSION
