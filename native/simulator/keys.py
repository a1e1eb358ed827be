"""The settings of a simulation: what `key=value` changes in the state block.

power_watts=650  power_watts.wobble=20  a quantity, or a part of its law:
                                        value, rate, wobble, period, low, high
link.3.crc_flit_errors=500  links=18    of one, or link.all; how many
call.power.delay=200ms                  delay, hang, crash, code of such calls
process.1234.memory_bytes=40GiB         a process; process.1234=gone ends it
instance.0.memory_total_bytes=20GiB     a MIG instance or vNPU; or gone
name=x uuid=y numa_node=1 lost=1        the device itself; present=0
counters=0                              everything that counts
xid=79  event=0x81078603:recover        an event, once
reported_count=7  order=2,0,1           of the node; and driver_version
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UsageError
from .block import NONE_U32, Block, declarations, groups, link_quantities, quantities, writer
from .laws import PARTS, change, is_counter, number, rebase
from .nearest import nearest

XID_EVENT = 8
# In the block's units: the vendor's code, milliseconds, switches.
FAULT_RANGES = {"code": (-(1 << 31), (1 << 31) - 1), "delay": (0, 3_600_000), "hang": (0, 1), "crash": (0, 1)}
ASSERTIONS = {"recover": 0, "occur": 1, "once": 2}
# Bits of NVML's clock event reasons, and the counters that run while one is set.
REASON_COUNTERS = {
    "throttle_power_seconds": 0x4,
    "throttle_thermal_seconds": 0x20 | 0x40,
    "throttle_sync_boost_seconds": 0x10,
    "throttle_sw_thermal_seconds": 0x20,
    "throttle_hw_thermal_seconds": 0x40,
    "throttle_hw_power_brake_seconds": 0x80,
}


class DeviceEdit:
    """Changes to a copy of one device; events wait in `events` until the copy is written back."""

    def __init__(self, device: Any, slot: int, over_s: float) -> None:
        self.device = device
        self.events: list[dict[str, Any]] = []
        self._slot = slot
        self._over_s = over_s
        self._now_ns = time.monotonic_ns()
        self._heads: dict[str, Callable[[str, list[str], object], None]] = {
            "link": self._link,
            "links": self._links,
            "call": self._call,
            "process": self._process,
            "instance": self._instance,
            "counters": self._counters,
            "xid": self._xid,
            "event": self._event,
            "lost": self._flag,
            "present": self._flag,
            "error_codes": self._error_codes,
        }

    def set(self, key: str, raw: object) -> None:
        """Raises UsageError that names the key, the value and what may have been meant."""
        head, *rest = key.split(".")
        if head in quantities():
            self._quantity(key, head, rest, raw)
        elif head in self._heads:
            self._heads[head](key, rest, raw)
        elif head in fields_of("simulated_identity"):
            put(self.device.identity, head, key, raw)
        else:
            raise unknown(key, [*quantities(), *self._heads, *fields_of("simulated_identity")])

    def _quantity(self, key: str, name: str, rest: list[str], raw: object) -> None:
        part = _part(key, rest)
        power = quantities()["power_watts"]
        if quantities()[name] == power:
            self._rebase_energy()
        change(self.device.value[quantities()[name]], name, part, number(raw, key), self._now_ns, over_s=self._over_s)
        if name == "clock_event_reasons" and part == "value":
            self._run_throttle_counters(whole(raw, key, 0, 0xFFFF))

    def _rebase_energy(self) -> None:
        energy = self.device.value[quantities()["energy_joules"]]
        if not math.isnan(energy.base):
            energy.base = writer().eagle_eye_simulation_energy(self.device, self._now_ns)
            energy.since_ns = self._now_ns

    def _run_throttle_counters(self, reasons: int) -> None:
        for name, bits in REASON_COUNTERS.items():
            law = self.device.value[quantities()[name]]
            if math.isnan(law.base):
                continue
            rebase(law, self._now_ns)
            law.rate_per_s = 1.0 if reasons & bits else 0.0

    def _links(self, key: str, rest: list[str], raw: object) -> None:
        count = whole(raw, key, 0, len(self.device.link))
        for index, link in enumerate(self.device.link):
            link.present = index < count

    def _link(self, key: str, rest: list[str], raw: object) -> None:
        if len(rest) < 2:
            raise UsageError(f"{key}: which link, and what of it?", remedy="link.3.crc_flit_errors=500, link.all.up=0")
        present = [index for index, link in enumerate(self.device.link) if link.present]
        for index in chosen(rest[0], key, present):
            self._one_link(key, self.device.link[index], rest[1:], raw)

    def _one_link(self, key: str, link: Any, rest: list[str], raw: object) -> None:
        if rest[0] == "remote_device":
            link.remote_device = whole(raw, key, -1, 63)
        elif rest[0] in link_quantities():
            law = link.value[link_quantities()[rest[0]]]
            change(law, rest[0], _part(key, rest[1:]), number(raw, key), self._now_ns, over_s=self._over_s)
        else:
            raise unknown(key, [*link_quantities(), "remote_device"], rest[0])

    def _call(self, key: str, rest: list[str], raw: object) -> None:
        set_fault(self.device.fault, key, rest, raw)

    def _process(self, key: str, rest: list[str], raw: object) -> None:
        pid = whole(rest[0] if rest else "", key, 1, 1 << 30)
        row = _row(self.device.process, lambda process: process.pid == pid, lambda process: not process.pid, key)
        if not row.pid:
            row.pid, row.gpu_instance, row.compute_instance = pid, NONE_U32, NONE_U32
        if rest[1:] and raw != "gone":
            put(row, rest[1], key, raw)
        elif raw == "gone":
            declarations().memmove(
                declarations().addressof(row), bytes(declarations().sizeof(row)), declarations().sizeof(row)
            )

    def _instance(self, key: str, rest: list[str], raw: object) -> None:
        row = self.device.instance[whole(rest[0] if rest else "", key, 0, len(self.device.instance) - 1)]
        row.present = raw != "gone"
        if rest[1:] and raw != "gone":
            put(row, rest[1], key, raw)

    def _counters(self, key: str, rest: list[str], raw: object) -> None:
        value = number(raw, key)
        laws = [(name, self.device.value[at]) for name, at in quantities().items()]
        laws += [(name, link.value[at]) for link in self.device.link for name, at in link_quantities().items()]
        for name, law in laws:
            if is_counter(name) and not math.isnan(law.base):
                change(law, name, "value", value, self._now_ns)

    def _flag(self, key: str, rest: list[str], raw: object) -> None:
        setattr(self.device, key, whole(raw, key, 0, 1))

    def _error_codes(self, key: str, rest: list[str], raw: object) -> None:
        codes = raw if isinstance(raw, list) else [code for code in str(raw).split(",") if code]
        if len(codes) > len(self.device.error_code):
            raise UsageError(f"{key}: at most {len(self.device.error_code)} codes")
        for index in range(len(self.device.error_code)):
            self.device.error_code[index] = whole(codes[index], key, 0, NONE_U32) if index < len(codes) else 0

    def _xid(self, key: str, rest: list[str], raw: object) -> None:
        self._queue(type=XID_EVENT, data=whole(raw, key, 0, 1 << 20))

    def _event(self, key: str, rest: list[str], raw: object) -> None:
        """`0x81078603` or `0x81078603:recover`."""
        code, _, assertion = str(raw).partition(":")
        if (assertion or "occur") not in ASSERTIONS:
            raise UsageError(f"{key}: {assertion!r} is none of {', '.join(ASSERTIONS)}")
        self._queue(data=whole(code, key, 0, (1 << 63) - 1), assertion=ASSERTIONS[assertion or "occur"], severity=2)

    def _queue(self, **event: Any) -> None:
        self.events.append({"device": self._slot, "gpu_instance": NONE_U32, "compute_instance": NONE_U32, **event})


def set_node(block: Block, key: str, raw: object) -> None:
    """The same for what belongs to no device: versions, the number and order of devices, calls."""
    head, *rest = key.split(".")
    state = block.state
    if head == "call":
        set_fault(state.fault, key, rest, raw)
    elif head == "order":
        _order(state, key, raw)
    elif head in ("driver_version", "library_version", "cuda_version"):
        put(state, head, key, raw)
    elif head == "reported_count":
        state.reported_count = -1 if raw in ("truth", -1) else whole(raw, key, -1, 1 << 20)
    else:
        raise unknown(key, ["call", "order", "driver_version", "library_version", "cuda_version", "reported_count"])


def set_fault(faults: Any, key: str, rest: list[str], raw: object) -> None:
    """`call.GROUP.PART`, where a group may be `all`."""
    if len(rest) != 2:
        raise UsageError(f"{key}: which calls, and what of them?", remedy="call.power.delay=200ms, call.all.hang=1")
    if rest[0] not in groups() and rest[0] != "all":
        raise unknown(key, [*groups(), "all"], rest[0])
    if rest[1] not in FAULT_RANGES:
        raise unknown(key, FAULT_RANGES, rest[1])
    low, high = FAULT_RANGES[rest[1]]
    value = whole(round(number(raw, key) * 1e3, 6) if rest[1] == "delay" else raw, key, low, high)
    for index in groups().values() if rest[0] == "all" else [groups()[rest[0]]]:
        setattr(faults[index], "delay_ms" if rest[1] == "delay" else rest[1], value)


def fields_of(struct: str) -> list[str]:
    return [name for name, _ in declarations().typeof(f"struct {struct}").fields if "padding" not in name]


def put(struct: Any, field: str, key: str, raw: object) -> None:
    """A member of a struct: text, a whole number, or a real one."""
    members = dict(declarations().typeof(struct).fields)
    if field not in members:
        raise unknown(key, members, field)
    kind = members[field].type
    if kind.kind == "array":
        setattr(struct, field, _text(raw, key, kind.length - 1))
    elif kind.cname == "double":
        setattr(struct, field, number(raw, key))
    else:
        bits = 8 * declarations().sizeof(kind)
        signed = kind.cname.startswith("int")
        setattr(struct, field, whole(raw, key, -(1 << bits - 1) if signed else 0, (1 << bits - signed) - 1))


def whole(raw: object, key: str, low: int, high: int) -> int:
    value = number(raw, key)
    if math.isnan(value) or not low <= value <= high or value != int(value):
        raise UsageError(f"{key}: {raw!r} is no whole number from {low} to {high}")
    return int(value)


def chosen(word: str, key: str, known: list[int]) -> list[int]:
    """`3` or `all`."""
    if word == "all":
        return known
    if not word.isdecimal() or int(word) not in known:
        there = ", ".join(map(str, known)) or "none"
        raise UsageError(f"{key}: {word!r} is not there", remedy=f"one of {there}, or all")
    return [int(word)]


def unknown(key: str, known: Iterable[str], word: str = "") -> UsageError:
    word = word or key.partition(".")[0]
    return UsageError(f"{key}: {word!r} is not known{nearest(word, known)}", remedy="eagle-eye simulate list")


def _text(raw: object, key: str, most: int) -> bytes:
    text = str(raw).encode()
    if len(text) > most or not str(raw).isprintable():
        raise UsageError(f"{key}: at most {most} printable characters")
    return text


def _part(key: str, rest: list[str]) -> str:
    if len(rest) > 1 or (rest and rest[0] not in PARTS):
        raise unknown(key, PARTS, ".".join(rest))
    return rest[0] if rest else "value"


def _row(rows: Any, is_it: Callable[[Any], bool], is_free: Callable[[Any], bool], key: str) -> Any:
    for fits in (is_it, is_free):
        for row in rows:
            if fits(row):
                return row
    raise UsageError(f"{key}: no room for more than {len(rows)}")


def _order(state: Any, key: str, raw: object) -> None:
    words = raw if isinstance(raw, list) else str(raw).split(",")
    wanted = [whole(word, key, 0, len(state.order) - 1) for word in words]
    if len(set(wanted)) != len(wanted):
        raise UsageError(f"{key}: a device is named twice")
    full = wanted + [slot for slot in range(len(state.order)) if slot not in wanted]
    for place, slot in enumerate(full):
        state.order[place] = slot
