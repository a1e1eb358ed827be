"""What a line of NVIDIA's driver says beyond its number: NVLink registers, recovery actions, containment, severity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import structs

from . import nvlink5, tables
from .entry import Entry, from_row
from .scale import worst_action, worst_severity


def of_xid(entry: Entry, code: str, fields: Mapping[str, Any], driver: str) -> Entry:
    """`entry` of an Xid, sharper by what its line says."""
    if code == "154":
        return _recovery_action(entry, fields.get("to_action"))
    if code in nvlink5.XIDS and "intrinfo" in fields:
        return _of_registers(entry, code, fields, driver)
    wanted = "reset_device" if fields.get("reset_needed") is True else "none"
    wanted = "drain" if wanted == "none" and fields.get("drain_reset_needed") is True else wanted
    if fields.get("remap") in ("no_spare_row", "failed"):
        wanted = "reset_device"
    action = worst_action((entry.action, wanted))
    return entry if action == entry.action else structs.replace(entry, action=action)


def of_sxid(entry: Entry, fields: Mapping[str, Any]) -> Entry:
    """The line says itself how bad it is; what it cannot say is what the catalogue says."""
    told = fields.get("severity")
    if told == "fatal":
        return structs.replace(entry, severity="fatal", action=worst_action((entry.action, "reset_device")))
    if told == "nonfatal" and entry.severity == "fatal":
        return structs.replace(entry, severity="error", action="watch")
    if told == "correctable":
        severity = "info" if entry.severity == "info" else "warning"
        return structs.replace(entry, severity=severity, action="none" if severity == "info" else "watch")
    return entry


def recovery_actions() -> Iterator[tuple[str, Entry]]:
    """What Xid 154 may ask for, by number."""
    for row in tables.every_row("xid_recovery"):
        yield row["code"], from_row(row)


def _recovery_action(entry: Entry, number: object) -> Entry:
    """Xid 154 is a verdict: its severity and action are those of the recovery that it asks for."""
    if not isinstance(number, int) or isinstance(number, bool):
        return entry
    found = tables.rows("xid_recovery", str(number))
    if not found:
        told = f"The driver asks for recovery action {number}, which the catalogue has not."
        return structs.replace(entry, severity="error", action="drain", meaning=told, subcode=str(number), known=False)
    action = from_row(found[0])
    return structs.replace(action, mnemonic=entry.mnemonic, caused_by=entry.caused_by, subcode=str(number))


def _of_registers(entry: Entry, code: str, fields: Mapping[str, Any], driver: str) -> Entry:
    """NVLink 5: the registers say which unit, and what became of its traffic."""
    intrinfo, status = _number(fields["intrinfo"]), _number(fields.get("error_status"))
    unit = "/".join(str(fields[name]) for name in ("unit", "sub_unit") if fields.get(name))
    found = nvlink5.match(code, intrinfo, status, unit=unit, driver=driver)
    severity, action = found.severity or entry.severity, found.action or entry.action
    if fields.get("severity") == "fatal":
        severity = worst_severity((severity, "fatal"))
    elif fields.get("severity") == "nonfatal" and not found.unit:
        severity, action = "error", "watch"
    return structs.replace(
        entry,
        severity=worst_severity((severity,)),
        action=worst_action((action,)),
        bucket=found.bucket or entry.bucket,
        meaning=" ".join(part for part in (entry.meaning, found.meaning, found.note) if part),
        check=found.check or entry.check,
        victims=tuple(dict.fromkeys((*found.victims, *entry.victims))),
        subcode=found.unit or unit[:64],
    )


def _number(told: object) -> int:
    """Of `0x04` or 4; 0 for what is neither, as a register of zeros says nothing either."""
    if isinstance(told, int):
        return told & 0xFFFFFFFF
    try:
        return int(str(told)[:32], 16) & 0xFFFFFFFF
    except ValueError:
        return 0
