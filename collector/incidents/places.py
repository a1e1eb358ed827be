"""Where a fault happened: one name per device, whoever told it, and who is near whom."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from ...probes.model import Device, DeviceLink, Fault

HOST = "host"
LINKS = frozenset({"nvlink", "hccs"})
MAX_PATHS = 1024
# What of the host a family is about, by the field that names it: another file server is another device.
PARTS = {"storage": ("server", "array", "controller", "disk", "port", "service", "path"), "nic": ("interface",)}
MAX_NAME = 64

_ADDRESS = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})(?:\.([0-7]))?")


class Place(Struct, frozen=True):
    """`entity` names it: a device's uuid, `pci:` and address, or host; `slot` is shared by all its functions."""

    entity: str
    address: str = ""

    @property
    def slot(self) -> str:
        return self.address[:-2] if self.address else self.entity


class Places:
    """What is known of devices: addresses, uuids, the ports above them and their direct links."""

    def __init__(self, sys: Path) -> None:
        self._pci = sys / "bus/pci/devices"
        self._devices: dict[str, Device] = {}
        self._uuids: dict[str, str] = {}
        self._linked: frozenset[tuple[str, str]] = frozenset()
        self._has_links = False
        self._above: OrderedDict[str, tuple[str, ...] | None] = OrderedDict()

    def learn(self, devices: Sequence[Device], topology: Sequence[DeviceLink] = ()) -> dict[str, str]:
        """Takes what a round told; gives the uuids that were not known before by the names used until now."""
        new: dict[str, str] = {}
        for device in devices:
            self._devices[device.uuid] = device
            address = canonical(device.pci_bdf)
            if device.parent_uuid or not address:
                continue
            slot = address[:-2]
            if self._uuids.get(slot) != device.uuid:
                self._uuids[slot] = device.uuid
                new |= {f"pci:{slot}.{function}": device.uuid for function in range(8)}
                self.above(address)
            if device.kind == "npu" and self._uuids.get(f"npu:{device.index}") != device.uuid:
                self._uuids[f"npu:{device.index}"] = new[f"npu:{device.index}"] = device.uuid
        if topology:
            self._learn_links(topology)
        return new

    def restore(self, uuids: Mapping[str, str]) -> None:
        """What was known before the restart, of the same boot."""
        self._uuids.update(uuids)

    @property
    def uuids(self) -> dict[str, str]:
        return dict(self._uuids)

    def place(self, fault: Fault) -> Place:
        """Of the whole device, also for a fault of one of its instances or functions."""
        uuid = self._whole(fault.entity)
        if uuid:
            return Place(uuid, canonical(fault.device or self._devices[uuid].pci_bdf))
        address = canonical(fault.device or fault.entity.removeprefix("pci:"))
        if not address:
            return Place(self._uuids.get(fault.entity, _part(fault) or fault.entity or HOST))
        is_named = fault.entity not in ("", HOST) and not fault.entity.startswith("pci:")
        return Place(self._uuids.get(address[:-2]) or (fault.entity if is_named else f"pci:{address}"), address)

    def device(self, entity: str) -> Device | None:
        return self._devices.get(entity)

    def above(self, address: str) -> tuple[str, ...] | None:
        """The ports above an address, None where the machine does not tell (any more)."""
        found = self._above.get(address)
        if found is None:
            found = self._above[address] = self._read_above(address)
            self._above.move_to_end(address)
            if len(self._above) > MAX_PATHS:
                self._above.popitem(last=False)
        return found

    def are_on_one_link(self, one: Place, other: Place) -> bool:
        """Whether one is the other, or a port above it. Where the machine does not tell, the segment must do."""
        if one.slot == other.slot or one.entity == other.entity:
            return True
        if not one.address or not other.address:
            return False
        over, under = self.above(one.address), self.above(other.address)
        if over is None and under is None:
            return one.address[:4] == other.address[:4]
        return one.address in (under or ()) or other.address in (over or ())

    def are_peers(self, one: Place, other: Place) -> bool:
        """Whether two devices are joined directly or through switches; unknown links count as such."""
        if not self._has_links:
            return True
        ends = {one.entity, other.entity}
        if (one.entity, other.entity) in self._linked or (other.entity, one.entity) in self._linked:
            return True
        return all((end, "switch") in self._linked for end in ends)

    def _whole(self, entity: str) -> str:
        device = self._devices.get(entity)
        return "" if device is None else device.parent_uuid or device.uuid

    def _learn_links(self, topology: Iterable[DeviceLink]) -> None:
        links = [link for link in topology if link.kind in LINKS]
        self._has_links = self._has_links or bool(links)
        self._linked = frozenset((link.a, link.b) for link in links) or self._linked

    def _read_above(self, address: str) -> tuple[str, ...] | None:
        try:
            target = os.readlink(self._pci / address)
        except OSError:
            return None
        return tuple(part for part in target.split("/")[:-1] if _ADDRESS.fullmatch(part) and "." in part)


def is_part(entity: str) -> bool:
    """Whether it is a part of the host that has no address, such as `disk:sda`."""
    return entity.partition(":")[0] in _PART_NAMES


_PART_NAMES = frozenset(name for names in PARTS.values() for name in names)


def _part(fault: Fault) -> str:
    """`server:10.0.0.9`; "" for a fault of the host as such."""
    if fault.entity not in ("", HOST):
        return ""
    names = PARTS.get(fault.family.partition(".")[0], ())
    return next((f"{name}:{fault.fields[name]}"[:MAX_NAME] for name in names if fault.fields.get(name)), "")


@lru_cache(maxsize=1024)
def canonical(address: str) -> str:
    """`0000:9B:00` or `00000000:9B:00.0` as `0000:9b:00.0`; "" for what is no address."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return ""
    segment, bus, slot, function = found.groups()
    return f"{int(segment or '0', 16):04x}:{int(bus, 16):02x}:{int(slot, 16):02x}.{function or 0}"
