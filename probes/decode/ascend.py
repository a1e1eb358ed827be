"""Ascend's kernel modules on the host: `[ascend] [ERROR] [drv_pcie] [function line] <task:pid:tid> text`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from . import scan
from .family import Decoded, Family
from .shape import by_shapes

_LEVELS = frozenset({"ERROR", "WARN", "WARNING", "INFO", "NOTICE", "EVENT", "DEBUG"})
_EVENT_ID_MARKS = ("event_id", "event id", "eventid")
_EXCEPTION_MARKS = ("exception_id=", "mntn_system_error: ", "exception code ")
_BLACK_BOX_BITS = 0x3000_0000
_LONGEST_TEXT = 300
_LONGEST_TASK = 64
# Level, module and function, in whatever order, and what may follow.
_BRACKETS = re.compile(r"\[ascend\]\s*(?:\[[^\[\]]{1,120}\]\s*){0,4}")
_by_shape = by_shapes("ascend.host_kernel")
_NUMBERS = {
    **dict.fromkeys(("dev_id", "devid", "device", "device_id", "udevid"), "device_index"),
    "ret": "result", "hostpid": "host_pid", "host_pid": "host_pid", "start": "started_at", "end": "ended_at",
}  # fmt: skip


def _parts(text: str) -> tuple[dict[str, Any], str] | None:
    """Level, module, function, line, process, and the text behind them; level and module come in either order."""
    brackets = _BRACKETS.match(text)
    told, length = _head(brackets[0] if brackets else "")
    if "module" not in told and "level" not in told:
        return None
    fields, rest = dict(told), text[length:]
    if rest.startswith("<"):
        task, closed, behind = rest[1:].partition(">")
        if closed:
            fields.update(_task(task[:_LONGEST_TASK]))
            rest = behind.lstrip()
    while rest.startswith(("[devid-", "[tsid-")):
        name, _, rest = rest[1:].partition("]")
        index = scan.integer_after(name, "-")
        fields.update(scan.known(**{"device_index" if name.startswith("devid") else "ts_index": index}))
        rest = rest.lstrip()
    return fields, rest


@lru_cache(maxsize=256)
def _head(brackets: str) -> tuple[dict[str, Any], int]:
    """What `[ascend] [ERROR] [drv_pcie] [function line] ` says, and its length; of few, so kept. Not to be changed."""
    rest = brackets.removeprefix("[ascend]").lstrip()
    fields: dict[str, Any] = {}
    while rest.startswith("["):
        inside, _, behind = rest[1:].partition("]")
        if not _take_part(inside.strip(), fields):
            break
        rest = behind.lstrip()
    return fields, len(brackets) - len(rest)


def _take_part(inside: str, fields: dict[str, Any]) -> bool:
    if inside in _LEVELS and "level" not in fields:
        fields["level"] = inside.lower()
    elif " " in inside and "function" not in fields:
        function, _, line = inside.rpartition(" ")
        fields.update(scan.known(function=function.strip()[:80], line=scan.integer(line)))
    elif "module" not in fields and inside.replace("_", "").replace("-", "").isalnum():
        fields["module"] = inside[:32]
    else:
        return False
    return True


@lru_cache(maxsize=256)
def _task(written: str) -> dict[str, object]:
    """`python3:77:81` ends with process and thread, `swapper/0:0` with one; a kernel worker's name holds a colon."""
    parts = written.replace(",", ":").split(":")
    named = min(2 if parts[0].startswith("kworker/") else 1, len(parts))
    numbers = [scan.integer(part) for part in parts[named:][-2:]]
    name = ":".join(parts[: len(parts) - len(numbers)])
    return scan.known(process=name[:32], **dict(zip(("pid", "thread_id"), numbers, strict=False)))


def _values(said: str) -> dict[str, object]:
    """`(dev_id=5; event_id=0x80e01801; start=1)`: what driver functions put into parentheses at the end."""
    told: dict[str, object] = {}
    inside = said.rpartition("(")[2].partition(")")[0].replace(",", ";")
    for pair in inside.split(";")[:16]:
        name, _, value = pair.replace(":", "=", 1).partition("=")
        key = _NUMBERS.get(name.strip().lower())
        number = scan.integer(value.strip()) if key else None
        if key and number is not None:
            told.setdefault(key, number)
    address = scan.hexadecimal_after(inside, "va=") if "va=" in inside else None
    return {**told, **scan.known(virtual_address=address)}


def event_code(text: str) -> str:
    """The event or exception id as `0x80E01801`, of whatever way to write it; "" without one."""
    lowered = text.lower()
    for mark in (*_EVENT_ID_MARKS, *_EXCEPTION_MARKS):
        at = lowered.find(mark)
        if at >= 0:
            number = scan.hexadecimal(text[at + len(mark) :][:24].lstrip(" =:[("))
            if number is not None and 0xFFFF < number <= 0xFFFF_FFFF:
                return f"0x{number:08X}"
    return ""


def is_exception(code: str) -> bool:
    """Is it a black-box exception, and no event of the device manager?"""
    return bool(int(code, 16) & _BLACK_BOX_BITS)


def parse_host(text: str) -> Decoded | None:
    return decode_module_line(text, "ascend.host_kernel") if text.startswith("[ascend]") else None


def decode_module_line(text: str, family: str) -> Decoded | None:
    """A line of a kernel module, on the host or, forwarded, of the device's own kernel."""
    parts = _parts(text)
    if parts is None:
        return None
    fields, said = parts
    code = event_code(said)
    worded = None if code else _by_shape(said)
    fields.update(_values(said))
    fields.update(worded.fields if worded else {})
    fields["text"] = said[:_LONGEST_TEXT].strip()
    if code and is_exception(code):
        fields["exception"] = True
    if fields.get("level") == "info":
        fields.update(_enumeration(said))
    device = scan.pci_address(scan.after(said, "bdf="))
    return Decoded(family, worded.code if worded else code, device, fields, bool(worded and worded.recovery))


def _enumeration(said: str) -> dict[str, object]:
    """`Findout device. (index=7; device=d105; dev_num=0)`: the device field is its PCI id there."""
    if "Findout device" not in said:
        return {}
    return scan.known(
        device_index=scan.integer_after(said, "index="),
        pci_device_id=scan.hexadecimal_after(said, "device="),
        devices=scan.integer_after(said, "dev_num="),
    )


HOST = Family("ascend.host_kernel", ("[ascend]",), parse_host)
