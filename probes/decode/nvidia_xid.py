"""Xids: faults of NVIDIA GPUs, of all driver generations, and the driver's notices about them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from . import scan
from .cursor import Cursor
from .family import Decoded, Family
from .nvidia_xid_bodies import read_body

NAME = "nvidia.xid"
_XID = "NVRM: Xid ("
_RATE_LIMIT = "Rate limiting GSP RPC error prints for GPU at "
_RPC_TABLE = " GSP RPC buffer contains function "
_UNKNOWN = frozenset({"", "<unknown>", "'<unknown>'"})


def parse(text: str) -> Decoded | None:
    at = text.find(_XID)
    if at >= 0:
        return _xid(text[at + len(_XID) :])
    if _RATE_LIMIT in text:
        return _rate_limit(text)
    return _rpc_table(text) if _RPC_TABLE in text else None


def _xid(text: str) -> Decoded | None:
    """`PCI:0000:01:00 GPU-I:05 GPU-CI:00): 31, pid=7194, name=python3, BODY`; before R450 without `PCI:`."""
    place, closed, rest = text.partition("): ")
    number, _, rest = rest.partition(",")
    number = number.rstrip()
    if not (closed and number.isascii() and number.isdigit() and len(number) < 6):
        return None
    device, instances = _address(place[:64])
    fields: dict[str, Any] = {**instances}
    body = _without_process(rest.strip(), fields)
    code = int(number)
    recovery = read_body(code, body, fields)
    return Decoded(NAME, str(code), device, fields, recovery)


@lru_cache(maxsize=256)
def _address(place: str) -> tuple[str, dict[str, object]]:
    """Device and MIG instances, of which a node has few; not to be changed."""
    cursor = Cursor(place)
    cursor.take("PCI:")
    device = scan.pci_address(cursor.until(" "))
    gpu_instance = cursor.integer() if cursor.take("GPU-I:") else None
    cursor.spaces()
    compute_instance = cursor.integer() if cursor.take("GPU-CI:") else None
    return device, scan.known(gpu_instance=gpu_instance, compute_instance=compute_instance)


def _without_process(body: str, fields: dict[str, Any]) -> str:
    """`pid=7194, name=python3, `, either or both; the driver's word for none is `<unknown>`, in quotes or not."""
    if body.startswith("pid="):
        pid, _, body = body[4:].partition(",")
        body = body.lstrip()
        if pid.isascii() and pid.isdigit() and int(pid[:10]) > 0:
            fields["pid"] = int(pid[:10])
    if body.startswith("name="):
        process, _, body = body[5:].partition(", ")
        body = body.lstrip()
        if process not in _UNKNOWN:
            fields["process"] = process[:64].rstrip()
    return body


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
