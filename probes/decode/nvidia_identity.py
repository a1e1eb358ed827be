"""What NVIDIA's driver says about itself and its GPUs: version, UUIDs, serial numbers."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from . import scan
from .cursor import Cursor
from .family import Decoded, Family

NAME = "nvidia.identity"


def parse(text: str) -> Decoded | None:
    if text.startswith("NVRM: GPU at "):
        return _uuid(Cursor(text, len("NVRM: GPU at ")))
    if text.startswith("NVRM: GPU Board Serial Number: "):
        serial = scan.word(scan.after(text, "Number: "))
        return Decoded(NAME, fields={"serial": serial, "continuation": True}) if serial else None
    return _driver(text)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """The serial number follows the UUID of the same GPU."""
    if "uuid" not in earlier.fields or "serial" not in later.fields:
        return None
    fields = {**earlier.fields, "serial": later.fields["serial"]}
    return structs.replace(earlier, fields=fields, incomplete=False)


def _uuid(cursor: Cursor) -> Decoded | None:
    cursor.take("PCI:")
    device = scan.pci_address(cursor.until(": "))
    uuid = scan.word(cursor.rest())
    if not device or not uuid.startswith("GPU-"):
        return None
    return Decoded(NAME, device=device, fields={"uuid": uuid}, incomplete=True)


def _driver(text: str) -> Decoded | None:
    """`loading NVIDIA UNIX x86_64 Kernel Module  535.183.01  Tue …`, `… Open Kernel Module for x86_64  595.45.04`."""
    cursor = Cursor(text)
    if not cursor.skip_past("loading NVIDIA UNIX "):
        return None
    fields: dict[str, Any] = {"module": "open" if cursor.take("Open ") else "closed"}
    if not cursor.skip_past("Kernel Module "):
        return None
    words = cursor.rest().split(None, 3)
    if words[:1] == ["for"]:
        words = words[2:]
    if not words or not words[0][0].isdigit():
        return None
    return Decoded(NAME, fields={**fields, "driver": words[0]})


FAMILY = Family(NAME, ("NVRM: GPU at ", "NVRM: GPU Board Serial", "loading NVIDIA UNIX "), parse, join)
