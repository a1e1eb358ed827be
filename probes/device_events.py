"""Events of devices, made in whichever thread notices, kept until the probe's next round, which they ask for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import Any

from .model import Device, Event, Severity
from .probe import EventSource

MAX_EVENTS = 1000

_OWN = frozenset({"at_ns", "kind", "uuid", "severity", "device", "vendor", "model", "pci_bdf", "simulated"})


class DeviceEvents:
    """`devices` are those that are known, by uuid; `wake_fd` is readable while events wait."""

    def __init__(self, source: EventSource) -> None:
        self.devices: dict[str, Device] = {}
        self.dropped = 0
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._source = source
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()

    def report(self, kind: str, uuid: str, severity: Severity = "info", *, at_ns: int = 0, **attributes: Any) -> None:
        """An event of a device, "" for none in particular; now unless `at_ns` says when."""
        named = self._names(uuid)
        with self._lock:
            if self.wake_fd < 0:
                return
            if len(self._waiting) >= MAX_EVENTS:
                self.dropped += 1
                return
            event = self._source.make(
                kind, at_ns or time.monotonic_ns(), entity=uuid or "host", severity=severity, **(attributes | named)
            )
            self._waiting.append(event)
            os.eventfd_write(self.wake_fd, 1)

    def report_foreign(self, kind: str, uuid: str, severity: Severity, at_ns: int, attributes: dict[str, Any]) -> None:
        """The same with attributes that somebody else chose: none of them can pass for ours."""
        kept = {name: value for name, value in attributes.items() if name not in _OWN}
        self.report(kind, uuid, severity, at_ns=min(at_ns, time.monotonic_ns()), **kept)

    def take(self) -> list[Event]:
        with self._lock:
            if self.wake_fd >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self.wake_fd)
            taken, self._waiting = list(self._waiting), deque()
        return taken

    def in_order(self) -> dict[str, Device]:
        """The known devices by uuid, in the order of their vendor and index."""
        known = dict(self.devices)
        return {device.uuid: device for device in sorted(known.values(), key=lambda one: _order(one, known))}

    def label(self, uuid: str) -> str:
        """A device in words."""
        device = self.devices.get(uuid)
        return f"{device.vendor} device {device.index} ({uuid})" if device else uuid

    def close(self) -> None:
        """Events are dropped from now on. Safe twice."""
        with self._lock:
            if self.wake_fd >= 0:
                os.close(self.wake_fd)
            self.wake_fd = -1

    def _names(self, uuid: str) -> dict[str, Any]:
        device = self.devices.get(uuid)
        if device is None:
            return {"uuid": uuid} if uuid else {}
        names = {
            "device": device.index,
            "uuid": uuid,
            "vendor": device.vendor,
            "model": device.model,
            "pci_bdf": device.pci_bdf,
        }
        return names | ({"simulated": True} if device.simulated else {})


def _order(device: Device, known: dict[str, Device]) -> tuple[str, int, int]:
    parent = known.get(device.parent_uuid)
    return (device.vendor, parent.index, device.index) if parent else (device.vendor, device.index, -1)
