"""Ascend's codes: those with a row of their own, and all others by their bits.

An event is the same whoever tells it, so faults have one family for the device's events in all logs and libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..ascend_events import Decoded, decode
from . import tables
from .entry import Entry, from_row
from .scale import worst_action, worst_severity

EVENTS = "ascend.event"
FAMILIES = (EVENTS, "ascend.host_kernel", "ascend.device_log")
_GRAVITIES = {"notice": "info", "minor": "warning", "major": "error", "critical": "fatal"}
_NO_LEVEL = {"severity": "", "action": "", "meaning": "", "check": "", "source": "", "dated": ""}
_TS_MODULE = 0x06
_HEX_DIGITS = frozenset("0123456789ABCDEF")
_RUNTIME = re.compile(r"E[A-Z0-9][0-9]{4}")


def event_code(code: str) -> str:
    """`0x80e01801`, `80E01801` or the like as it is written everywhere else (`0x80E01801`); "" for anything else."""
    digits = code.upper().removeprefix("0X")
    return f"0x{digits}" if len(digits) == 8 and _HEX_DIGITS.issuperset(digits) else ""


def is_of_device(code: str) -> bool:
    """Is it told by the device itself, in whatever log, and not by the runtime or the host's driver?"""
    return bool(event_code(code)) or code.startswith("[0x")


def entry(code: str, fields: Mapping[str, Any]) -> Entry:
    """What a code means. `fields["gravity"]` is the severity that the device itself gave it. Never raises."""
    return _entry(code[:64], str(fields.get("gravity", ""))[:16])


@lru_cache(maxsize=512)
def _entry(code: str, gravity: str) -> Entry:
    for key in (code, event_code(code), _switch_key(code)):
        found = tables.rows("ascend_codes", key)
        if found:
            return _of_row(key, found[0], gravity)
    for key in (code, f"runtime_{code[:2]}" if _RUNTIME.fullmatch(code) else ""):
        found = tables.rows("host_faults", f"ascend:{key}")
        if found:
            return from_row(found[0])
    return _unknown(code, gravity, decode(int(event_code(code) or "-1", 16)))


def _switch_key(code: str) -> str:
    """`[0x08520003,na,L2,na]` as the table writes it: `0x08520003:na:L2:na`."""
    if not code.startswith("[0x"):
        return ""
    alarm, *rest = (part.strip() for part in code.strip("[]").split(","))
    return ":".join((f"0x{alarm[2:].upper()}", *rest))


def _of_row(code: str, row: Mapping[str, str], told: str) -> Entry:
    bits = decode(int(code, 16)) if event_code(code) and row["kind"] in ("event", "exception") else None
    level = next(iter(tables.rows("ascend_levels", row["bucket"])), _NO_LEVEL)
    gravity = _GRAVITIES.get((bits and bits.severity) or told, "")
    own = " ".join(part for part in (row["meaning"] or _meaning(code, row["kind"], bits), level["meaning"]) if part)
    return Entry(
        mnemonic=_mnemonic(bits, row["kind"]),
        severity=worst_severity((gravity or row["severity"] or level["severity"] or "warning",)),
        action=worst_action((row["action"] or level["action"] or "watch",)),
        bucket=row["bucket"],
        meaning=own,
        check=row["check"] or level["check"] or "What the device and its neighbours told in the same minute.",
        cause=row["cause"],
        caused_by=tuple(row["caused_by"].split()),
        victims=tuple(row["victims"].split()),
        source=row["source"] if row["meaning"] or not bits or bits.unknown else f"{row['source']}; bits of the code",
        dated=row["dated"],
    )


def _meaning(code: str, kind: str, bits: Decoded | None) -> str:
    """Of a code without a text of its own: what its bits say."""
    if kind == "exception" and bits:
        return _exception(int(code, 16))
    if bits and (bits.meaning or bits.component):
        return f"{str(bits)[:1].upper()}{str(bits)[1:]}."
    return {
        "switch": "A switch of the unified bus told this alarm; its maker publishes no text for it.",
        "public": "A service outside the device told this fault; its maker publishes no text for it.",
        "bmc": "The management controller told this alarm; its maker publishes no text for it.",
        "chip": "The device manager told this fault of the chip; its maker publishes no text for it.",
    }.get(kind, "A code of the product's own: its maker publishes no text, only how to handle it.")


def _exception(code: int) -> str:
    module = code >> 16 & 0xFF
    who = "the task scheduler (TS)" if module == _TS_MODULE else f"module 0x{module:02X}"
    return f"The black box of the device recorded exception 0x{code & 0xFFFF:04X} of {who}."


def _mnemonic(bits: Decoded | None, kind: str) -> str:
    if bits is None or kind == "exception":
        return {"exception": "black-box exception", "switch": "unified-bus switch"}.get(kind, kind)
    return " ".join(part for part in (bits.component or f"node 0x{bits.node_type:X}", bits.sensor) if part)


def _unknown(code: str, gravity: str, bits: Decoded) -> Entry:
    """Nobody knows it: light ones are only written down, all others take the device out."""
    told = bits.severity or gravity
    severity = _GRAVITIES.get(told, "error")
    meaning = _exception(bits.code) if bits.kind == "exception" else _meaning(code, "event", bits)
    return Entry(
        mnemonic=_mnemonic(bits, "exception" if bits.kind == "exception" else "event")
        if bits.kind != "unknown"
        else "",
        severity=worst_severity((severity,)),
        action={"info": "none", "warning": "watch"}.get(severity, "drain"),  # type: ignore[arg-type]
        bucket="",
        meaning=f"Code {code!r} has no row in the catalogue. {meaning if bits.kind != 'unknown' else ''}".rstrip(),
        check="Manual of the product for this code; what the device told in the same minute.",
        caused_by=(),
        victims=(),
        source="bits of the code: CANN driver dms_event_converge.h",
        dated="2026",
        known=False,
    )
