"""What the DCMI border tells about a device, beside its samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._dcmi import ffi

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CPUS = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")
TOPOLOGY = ("self", "sys", "phb", "hccs", "pxb", "pix")
"""Ways between two NPUs by DCMI's number: through the interconnect of CPUs, one CPU's host bridge, HCCS,
several PCIe switches, one PCIe switch."""


def text(raw: Any) -> str:
    """A text of the library without control characters; what is not UTF-8 becomes U+FFFD."""
    return _CONTROL.sub(" ", ffi.string(raw).decode(errors="replace")).strip()


@dataclass(frozen=True, slots=True)
class Unit:
    """Where DCMI knows a device: -1 where that interface does not know it."""

    card: int
    chip: int
    id: int
    logic: int


@dataclass(frozen=True, slots=True)
class Identity:
    """A device. A text is "" and a number None where the library does not tell."""

    name: str
    model: str
    product: str
    version: str
    firmware: str
    serial: str
    uuid: str
    pci_address: str
    cpus: str
    aicores: int | None
    board_id: int | None
    boot_status: int | None


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the host that uses a device; a vNPU's are among them."""

    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A virtual NPU. `utilization_ratio` is NaN where it cannot be."""

    id: int
    name: str
    aicores: float
    memory_bytes: int
    utilization_ratio: float
    in_container: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault event. `raised_ms` counts from 1970 by the driver's clock; `at_ns` is CLOCK_MONOTONIC here.

    `event_id` has a meaning even without `name`: `probes.ascend_events.decode`. `assertion` is 0 for the end
    of a fault, 1 for its beginning, 2 for an event without an end.
    """

    at_ns: int
    raised_ms: int
    event_id: int
    logic_id: int
    severity: int
    assertion: int
    serial: int
    name: str
    info: bytes


def identity_of(raw: Any) -> Identity:
    """From a `struct npu_identity`."""
    name = text(raw.npu_name) or text(raw.name)
    pci = f"{raw.pci_domain:04x}:{raw.pci_bus:02x}:{raw.pci_device:02x}.{raw.pci_function:x}"
    return Identity(
        name=name,
        model=text(raw.model) or name,
        product=text(raw.product),
        version=text(raw.version),
        firmware=text(raw.firmware),
        serial=text(raw.serial),
        uuid=_uuid(raw) if raw.die_status == 0 else "",
        pci_address=pci if raw.pci_status == 0 else "",
        cpus=_cpus(text(raw.cpus)),
        aicores=raw.aicores if raw.chip_status == 0 else None,
        board_id=raw.board_id if raw.board_status == 0 else None,
        boot_status=raw.boot_status if raw.boot_status_status == 0 else None,
    )


def _uuid(raw: Any) -> str:
    """The die's id in the vendor's own form: 185011D4-21104518-…; "" for a die that has none."""
    words = list(raw.die)
    none = all(word in (0, 0xFFFFFFFF) for word in words)
    return "" if none else "-".join(f"{word:08X}" for word in words)


def _cpus(cpus: str) -> str:
    return cpus if _CPUS.fullmatch(cpus) else ""


def fault_of(raw: Any) -> Fault:
    """From a `struct npu_fault`."""
    return Fault(
        at_ns=raw.at_ns,
        raised_ms=raw.raised_ms,
        event_id=raw.event_id,
        logic_id=raw.device,
        severity=raw.severity,
        assertion=raw.assertion,
        serial=raw.serial,
        name=text(raw.name),
        info=bytes(ffi.buffer(raw.info))[:-1].rstrip(b"\0"),
    )


def instance_of(raw: Any) -> Instance:
    """From a `struct npu_instance`."""
    in_container = bool(raw.used_by_container)
    return Instance(raw.id, text(raw.name), raw.aicores, raw.memory_bytes, raw.utilization_ratio, in_container)


def numa_node(cpus: str, sys: Path = Path("/sys")) -> int | None:
    """The NUMA node that has all the CPUs of a list such as "0-23,48-71"; None when no single one has."""
    wanted = _cpu_set(cpus)
    for folder in sorted(sys.glob("devices/system/node/node[0-9]*")):
        try:
            own = _cpu_set((folder / "cpulist").read_text().strip())
        except OSError:
            continue
        if wanted and wanted <= own:
            return int(folder.name.removeprefix("node"))
    return None


def _cpu_set(cpus: str) -> set[int]:
    ranges = [part.partition("-") for part in _cpus(cpus).split(",") if part]
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
