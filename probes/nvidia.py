"""NVIDIA GPUs inside a device worker: hot samples by our C border, everything rare by pynvml."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pynvml

from ..native.device import DEVICE_MAX, Board, group_mask
from ..native.errors import EagleEyeError
from ..native.nvml import FUNCTIONS, HOT_GROUPS, SLOW_GROUPS, Nvml, failure, return_text
from .catalogue.lookup import look_up
from .decode.family import Decoded
from .device_choice import Choice
from .device_messages import Inventory, Occurrence, Process, Target
from .model import Device, DeviceLink, Severity

if TYPE_CHECKING:
    from .device_worker import Calls

_XID = 0x8
# nvmlEventType constants of nvml.h, by what they tell; single-bit errors and clock changes are counted, not told.
_NOTICES: dict[int, tuple[str, Severity]] = {
    0x2: ("double_bit_ecc_error", "error"),
    0x200: ("single_bit_ecc_error_storm", "warning"),
    0x400: ("memory_retired", "warning"),
    0x800: ("memory_retirement_failed", "error"),
    0x1000: ("poison_error", "error"),
    0x2000: ("fatal_poison_error", "fatal"),
    0x4000: ("gpu_unavailable", "fatal"),
    0x8000: ("recovery_action", "error"),
}
_TIMEOUT, _NOT_AVAILABLE = 10, 0xFFFFFFFF
_ANCESTORS = {0: "board", 10: "pcie_switch", 20: "pcie_switches", 30: "host_bridge", 40: "numa_node", 50: "system"}
_LINKS = 18
_SWITCH = 2


class Nvidia:
    hot = group_mask(HOT_GROUPS)
    slow = group_mask(SLOW_GROUPS)

    def __init__(self, path: str) -> None:
        self._path = path
        self._choice = Choice("nvidia")
        self._handles: dict[str, Any] = {}
        self._slots: dict[str, int] = {}
        self._uuids: dict[int, str] = {}
        self._driver = ""
        self._events: Any = None
        self._seen_us: dict[str, int] = {}

    def open(self, calls: Calls) -> None:
        with calls("init", None):
            self._nvml = Nvml(self._path)
            self._nvml.init()
            pynvml.nvmlLib = ctypes.CDLL(self._path)
            _told("NVML did not start", pynvml.nvmlInitWithFlags, 1)

    def inventory(self, calls: Calls, *, avoid: Sequence[Target], only: Target | None) -> Inventory:
        self._choice = Choice("nvidia", avoid, only)
        with calls("identity", None):
            driver = self._driver = _text(pynvml.nvmlSystemGetDriverVersion)
        unreachable: dict[int, str] = {}
        devices = list(self._identify(calls, driver, unreachable))
        self._watch(calls, devices)
        self._register(calls)
        return Inventory(
            vendor="nvidia",
            driver=driver,
            simulated=self._nvml.simulated,
            functions=FUNCTIONS,
            devices=tuple(devices),
            slots={slot: uuid for uuid, slot in self._slots.items()},
            links=tuple(self._links(calls, devices)),
            unreachable=unreachable,
            moved=self._choice.moved,
        )

    def sample(self, board: Board, groups: int) -> None:
        self._nvml.sample(board, groups)

    def present(self, calls: Calls) -> dict[int, str]:
        if self._choice.only:
            return {}
        with calls("identity", None):
            count = _told("the GPUs cannot be counted", pynvml.nvmlDeviceGetCount)
        return {index: self._uuid_at(calls, index) for index in range(count)}

    def processes(self, calls: Calls) -> dict[str, tuple[Process, ...]]:
        found = {}
        for uuid, handle in self._handles.items():
            with calls("processes", self._slots.get(uuid)):
                found[uuid] = tuple(self._processes_of(uuid, handle))
        return found

    def wait(self, timeout_ms: int) -> list[Occurrence]:
        if self._events is None:
            time.sleep(timeout_ms / 1e3)
            return []
        try:
            data = pynvml.nvmlEventSetWait_v2(self._events, timeout_ms)
        except pynvml.NVMLError as error:
            if error.value != _TIMEOUT:
                time.sleep(timeout_ms / 1e3)
            return []
        return [_occurrence(self._uuids.get(_address(data.device), ""), data, self._driver)]

    # ---- who is there ----

    def _identify(self, calls: Calls, driver: str, unreachable: dict[int, str]) -> Iterator[Device]:
        with calls("identity", None):
            count = _told("the GPUs cannot be counted", pynvml.nvmlDeviceGetCount)
        for index in range(min(count, DEVICE_MAX)):
            if self._choice.leaves_out(index):
                continue
            with calls("identity", index):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    uuid = pynvml.nvmlDeviceGetUUID(handle)
                except pynvml.NVMLError as error:
                    unreachable[index] = return_text(error.value)
                    continue
                if not self._choice.takes(uuid, index):
                    continue
                self._handles[uuid] = handle
                self._uuids[_address(handle)] = uuid
                device = _identity(index, uuid, handle, driver, self._nvml.simulated)
                yield device
                yield from self._instances(device, handle)

    def _instances(self, parent: Device, handle: Any) -> Iterator[Device]:
        """MIG instances, while the GPU is divided."""
        if (_said(pynvml.nvmlDeviceGetMigMode, handle) or (0,))[0] != 1:
            return
        for number in range(_said(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            instance = _said(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            uuid = _text(pynvml.nvmlDeviceGetUUID, instance) if instance else ""
            if uuid:
                yield Device(
                    vendor="nvidia",
                    index=number,
                    uuid=uuid,
                    pci_bdf=parent.pci_bdf,
                    model=_text(pynvml.nvmlDeviceGetName, instance),
                    driver=parent.driver,
                    parent_uuid=parent.uuid,
                    simulated=parent.simulated,
                    kind="mig",
                    numa_node=parent.numa_node,
                )

    def _watch(self, calls: Calls, devices: Sequence[Device]) -> None:
        """A GPU's slot is its index, so that a call in flight tells the device at any time; instances come after."""
        free = iter(range(1 + max((device.index for device in devices if device.kind == "gpu"), default=0), DEVICE_MAX))
        for device in devices:
            slot = device.index if device.kind == "gpu" else next(free, None)
            if slot is None:
                continue
            with calls("identity", slot):
                try:
                    self._nvml.watch(slot, device.uuid)
                except EagleEyeError:
                    continue  # a driver that cannot look up instances, a GPU that was lost a moment ago
            self._slots[device.uuid] = slot

    def _uuid_at(self, calls: Calls, index: int) -> str:
        if self._choice.leaves_out(index):
            return ""
        with calls("identity", index):
            handle = _said(pynvml.nvmlDeviceGetHandleByIndex, index)
            return _text(pynvml.nvmlDeviceGetUUID, handle) if handle else ""

    # ---- how they are joined ----

    def _links(self, calls: Calls, devices: Sequence[Device]) -> Iterator[DeviceLink]:
        by_bdf = {device.pci_bdf: device.uuid for device in devices if device.uuid in self._handles}
        for uuid, handle in self._handles.items():
            with calls("topology", self._slots.get(uuid)):
                yield from _nvlinks(uuid, handle, by_bdf)
        for one, other in combinations(self._handles, 2):
            with calls("topology", None):
                level = _said(pynvml.nvmlDeviceGetTopologyCommonAncestor, self._handles[one], self._handles[other])
            if level in _ANCESTORS:
                yield DeviceLink(one, other, _ANCESTORS[level])

    # ---- what happens on them ----

    def _register(self, calls: Calls) -> None:
        with calls("identity", None):
            events = _said(pynvml.nvmlEventSetCreate)
        for uuid, handle in self._handles.items():
            with calls("identity", self._slots.get(uuid)):
                supported = _said(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
                wanted = supported & (_XID | sum(_NOTICES))
                if events is not None and wanted and self._accepts(handle, wanted, events):
                    self._events = events

    def _accepts(self, handle: Any, wanted: int, events: Any) -> bool:
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        except pynvml.NVMLError:
            return False
        return True

    def _processes_of(self, uuid: str, handle: Any) -> Iterator[Process]:
        used: dict[int, int | None] = {}
        for listed in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
            used |= {one.pid: one.usedGpuMemory for one in _said(listed, handle) or () if one.pid}
        ratios = self._process_ratios(uuid, handle)
        for pid in used | ratios:
            yield Process(pid, used.get(pid), ratios.get(pid))

    def _process_ratios(self, uuid: str, handle: Any) -> dict[int, float]:
        """Of the time since the last call, by process; the driver keeps the samples in between."""
        samples = _said(pynvml.nvmlDeviceGetProcessUtilization, handle, self._seen_us.get(uuid, 0)) or ()
        newest = sorted(samples, key=lambda sample: sample.timeStamp)
        if newest:
            self._seen_us[uuid] = int(newest[-1].timeStamp)
        return {sample.pid: sample.smUtil / 100 for sample in newest if sample.pid and sample.smUtil <= 100}


def _identity(index: int, uuid: str, handle: Any, driver: str, simulated: bool) -> Device:
    pci = _said(pynvml.nvmlDeviceGetPciInfo, handle)
    numa_node = _said(pynvml.nvmlDeviceGetNumaNodeId, handle)
    return Device(
        vendor="nvidia",
        index=index,
        uuid=uuid,
        pci_bdf=_bdf(pci) if pci else "",
        model=_text(pynvml.nvmlDeviceGetName, handle),
        driver=driver,
        serial=_text(pynvml.nvmlDeviceGetSerial, handle),
        vbios=_text(pynvml.nvmlDeviceGetVbiosVersion, handle),
        inforom=_text(pynvml.nvmlDeviceGetInforomImageVersion, handle),
        numa_node=numa_node if numa_node is not None and numa_node != _NOT_AVAILABLE else -1,
        simulated=simulated,
    )


def _bdf(pci: Any) -> str:
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _nvlinks(uuid: str, handle: Any, by_bdf: dict[str, str]) -> Iterator[DeviceLink]:
    counts: dict[str, int] = {}
    for link in range(_LINKS):
        if _said(pynvml.nvmlDeviceGetNvLinkState, handle, link) != 1:
            continue
        remote = _said(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        is_switch = _said(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link) == _SWITCH
        other = "switch" if is_switch or remote is None else by_bdf.get(_bdf(remote), "")
        if other:
            counts[other] = counts.get(other, 0) + 1
    for other, count in counts.items():
        if other == "switch" or uuid < other:  # two devices tell of each link between them
            yield DeviceLink(uuid, other, "nvlink", count)


def _occurrence(uuid: str, data: Any, driver: str) -> Occurrence:
    now_ns = time.monotonic_ns()
    if data.eventType == _XID:
        xid = int(data.eventData)
        entry = look_up(Decoded("nvidia.xid", str(xid)), driver)
        severity = entry.severity if entry else "error"
        return Occurrence("device.xid", uuid, now_ns, severity, {"xid": xid, "fatal": severity == "fatal"})
    what, told = _NOTICES.get(int(data.eventType), ("unknown", "warning"))
    numbers = {"type": int(data.eventType), "data": int(data.eventData)}
    return Occurrence("device.notice", uuid, now_ns, told, {"what": what, **numbers})


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _told(doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise failure(doing, error.value) from None


def _said(function: Callable[..., Any], *arguments: Any) -> Any:
    """None when the library does not say: what a device cannot tell is absent, not an error."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(function: Callable[..., Any], *arguments: Any) -> str:
    """What a function says, cut to a sane length; "" when it does not say."""
    try:
        said = function(*arguments)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ""
    return (said if isinstance(said, str) else str(said, errors="replace"))[:256]
