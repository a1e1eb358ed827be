"""PCI Express errors as the kernel counts them per device (aer_dev_* in sysfs), which goes on where its log gives up.

Followed are accelerators, network cards, NVMe drives and NVSwitches, and the ports on the way to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import structs

from ..native.errors import UnavailableError
from .decode.family import Decoded
from .faults import make_fault
from .model import Fault
from .options import Option
from .probe import Context, EventSource, Metric, Sample, Series, Spec

ERRORS = Metric(
    "eagle_eye_pcie_aer_errors_total",
    "counter",
    "PCI Express errors by the kernel's name of them; total is all of a severity, others are shown once they occurred.",
    ("device", "severity", "error"),
)
PERIOD_NS = 5_000_000_000
_LIST_EVERY = 12
_FILES = {"correctable": "aer_dev_correctable", "nonfatal": "aer_dev_nonfatal", "fatal": "aer_dev_fatal"}
# Class codes: display and 3D controllers, accelerators, network and InfiniBand, NVMe, NVSwitch (a bridge of no kind).
_CLASSES = ("0x03", "0x12", "0x02", "0x0108", "0x0680")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_LINE = re.compile(rb"^(\w{1,32}) (\d{1,19})$", re.MULTILINE)
_MAX_BYTES = 4096
_NAMED = 5

Counts = dict[str, int]


class AerProbe:
    def __init__(self, folder: Path, events: EventSource, *, max_devices: int) -> None:
        self._folder = folder
        self._events = events
        self._max_devices = max_devices
        self._rounds = 0
        self._last_ns = 0
        self._read: dict[tuple[str, str], bytes] = {}
        self._counts: dict[tuple[str, str], Counts] = {}
        self._series: dict[tuple[str, str], list[Series]] = {}
        self._list()
        if not self.devices:
            raise UnavailableError(
                "no PCI device here counts its errors (aer_dev_* in sysfs)",
                remedy="boot a kernel with CONFIG_PCIEAER=y, not pci=noaer; of a virtual machine only the host knows",
            )

    def sample(self, now_ns: int) -> Sample:
        if self._rounds % _LIST_EVERY == 0 and self._rounds:
            self._list()
        self._rounds += 1
        faults = [fault for device in self.devices for fault in self._take(device, now_ns)]
        self._last_ns = now_ns
        series = [one for of_file in self._series.values() for one in of_file]
        return Sample(series, degraded=self._degraded(), faults=faults)

    def wake_fds(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        pass

    def _list(self) -> None:
        """Who is there, and what of it counts errors; a device that is gone takes its counters along."""
        self.devices: list[str] = []
        self._silent: list[str] = []
        found = list(dict.fromkeys(name for device in _wanted(self._folder) for name in _way(self._folder / device)))
        for name in found:
            has_counters = (self._folder / name / _FILES["correctable"]).exists()
            (self.devices if has_counters else self._silent).append(name)
        self._left_out = max(0, len(self.devices) - self._max_devices)
        del self.devices[self._max_devices :]
        for kept in (self._read, self._counts, self._series):
            for key in [key for key in kept if key[0] not in self.devices]:
                kept.pop(key)

    def _take(self, device: str, now_ns: int) -> Iterator[Fault]:
        for severity, file in _FILES.items():
            key = device, severity
            content = _content(self._folder / device / file)
            if content is None or content == self._read.get(key):
                continue
            before, counts = self._counts.get(key), _parse(content)
            self._read[key], self._counts[key] = content, counts
            self._series[key] = [
                Series(ERRORS, count, (device, severity, name))
                for name, count in counts.items()
                if count or name == "total"
            ]
            if before is not None and severity != "correctable":
                yield from self._faults(device, severity, _risen(before, counts), now_ns)

    def _faults(self, device: str, severity: str, risen: Counts, now_ns: int) -> Iterator[Fault]:
        """Of uncorrectable errors only: for the others a counter is enough. When exactly is not known."""
        for n, (name, count) in enumerate(risen.items()):
            decoded = Decoded("pcie.aer", name, device, {"severity": severity, "since_ns": self._last_ns})
            name_of_it = f"{self._events.boot_id}:aer:{now_ns + n}:{device}"
            fault = make_fault(decoded, at_ns=now_ns, source="sysfs", event_id=name_of_it, count=count)
            if fault is not None:
                yield structs.replace(fault, event_id="")

    def _degraded(self) -> str:
        troubles = []
        if self._silent:
            names = ", ".join(self._silent[:_NAMED]) + (", …" if len(self._silent) > _NAMED else "")
            troubles.append(f"{len(self._silent)} PCI devices do not count their errors: {names}")
        if self._left_out:
            troubles.append(f"{self._left_out} PCI devices are not followed; see aer.max_devices")
        return "; ".join(troubles)


def _wanted(folder: Path) -> list[str]:
    """Addresses of devices whose errors matter here; virtual functions have no counters of their own."""
    try:
        names = sorted(name for name in os.listdir(folder) if _ADDRESS.fullmatch(name))
    except OSError:
        return []
    return [name for name in names if _is_wanted(folder / name)]


def _is_wanted(device: Path) -> bool:
    kind = (_content(device / "class") or b"").decode(errors="replace")
    return kind.startswith(_CLASSES) and not (device / "physfn").exists()


def _way(device: Path) -> list[str]:
    """The device and the ports above it, from its path in the tree of devices."""
    return [part for part in reversed(Path(os.path.realpath(device)).parts) if _ADDRESS.fullmatch(part)]


def _content(path: Path) -> bytes | None:
    """None where there is no such file, or its device is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> Counts:
    """`RxErr 0`, `BadTLP 3`, … and `TOTAL_ERR_COR 3`, which becomes `total`."""
    counts = {name.decode(): int(number) for name, number in _LINE.findall(content)}
    return {"total" if name.startswith("TOTAL_ERR_") else name: count for name, count in counts.items()}


def _risen(before: Counts, now: Counts) -> Counts:
    """By how much; from the start for a device that came back with new counters."""
    began_anew = any(count < before.get(name, 0) for name, count in now.items())
    rises = {name: count - (0 if began_anew else before.get(name, 0)) for name, count in now.items() if name != "total"}
    return {name: rise for name, rise in rises.items() if rise > 0}


def build(context: Context) -> AerProbe:
    folder = context.paths.sys / "bus/pci/devices"
    return AerProbe(folder, context.events, max_devices=context.options["max_devices"])


SPEC = Spec(
    name="aer",
    help="PCI Express errors of accelerators, network cards, NVMe drives and the ports on the way to them.",
    build=build,
    metrics=(ERRORS,),
    options=(Option("max_devices", "integer", 128, "most devices and ports to follow", minimum=1, maximum=4096),),
    period_ns=PERIOD_NS,
    cost="50 µs per device and 5 s",
)
