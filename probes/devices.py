"""Accelerators: NVIDIA GPUs by NVML and Ascend NPUs by DCMI, sampled by worker processes that may hang or crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..native.device import DEVICE_MAX, FIELD, LINK_FIELDS, LINKS_MAX, NOT_READ
from ..native.errors import UnavailableError
from . import device_owners, hami
from .device_counters import Monotone
from .device_events import DeviceEvents
from .device_fault_reports import faults_of
from .device_library import find_library
from .device_metrics import DEVICE_LABELS, PREFIX, Row, counter_masks, labels_of, metrics
from .device_owners import Users
from .device_seats import Library
from .device_times import CALL_SECONDS
from .device_workers import Workers
from .hami import DeviceMemory
from .model import Device, DeviceLink
from .options import Option
from .probe import Context, Metric, Sample, Series, Spec

HEALTH = Metric(
    PREFIX + "health",
    "gauge",
    "1 for the state that the device is in; failed also while a fatal fault is open, stuck when calls to it hung or "
    "crashed the library, unknown when nothing is known now.",
    (*DEVICE_LABELS, "state"),
)
STATES = ("ok", "degraded", "failed", "stuck", "unknown")
_IDENTITY = (
    "vendor", "kind", "driver", "firmware", "vbios", "inforom", "serial", "pci_bdf", "numa_node", "parent_uuid",
    "simulated",
)  # fmt: skip
INFO = Metric(PREFIX + "info", "gauge", "1, with the identity of the device.", (*DEVICE_LABELS, *_IDENTITY))

RATE = Option("rate", "duration", "100ms", "time between two samples of each device", minimum="20ms", maximum="1m")
DEADLINE = Option(
    "deadline",
    "duration",
    "1s",
    "a call into a vendor's library that takes longer is reported and its process replaced",
    minimum="100ms",
    maximum="1m",
)
RETRY = Option(
    "retry",
    "integer",
    3,
    "how often a device with a fatal fault is touched again after it hung or crashed the library",
    minimum=0,
    maximum=1000,
)
NVML = Option("nvml", "text", "libnvidia-ml.so.1", "NVIDIA's library, by name or path")
DCMI = Option("dcmi", "text", "libdcmi.so", "Ascend's library, by name or path")

FIRST_INVENTORY_S = 3.0
# Beyond the deadline, after which a worker is replaced: as long as that may take.
STALE_NS = 4_000_000_000


class State:
    """What is remembered of one device over rounds, whichever worker sampled it."""

    def __init__(self) -> None:
        fields, links = counter_masks()
        self._fields = Monotone(fields)
        self._links = Monotone(np.tile(links, (LINKS_MAX, 1)))
        self.samples = 0
        self.at_ns = 0
        self.error = NOT_READ
        self.link_count = 0
        self.values = np.full(fields.shape, np.nan)
        self.link_values = np.full((LINKS_MAX, len(LINK_FIELDS)), np.nan)

    def take(self, copy: Any) -> list[str]:
        """Keeps a copy of a board's sample; the names of counters that began anew."""
        self.at_ns, self.error = int(copy["at_ns"]), int(copy["error"])
        self.link_count = min(int(copy["links"]), LINKS_MAX)
        self.values, fell = self._fields.take(copy["value"])
        self.link_values, links_fell = self._links.take(copy["link_value"])
        names = [name for name, number in FIELD.items() if fell[number]]
        return names + [f"link {link} {LINK_FIELDS[field]}" for link, field in np.argwhere(links_fell).tolist()]

    def value(self, field: str) -> float:
        return float(self.values[FIELD[field]])


class DevicesProbe:
    def __init__(self, context: Context, libraries: Sequence[Library], **how: Any) -> None:
        options = context.options
        self._events = DeviceEvents(context.events)
        self._stale_ns = STALE_NS + options["deadline"] + 3 * options["rate"]
        self._states: dict[str, State] = {}
        self._rows: dict[tuple[Device, int], Row] = {}
        self.workers = Workers(
            libraries,
            self._events,
            rate_ns=options["rate"],
            deadline_ns=options["deadline"],
            retry=options["retry"],
            **how,
        )
        self._node = context.events.node
        self._owners = device_owners.build(
            context.paths,
            pod_resources=options["pod_resources"],
            hami_root=options["hami_root"] if options["hami"] else None,
        )
        self.workers.wait_for_first(FIRST_INVENTORY_S)

    def sample(self, now_ns: int) -> Sample:
        self._read()
        devices = self._events.in_order()
        stuck = self.workers.stuck()
        series = [one for device in devices.values() for one in self._of_device(device, devices, stuck, now_ns)]
        events = self._events.take()
        return Sample(
            [*series, *self.workers.call_times(), *self._owners.series(now_ns, self._node, self._users(devices))],
            events,
            {"events_full": self._events.dropped, "bad_message": self.workers.bad_messages},
            "; ".join(self._troubles(devices))[:1000],
            devices=tuple(devices.values()),
            topology=self._topology(),
            taken_ns={uuid: state.at_ns for uuid, state in self._states.items() if state.at_ns},
            faults=faults_of(events, devices),
            device_pids={uuid: [one.pid for one in self.workers.processes.get(uuid, ())] for uuid in devices},
        )

    def wake_fds(self) -> Sequence[int]:
        return (self._events.wake_fd,)

    def close(self) -> None:
        self._owners.close()
        self.workers.close()
        self._events.close()

    def _read(self) -> None:
        with self.workers.views() as views:
            copies = [
                (uuid, view.board.read(max(view.inventory.slots) + 1)[slot].copy())
                for view in views
                for slot, uuid in view.inventory.slots.items()
            ]
        for uuid, copy in copies:
            self._take(uuid, copy)

    def _take(self, uuid: str, copy: Any) -> None:
        state = self._states.get(uuid) or self._states.setdefault(uuid, State())
        if not copy["samples"] or int(copy["at_ns"]) == state.at_ns:
            return
        before = state.error
        fell = state.take(copy)
        if fell:
            self._events.report("device.counter_reset", uuid, "warning", counters=fell[:64])
        if state.error and before in (0, NOT_READ):
            why = f"the library answers {state.error} to every question"
            self._events.report("device.vanished", uuid, "error", reason=why)
        elif before not in (0, NOT_READ) and not state.error:
            self.workers.faults.close(uuid)
            self._events.report("device.appeared", uuid, reason="it answers again")

    def _of_device(
        self, device: Device, devices: dict[str, Device], stuck: dict[str, bool], now_ns: int
    ) -> Iterator[Series]:
        parent = devices.get(device.parent_uuid)
        own = labels_of(device, parent)
        identity = [
            str(getattr(device, name)).lower() if name == "simulated" else str(getattr(device, name))
            for name in _IDENTITY
        ]
        yield Series(INFO, 1, (*own, *identity), device.uuid)
        state = self._states.get(device.uuid)
        is_current = state is not None and state.error == 0 and now_ns - state.at_ns < self._stale_ns
        health = "stuck" if device.uuid in stuck else _health(state, is_current)
        if health in ("ok", "degraded") and self.workers.faults.code(device.uuid):
            health = "failed"
        for name in STATES:
            yield Series(HEALTH, int(name == health), (*own, name), device.uuid)
        if state is not None and is_current:
            yield from self._row(device, parent, state.link_count).series(state.values, state.link_values)

    def _users(self, devices: dict[str, Device]) -> Iterator[Users]:
        for uuid, device in devices.items():
            processes = self.workers.processes.get(uuid, ())
            yield Users(device, processes, devices.get(device.parent_uuid), self._memory(uuid))

    def _memory(self, uuid: str) -> DeviceMemory | None:
        state = self._states.get(uuid)
        if state is None or state.error:
            return None
        used, total = (state.value(f"memory_{name}_bytes") for name in ("used", "total"))
        return DeviceMemory(uuid, None if np.isnan(used) else used, None if np.isnan(total) else total)

    def _row(self, device: Device, parent: Device | None, links: int) -> Row:
        key = (device, links)
        if key not in self._rows:
            if len(self._rows) > 4 * DEVICE_MAX:
                self._rows.clear()
            self._rows[key] = Row(device, parent, links)
        return self._rows[key]

    def _troubles(self, devices: dict[str, Device]) -> list[str]:
        troubles = self.workers.troubles()
        if not devices and not troubles:
            return ["no device is known yet" if not self.workers.inventories else "the libraries know no device"]
        return [*troubles, self._owners.problem] if self._owners.problem else troubles

    def _topology(self) -> tuple[DeviceLink, ...]:
        return tuple(link for inventory in list(self.workers.inventories.values()) for link in inventory.links)


def _health(state: State | None, is_current: bool) -> str:
    if state is None or state.error == NOT_READ:
        return "unknown"
    if state.error:
        return "failed"
    if not is_current:
        return "unknown"
    if state.value("health") >= 2:  # DCMI: 1 minor, 2 major, 3 critical
        return "failed"
    signs = ("health", "remapped_rows_failed", "remapped_rows_pending", "recovery_action")
    return "degraded" if any(state.value(sign) > 0 for sign in signs) else "ok"


def build(context: Context) -> DevicesProbe:
    named = {"nvidia": context.options["nvml"], "ascend": context.options["dcmi"]}
    found = {vendor: find_library(name) for vendor, name in named.items()}
    libraries = [Library(vendor, path) for vendor, path in found.items() if path]  # type: ignore[arg-type]
    if not libraries:
        raise UnavailableError(
            f"neither NVML ({named['nvidia']}) nor DCMI ({named['ascend']}) is on this machine",
            remedy="install the accelerator's driver, or mount its libraries into the container",
        )
    return DevicesProbe(context, libraries)


SPEC = Spec(
    name="devices",
    help="GPUs and NPUs: load, memory, temperature, power, clocks, throttling, links, memory errors and health.",
    build=build,
    metrics=(*metrics(), HEALTH, CALL_SECONDS, INFO, *device_owners.METRICS, *hami.METRICS),
    options=(RATE, DEADLINE, RETRY, NVML, DCMI, *device_owners.OPTIONS),
    cost="a process of 0.4 % of a core and 23 MiB for 8 GPUs, 7 ms per round",
)
