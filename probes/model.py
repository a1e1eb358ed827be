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
    "Device", "DeviceLink", "Reading", "Event", "Fault", "IncidentPart", "Incident", "EngineState", "RoutingMessage",
    "Step", "Cause", "Stall", "Health", "Snapshot", "Finding",
)  # fmt: skip

Severity = Literal["info", "warning", "error", "fatal"]
HealthState = Literal["starting", "ok", "degraded", "failing", "hung", "unavailable", "off"]
CauseClass = Literal["hardware", "driver", "host", "network", "application", "config", "unknown"]
FaultPhase = Literal["occurrence", "recovery", "once"]
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
    """An event that a catalogue knows: what failed, and what to do about it.

    `entity` is a device's uuid, `pci:` and its address where no more is known, or "host"; `device` is the PCI
    address (`0000:9b:00.0`). `code` is the family's own: an Xid, an event id in hex, the name of an AER bit.
    `bucket` is the vendor's word for the action, `cause` the code that the source itself says came first.
    `sources` are those that told it: kmsg, tracepoint, nvml, dcmi, sysfs. `count` is how often it was told as one.
    """

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
    device: str = ""
    bucket: str = ""
    meaning: str = ""
    check: str = ""
    cause: str = ""
    phase: FaultPhase = "once"
    sources: tuple[str, ...] = ()
    count: int = 1
    pid: int = 0
    process: str = ""
    simulated: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


class IncidentPart(Struct, frozen=True, omit_defaults=True):
    """What one code did in an incident. `fault` is the id of its first occurrence."""

    family: str
    code: str
    role: Literal["cause", "precursor", "victim", "verdict"]
    fault: str
    entity: str
    count: int
    first_ns: int
    last_ns: int
    mnemonic: str = ""
    sources: tuple[str, ...] = ()


class Incident(Struct, frozen=True):
    """Faults of one cause on one entity, from the first to the one that clears them.

    Times in nanoseconds since 1970, as it may outlive the boot. `code` and `family` are those of the part that
    is the cause; `action` is the strongest that still holds; `escalated` names the rule that raised it. `note` is
    what a reader must know beside that, such as a reboot that it outlived.
    """

    id: str
    node: str
    entity: str
    family: str
    code: str
    mnemonic: str
    severity: Severity
    action: Action
    state: Literal["open", "cleared"]
    opened_wall_ns: int
    updated_wall_ns: int
    parts: tuple[IncidentPart, ...]
    occurrences: int
    meaning: str = ""
    check: str = ""
    device: str = ""
    escalated: str = ""
    cleared_by: str = ""
    reopened: int = 0
    boot_id: str = ""
    cluster: str = ""
    simulated: bool = False
    note: str = ""
    schema: int = SCHEMA_VERSION


class EngineState(Struct, frozen=True, kw_only=True):
    """One rank of one inference engine, as it was at `at_ns`. None is unknown, which is not zero.

    `instance` is new with every start of the engine. `kind`: a step has ended; a tick tells of one that goes on;
    idle, draining and gone are what they say; unknown when the source fell silent. `source` is plugin, shm or
    metrics. Totals count from the start of the engine. `in_flight_age_ns` is the age of the step that goes on.
    """

    instance: str
    engine: str
    at_ns: int
    kind: Literal["step", "tick", "idle", "draining", "gone", "unknown"]
    source: Literal["plugin", "shm", "metrics"]
    version: str = ""
    model: str = ""
    dp_rank: int = 0
    role: str = "both"
    pid: int = 0
    worker_pids: tuple[int, ...] = ()
    pod: str = ""
    container: str = ""
    simulated: bool = False
    step: int = 0
    running: int | None = None
    waiting: int | None = None
    deferred: int | None = None
    input_queue: int | None = None
    waiting_prefill_tokens: int | None = None
    running_context_tokens: int | None = None
    max_running: int | None = None
    max_batched_tokens: int | None = None
    kv_blocks_total: int | None = None
    kv_blocks_free: int | None = None
    kv_block_tokens: int | None = None
    kv_usage_ratio: float | None = None
    step_duration_ns: int | None = None
    schedule_duration_ns: int | None = None
    prefill_requests: int | None = None
    prefill_tokens: int | None = None
    decode_requests: int | None = None
    decode_tokens: int | None = None
    preemptions_total: int | None = None
    prefill_tokens_total: int | None = None
    decode_tokens_total: int | None = None
    prefix_queries_total: int | None = None
    prefix_hits_total: int | None = None
    draft_tokens_total: int | None = None
    accepted_tokens_total: int | None = None
    finished_total: dict[str, int] = field(default_factory=dict)
    in_flight_age_ns: int | None = None


class RoutingMessage(EngineState, frozen=True, kw_only=True):
    """What a router needs of one engine rank; the latest wins. Every field is there, null where unknown.

    `seq` rises by one per message of an instance. `at_wall_ns` is `at_ns` in nanoseconds since 1970. A reader that
    heard nothing for `max_silence_ns` knows nothing: not idle, not saturated. `coalesced` counts the changes since
    the message before that this one stands for. `age_ns` is how old the state was when the message left, on the
    sender's own clock, and `agent` who sent it: another one after a restart. Rates are learned;
    `device_pressure_ratio` is the share of time in which the clocks of the worst of its devices were held down.
    """

    node: str
    cluster: str
    boot_id: str
    seq: int
    at_wall_ns: int
    max_silence_ns: int
    coalesced: int = 0
    steps_total: int | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    health: Literal["ok", "degraded", "avoid", "unknown"] = "unknown"
    health_reason: str = ""
    health_at_wall_ns: int = 0
    device_pressure_ratio: float | None = None
    agent: str = ""
    age_ns: int = 0
    schema: int = SCHEMA_VERSION


class Step(Struct, frozen=True, omit_defaults=True):
    """One scheduler step of an inference engine.

    `pid`, `thread_id` and `worker_pids` are the node's: who scheduled, and who computed; 0 and () where not known.
    """

    engine: str
    seq: int
    start_ns: int
    end_ns: int
    running: int = 0
    waiting: int = 0
    preempted: int = 0
    tokens: int = 0
    kv_usage_ratio: float = 0.0
    dp_rank: int = 0
    pid: int = 0
    thread_id: int = 0
    worker_pids: tuple[int, ...] = ()


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
    engines: tuple[EngineState, ...] = ()
    incidents: tuple[Incident, ...] = ()
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
