"""Firmware's error records (GHES, BERT): lines `{1}[Hardware Error]: name: value`, joined by the number in front."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from . import scan
from .family import Decoded

_NAME = "cpu.memory.mce_edac"
_MARK = "[Hardware Error]: "
_CODES = {"corrected": "ghes_corrected", "recoverable": "ghes_recoverable", "fatal": "ghes_fatal"}
_NUMBERS = frozenset(
    ("node", "card", "module", "rank", "bank", "device", "row", "column", "bit_position", "bank_group", "bank_address",
     "requestor_id", "responder_id", "target_id", "slot", "secondary_bus", "processor_type", "level")
)  # fmt: skip
_HEXADECIMAL = frozenset(
    ("physical_address", "physical_address_mask", "error_status", "command", "status", "vendor_id", "device_id",
     "class_code", "aer_uncor_status", "aer_uncor_mask", "aer_uncor_severity", "aer_cor_status", "aer_cor_mask",
     "midr", "mpidr", "error_info", "virtual_fault_address", "physical_fault_address")
)  # fmt: skip
_WORDS = frozenset(("section_type", "fru_text", "fru_id", "dimm_location", "severity", "type", "port_type", "version"))
_HEADS = ("Hardware error from APEI", "BERT: Error records")


def parse_section(text: str) -> Decoded | None:
    """One line of a record; `record` is its number, 0 where there is none (BERT, kernels before 2.6.38)."""
    prefix, mark, rest = text.partition(_MARK)
    record = scan.integer(prefix.removeprefix("{")) if prefix.startswith("{") and prefix.endswith("}") else None
    if mark and record is not None:
        return _line(rest.strip(), record)
    head = text.startswith(_HEADS)
    if head or (mark and not prefix and rest.lstrip().startswith(("event severity: ", "section_type: "))):
        return _line(text if head else rest.strip(), 0)
    return None


def _line(text: str, record: int) -> Decoded:
    fields: dict[str, Any] = {"record": record, **_told(text)}
    device = str(fields.pop("device_address", ""))
    return Decoded(_NAME, _CODES.get(fields.get("severity", ""), ""), device, fields, incomplete=True)


def _told(text: str) -> dict[str, Any]:
    if text.startswith("Hardware error from APEI"):
        return scan.known(source=scan.integer_after(text, "Source: "))
    if text.startswith("BERT: "):
        return {"previous_boot": True}
    name, _, value = text.partition(": ")
    name = name.strip().replace(" ", "_")[:40].lower()
    if name == "event_severity":
        return {"severity": value.strip()[:32]}
    if name == "error_type":
        number, _, words = value.partition(", ")
        return scan.known(error_type=scan.integer(number), error=words.strip()[:64])
    if name == "device_id" and scan.pci_address(value):
        return {"device_address": scan.pci_address(value)}
    return {**_value(name, value), **_pairs(text)}


def _value(name: str, value: str) -> dict[str, Any]:
    """`name: value` as a word; those of `error_0,_type: corrected` belong to sections and are the same once more."""
    if name in _WORDS - {"severity", "type"}:
        return scan.known(**{name: value.strip()[:120]})
    if name == "error_status" and "(" in value:
        return scan.known(
            error_status=scan.hexadecimal_after(value, "("), error_status_text=value.partition(" (")[0][:80]
        )
    return {}


def _pairs(text: str) -> dict[str, Any]:
    """`node: 2 module: 22 rank: 0`, `command: 0x0547, status: 0x4010`."""
    words = text.split()[:40]
    told: dict[str, Any] = {}
    for name, value in pairwise(words):
        key = name[:-1].lower() if name.endswith(":") else ""
        number = scan.integer(value) if key in _NUMBERS else None
        number = scan.hexadecimal(value) if key in _HEXADECIMAL else number
        if number is not None:
            told.setdefault(key, number)
    return told


def join_sections(earlier: Decoded, later: Decoded) -> Decoded | None:
    """Both as one record. A line that begins a record, or repeats its severity, is of another."""
    old, new = earlier.fields, later.fields
    if not (earlier.incomplete and later.incomplete) or old.get("record") != new.get("record"):
        return None
    if "source" in new or "previous_boot" in new:
        return None
    if "severity" in old and "severity" in new:
        return None
    return Decoded(_NAME, earlier.code or later.code, earlier.device or later.device, {**new, **old}, incomplete=True)
