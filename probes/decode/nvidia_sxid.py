"""SXids: faults of NVSwitch, with the records of details that follow them."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from . import scan
from .cursor import Cursor
from .family import Decoded, Family

NAME = "nvidia.sxid"
_SEVERITIES = {"Fatal": "fatal", "Non-fatal": "nonfatal", "Correctable": "correctable"}
_MAX_MESSAGE = 512
_MAX_WORDS = 64


def parse(text: str) -> Decoded | None:
    cursor = Cursor(text)
    if not cursor.skip_past("SXid ("):
        return None
    cursor.take("PCI:")
    device = scan.pci_address(cursor.until("): "))
    code = cursor.integer()
    if code is None or code > 99_999:
        return None
    cursor.take(",")
    cursor.spaces()
    fields = _switch(text)
    body = cursor.rest()
    if not _continuation(body, fields):
        _head(cursor, fields)
    return Decoded(NAME, str(code), device, fields, incomplete="severity" in fields or "continuation" in fields)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """A record of details belongs to the fault of the same number on the same switch."""
    if not later.fields.get("continuation") or (earlier.code, earlier.device) != (later.code, later.device):
        return None
    details = {name: value for name, value in later.fields.items() if name not in ("continuation", "data")}
    data = [*earlier.fields.get("data", ()), *later.fields.get("data", ())][:_MAX_WORDS]
    fields = {**earlier.fields, **details, **({"data": data} if data else {})}
    return structs.replace(earlier, fields=fields)


def _switch(text: str) -> dict[str, Any]:
    number = scan.integer_after(text, "nvidia-nvswitch")
    return {} if number is None else {"nvswitch": number}


def _head(cursor: Cursor, fields: dict[str, Any]) -> None:
    at = cursor.at
    severity = _SEVERITIES.get(cursor.until(", "))
    if severity:
        fields["severity"] = severity
    else:
        cursor.at = at
    if cursor.take("Link "):
        fields["link"] = cursor.integer()
        cursor.spaces()
    message = cursor.rest().strip()[:_MAX_MESSAGE]
    if message.endswith("(First)"):
        fields["first"] = True
        message = message.removesuffix("(First)").rstrip()
    for name in ("instance", "chiplet"):
        number = scan.integer_after(message, f"{name}=")
        if number is not None:
            fields[name] = number
    fields["message"] = message


def _continuation(body: str, fields: dict[str, Any]) -> bool:
    cursor = Cursor(body)
    if cursor.take("Data {"):
        words = cursor.until("}").split(",")[:_MAX_WORDS]
        fields["data"] = [word.strip() for word in words if scan.hexadecimal(word) is not None]
    elif cursor.take("Severity "):
        fields["severity_number"] = cursor.integer()
        fields["engine_instance"] = scan.integer_after(body, "Engine instance ")
        fields["sub_engine_instance"] = scan.integer_after(body, "Sub-engine instance ")
    else:
        return False
    fields["continuation"] = True
    return True


FAMILY = Family(NAME, ("SXid (",), parse, join)
