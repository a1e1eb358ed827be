"""Ascend NPUs inside a device worker, through our C border of DCMI."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from ..native.dcmi import FUNCTIONS, HOT_GROUPS, SECOND_GROUPS, TURN_GROUPS, Dcmi
from ..native.dcmi_types import Fault, Identity, numa_node
from ..native.device import DEVICE_MAX, Board, group_mask
from ..native.errors import EagleEyeError
from .ascend_events import ASSERTIONS, SEVERITIES, decode
from .catalogue import ascend as catalogue
from .device_choice import Choice
from .device_messages import Inventory, Occurrence, Process, Target, nameless
from .model import Device, DeviceLink, Severity

if TYPE_CHECKING:
    from .device_worker import Calls

_WAYS = {
    "sys": "system",
    "phb": "host_bridge",
    "hccs": "hccs",
    "pxb": "pcie_switches",
    "pix": "pcie_switch",
}
# By the number in a DCMI fault event.
_GRAVITY: tuple[Severity, ...] = ("info", "warning", "error", "fatal")
_RECOVERY = 0


class Ascend:
    # A turn group is read of one device at each beat, whatever beat that is.
    hot = group_mask((*HOT_GROUPS, *TURN_GROUPS))
    slow = group_mask(SECOND_GROUPS)

    def __init__(self, path: str) -> None:
        self._path = path
        self._choice = Choice("ascend")
        self._uuids: dict[int, str] = {}
        self._logic: dict[int, str] = {}
        self._subscribed = False

    def open(self, calls: Calls) -> None:
        with calls("init", None):
            self._dcmi = Dcmi(self._path)
            self._dcmi.init()
            self._rare = Dcmi(self._path)  # for the thread beside the sampler's
            self._rare.init()

    def inventory(self, calls: Calls, *, avoid: Sequence[Target], only: Target | None) -> Inventory:
        self._choice = Choice("ascend", avoid, only)
        with calls("identity", None):
            driver = self._dcmi.versions()[1]
        unreachable: dict[int, str] = {}
        devices = list(self._identify(calls, driver, unreachable))
        with calls("identity", None):
            self._subscribe()
        return Inventory(
            vendor="ascend",
            driver=driver,
            simulated=self._dcmi.simulated,
            functions=FUNCTIONS,
            devices=tuple(devices),
            slots=self._uuids,
            links=tuple(self._links(calls)),
            unreachable=unreachable,
            moved=self._choice.moved,
        )

    def sample(self, board: Board, groups: int) -> None:
        self._dcmi.sample(board, groups)

    def present(self, calls: Calls) -> dict[int, str]:
        if self._choice.only:
            return {}
        with calls("identity", None):
            count = self._rare.find()
        return {index: self._uuid_at(calls, index) for index in range(count)}

    def processes(self, calls: Calls) -> dict[str, tuple[Process, ...]]:
        found = {}
        for index, uuid in self._uuids.items():
            with calls("processes", index):
                try:
                    listed = self._rare.processes(index)
                except EagleEyeError:
                    continue
            found[uuid] = tuple(Process(one.pid, one.memory_bytes) for one in listed)
        return found

    def wait(self, timeout_ms: int) -> list[Occurrence]:
        select.select([self._dcmi.wake_fd] if self._subscribed else [], [], [], timeout_ms / 1e3)
        return [self._occurrence(fault) for fault in self._dcmi.drain()]

    def _identify(self, calls: Calls, driver: str, unreachable: dict[int, str]) -> Iterator[Device]:
        with calls("identity", None):
            units = self._dcmi.units()
        for index, unit in enumerate(units[:DEVICE_MAX]):
            if self._choice.leaves_out(index):
                continue
            with calls("identity", index):
                try:
                    identity = self._dcmi.identity(index)
                    uuid = _uuid(identity, index)
                    if not self._choice.takes(uuid, index):
                        continue
                    self._dcmi.watch(index, index)
                except EagleEyeError as error:
                    unreachable[index] = error.message[:256]
                    continue
                self._uuids[index] = self._logic[unit.logic] = uuid
                device = _device(index, uuid, identity, driver, self._dcmi.simulated)
                yield device
                yield from self._instances(device)

    def _instances(self, parent: Device) -> Iterator[Device]:
        try:
            instances = self._dcmi.instances(parent.index)
        except EagleEyeError:
            return
        for instance in instances:
            yield Device(
                vendor="ascend",
                index=instance.id,
                uuid=f"{parent.uuid}/{instance.id}",
                pci_bdf=parent.pci_bdf,
                model=instance.name,
                driver=parent.driver,
                parent_uuid=parent.uuid,
                simulated=parent.simulated,
                kind="vnpu",
                numa_node=parent.numa_node,
            )

    def _uuid_at(self, calls: Calls, index: int) -> str:
        if self._choice.leaves_out(index):
            return ""
        with calls("identity", index):
            try:
                return _uuid(self._rare.identity(index), index)
            except EagleEyeError:
                return ""

    def _links(self, calls: Calls) -> Iterator[DeviceLink]:
        for one, other in combinations(self._uuids, 2):
            with calls("topology", one):
                way = self._dcmi.topology(one, other)
            if way in _WAYS:
                yield DeviceLink(self._uuids[one], self._uuids[other], _WAYS[way])

    def _subscribe(self) -> None:
        try:
            self._dcmi.subscribe()
        except EagleEyeError:  # fault codes are still counted at each beat
            return
        self._subscribed = True

    def _occurrence(self, fault: Fault) -> Occurrence:
        decoded = decode(fault.event_id)
        is_over = fault.assertion == _RECOVERY
        number = min(max(fault.severity, 0), len(_GRAVITY) - 1)
        code, gravity = f"0x{fault.event_id:08X}", SEVERITIES[number]
        entry = catalogue.entry(code, {"gravity": gravity})
        return Occurrence(
            "device.fault",
            self._logic.get(fault.logic_id, ""),
            fault.at_ns,
            "info" if is_over else _GRAVITY[number],
            {
                "event_id": code,
                "name": fault.name[:256],
                "meaning": (entry.meaning if entry.known else str(decoded))[:256],
                "component": decoded.component,
                "assertion": ASSERTIONS[fault.assertion] if 0 <= fault.assertion < len(ASSERTIONS) else "unknown",
                "gravity": gravity,
                "serial": fault.serial,
            },
        )


def _uuid(identity: Identity, index: int) -> str:
    """The die's id; without one the place in the machine, which at least does not change while it runs."""
    return identity.uuid or identity.pci_address or nameless("ascend", index)


def _device(index: int, uuid: str, identity: Identity, driver: str, simulated: bool) -> Device:
    node = numa_node(identity.cpus)
    return Device(
        vendor="ascend",
        index=index,
        uuid=uuid,
        pci_bdf=identity.pci_address,
        model=identity.model,
        driver=driver,
        firmware=identity.firmware,
        serial=identity.serial,
        numa_node=-1 if node is None else node,
        simulated=simulated,
        kind="npu",
    )
