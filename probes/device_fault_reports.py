"""Faults that the vendors' libraries told, in the same words as those of the kernel log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .decode.family import Decoded
from .faults import make_fault
from .model import Device, Event, Fault

_KEPT: tuple[str, ...] = ("name", "component", "assertion", "gravity", "serial")


def faults_of(events: Iterable[Event], devices: Mapping[str, Device]) -> list[Fault]:
    """The fault of each event that is one; `devices` by uuid."""
    return [fault for event in events if (fault := _fault(event, devices.get(event.entity))) is not None]


def _fault(event: Event, device: Device | None) -> Fault | None:
    told = _DECODED.get(event.kind)
    if told is None:
        return None
    decoded, source = told(event, device.pci_bdf if device else "")
    return make_fault(
        decoded,
        at_ns=event.at_ns,
        source=source,
        driver=device.driver if device and device.vendor == "nvidia" else "",
        event_id=event.id,
        entity=event.entity,
        simulated=bool(event.attributes.get("simulated", False)),
    )


def _xid(event: Event, device: str) -> tuple[Decoded, str]:
    return Decoded("nvidia.xid", str(event.attributes.get("xid", "")), device), "nvml"


def _event(event: Event, device: str) -> tuple[Decoded, str]:
    told = event.attributes
    fields = {name: told[name] for name in _KEPT if name in told}
    code, is_over = str(told.get("event_id", "")), told.get("assertion") == "recovery"
    return Decoded("ascend.event", code, device, fields, recovery=is_over), "dcmi"


_DECODED = {"device.xid": _xid, "device.fault": _event}
