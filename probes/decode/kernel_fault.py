"""The kernel's own faults and limits, and user programs that it had to stop."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from . import scan
from .family import Decoded, Family
from .shape import by_shapes, first_of, triggers_of

_NAME = "kernel.fault"
_CONTEXT = frozenset({"oops", "null_dereference", "page_fault", "general_protection_fault", "divide_error",
                      "invalid_opcode", "double_fault", "bug", "warning", "bus_error", "stack_overflow",
                      "stack_corruption", "page_allocation_failure"})  # fmt: skip
_ENDS = ("---[ end trace ", "---[ end Kernel panic")
_by_shape = by_shapes(_NAME)


def _fault(text: str) -> Decoded | None:
    found = _by_shape(text)
    return found and structs.replace(found, incomplete=found.code in _CONTEXT)


def _segfault(text: str) -> Decoded | None:
    """`python3[123]: segfault at 0 ip 00007f sp 00007ffe error 4 in libnccl.so.2[7f…+…] likely on CPU 3 (…)`."""
    head, mark, rest = text.partition("]: segfault at ")
    process, bracket, pid = head.rpartition("[")
    if not mark or not bracket or not pid.isdigit():
        return None
    fields = scan.known(
        process=process[:32], pid=scan.integer(pid), address=scan.hexadecimal(rest),
        error=scan.hexadecimal_after(rest, " error "), cpu=scan.integer_after(rest, "likely on CPU "),
        **_library(rest, " ip ", scan.after(rest, " in ")),
    )  # fmt: skip
    return Decoded(_NAME, "segfault", "", fields)


def _trap(text: str) -> Decoded | None:
    """`traps: python3[4321] trap invalid opcode ip:7f… sp:7f… error:0 in libtorch_cpu.so[7f…+…]`."""
    head, bracket, rest = text.removeprefix("traps: ").partition("] ")
    process, opened, pid = head.rpartition("[")
    kind, mark, _ = rest.partition(" ip:")
    if not (bracket and opened and mark and pid.isdigit()) or " sp:" not in rest:
        return None
    kind = kind.removeprefix("trap ").strip()
    if not kind.replace(" ", "").replace("-", "").isalnum():
        return None
    fields = scan.known(
        process=process[:32], pid=scan.integer(pid), trap=kind[:64], error=scan.hexadecimal_after(rest, " error:"),
        **_library(rest, " ip:", scan.after(rest, " in ")),
    )  # fmt: skip
    return Decoded(_NAME, "trap", "", fields)


def _unhandled(text: str) -> Decoded | None:
    """arm64: `python3[123]: unhandled level 2 translation fault (11) at 0x0, esr 0x92000006, in libfoo.so[7f…+…]`."""
    head, mark, rest = text.partition("]: unhandled ")
    process, bracket, pid = head.rpartition("[")
    if not mark or not bracket or not pid.isdigit():
        return None
    fields = scan.known(
        process=process[:32], pid=scan.integer(pid), trap=rest.partition(" (")[0].partition(",")[0][:64],
        signal=scan.integer(scan.between(rest, "(", ")")), address=scan.hexadecimal_after(rest, " at "),
        syndrome=scan.hexadecimal_after(rest, "esr "), library=scan.after(rest, ", in ").partition("[")[0][:120],
    )  # fmt: skip
    return Decoded(_NAME, "segfault" if "fault" in str(fields.get("trap")) else "trap", "", fields)


def _library(rest: str, instruction_mark: str, where: str) -> dict[str, object]:
    """The mapped file that the instruction lies in. Linux 6.5 and later say the offset into the file first."""
    name, bracket, mapping = where.partition("[")
    pointer = scan.hexadecimal_after(rest, instruction_mark)
    told: dict[str, object] = {"instruction": pointer}
    if not bracket:
        return told
    offset, comma, area = mapping.partition("]")[0].partition(",")
    base = scan.hexadecimal(area if comma else mapping)
    if comma:
        return {**told, "library": name[:120], "library_offset": scan.hexadecimal(offset)}
    offset_bytes = pointer - base if pointer is not None and base is not None and pointer >= base else None
    return {**told, "library": name[:120], "library_offset": offset_bytes}


def _iommu(text: str) -> Decoded | None:
    """`nvidia 0000:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x14 address=0x1000 …]`, or device= in it."""
    head, mark, rest = text.partition("AMD-Vi: Event logged [IO_PAGE_FAULT ")
    if not mark:
        return None
    device = scan.pci_address(scan.after(rest, "device=")) or scan.device_message(head)[1]
    fields = scan.known(
        domain=scan.hexadecimal_after(rest, "domain="), address=scan.hexadecimal_after(rest, "address="),
        flags=scan.hexadecimal_after(rest, "flags="),
    )  # fmt: skip
    return Decoded(_NAME, "dma_fault", device, fields)


def _context(text: str) -> Decoded | None:
    """`CPU: 3 PID: 123 Comm: python3 Tainted: P OE 6.5.0 #1` (with `UID: 0` since 6.12)."""
    cpu, pid = scan.integer_after(text, "CPU: "), scan.integer_after(text, " PID: ")
    process, _, rest = scan.after(text, " Comm: ").partition("Not tainted")
    if not text.startswith("CPU: ") or cpu is None or pid is None or not process:
        return None
    process, tainted, taint = process.partition(" Tainted: ")
    release = taint.split() if tainted else rest.split()
    fields = scan.known(
        cpu=cpu, pid=pid, process=process.strip()[:32],
        tainted="".join(part for part in release if part.isupper() and part.isalpha())[:32] if tainted else "",
        kernel=next((part for part in release if part[:1].isdigit()), "")[:64],
    )  # fmt: skip
    return Decoded(_NAME, "", "", fields, incomplete=True)


def _instruction(text: str) -> Decoded | None:
    """`RIP: 0010:nvidia_poll+0x1a/0x90 [nvidia]`, `pc : func+0x1c/0x80 [module]` on arm64."""
    where = scan.after(text, ":") if text.startswith("pc :") else scan.after(text, "RIP: ").partition(":")[2]
    function, plus, rest = where.strip().partition("+0x")
    if not text.startswith(("RIP: ", "pc :")) or not plus or " " in function:
        return None
    fields = scan.known(function=function[:120], module=scan.between(rest, "[", "]")[:64])
    return Decoded(_NAME, "", "", fields, incomplete=True)


def _end(text: str) -> Decoded | None:
    return Decoded(_NAME, "", "", {"ends": True}) if text.startswith(_ENDS[0]) else None


parse = first_of(_segfault, _trap, _unhandled, _iommu, _context, _instruction, _end, _fault)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """Where it happened, taken into what happened; an oops that follows its own BUG line is the same fault."""
    old, new = earlier.fields, later.fields
    if not earlier.code or not earlier.incomplete:
        return None
    if later.code:
        same = "oops" in new and "oops" not in old and later.code in _CONTEXT
        return structs.replace(earlier, fields={**new, **old}) if same else None
    if "ends" in new:
        return structs.replace(earlier, incomplete=False)
    if not later.incomplete or ("pid" in new and "pid" in old and new["pid"] != old["pid"]):
        return None
    whole = "function" in new and "pid" in {**old, **new} and earlier.code != "page_allocation_failure"
    fields: dict[str, Any] = {**new, **old}
    return structs.replace(earlier, fields=fields, incomplete=not whole)


FAMILY = Family(
    _NAME,
    (
        "]: segfault at ",
        "traps: ",
        "]: unhandled ",
        "AMD-Vi: Event logged [",
        " Comm: ",
        "RIP: ",
        "pc : ",
        *_ENDS,
        *triggers_of(_NAME),
    ),
    parse,
    join,
)
