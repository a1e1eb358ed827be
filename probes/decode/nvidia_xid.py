"""Xids: faults of NVIDIA GPUs, of all driver generations, and the driver's notices about them."""

from __future__ import annotations

from typing import Any

from . import scan
from .cursor import Cursor
from .family import Decoded, Family
from .nvidia_xid_bodies import read_body

NAME = "nvidia.xid"
_XID = "NVRM: Xid ("
_RATE_LIMIT = "Rate limiting GSP RPC error prints for GPU at "
_RPC_TABLE = " GSP RPC buffer contains function "
_UNKNOWN = "<unknown>"


def parse(text: str) -> Decoded | None:
    at = text.find(_XID)
    if at >= 0:
        return _xid(Cursor(text, at + len(_XID)))
    if _RATE_LIMIT in text:
        return _rate_limit(text)
    return _rpc_table(text) if _RPC_TABLE in text else None


def _xid(cursor: Cursor) -> Decoded | None:
    """`PCI:0000:01:00 GPU-I:05 GPU-CI:00): 31, pid=7194, name=python3, BODY`; before R450 without `PCI:`."""
    fields: dict[str, Any] = {}
    device = _address(cursor, fields)
    code = cursor.integer()
    if code is None or code > 99_999:
        return None
    _next(cursor)
    _process(cursor, fields)
    recovery = read_body(code, cursor.rest().strip(), fields)
    return Decoded(NAME, str(code), device, fields, recovery)


def _address(cursor: Cursor, fields: dict[str, Any]) -> str:
    place = Cursor(cursor.until("): "))
    place.take("PCI:")
    device = scan.pci_address(place.until(" "))
    if place.take("GPU-I:"):
        fields["gpu_instance"] = place.integer()
        place.spaces()
    if place.take("GPU-CI:"):
        fields["compute_instance"] = place.integer()
    return device


def _process(cursor: Cursor, fields: dict[str, Any]) -> None:
    """`pid=7194, name=python3, `, either or both; the kernel's word for none is `<unknown>`, in quotes or not."""
    if cursor.take("pid="):
        pid = scan.integer(cursor.until(","))
        if pid:
            fields["pid"] = pid
        cursor.spaces()
    if cursor.take("name="):
        process = cursor.until(", ").strip()[:64]
        if process and process.strip("'") != _UNKNOWN:
            fields["process"] = process
        cursor.spaces()


def _next(cursor: Cursor) -> None:
    cursor.take(",")
    cursor.spaces()


def _rate_limit(text: str) -> Decoded | None:
    """From here on Xids 119 and 120 of this GPU are printed once for so many."""
    device = scan.pci_address(scan.after(text, _RATE_LIMIT).removeprefix("PCI:"))
    one_of = scan.integer_after(text, "1 of every ")
    if not one_of:
        return None
    return Decoded(NAME, device=device, fields={"printed_one_of": one_of, "limits": ["119", "120"]})


def _rpc_table(text: str) -> Decoded | None:
    """`NVRM: GPU4 GSP RPC buffer contains function 103 (GSP_RM_ALLOC) and data 0x2081 0x4.`"""
    cursor = Cursor(text)
    if not cursor.take("NVRM: GPU"):
        return None
    gpu = cursor.integer()
    if not cursor.take(_RPC_TABLE):
        return None
    fields = scan.known(
        gpu=gpu,
        function=cursor.integer(),
        function_name=scan.between(cursor.rest(), "(", ")")[:64],
        data=[word.rstrip(".") for word in scan.after(text, " and data ").split()[:8]],
    )
    return Decoded(NAME, fields=fields)


FAMILY = Family(NAME, (_XID, _RATE_LIMIT, _RPC_TABLE), parse)
