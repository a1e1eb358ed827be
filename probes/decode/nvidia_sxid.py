"""SXids: faults of NVSwitch, with the records of details that follow them."""

from __future__ import annotations

from functools import lru_cache
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
    before, mark, rest = text.partition("SXid (")
    place, closed, rest = rest.partition("): ")
    number, _, body = rest.partition(",")
    if not (mark and closed and number.isascii() and number.isdigit() and len(number) < 6):
        return None
    fields = dict(_switch(before[-32:]))
    body = body.strip()
    if not _continuation(body, fields):
        _head(body, fields)
    more = "severity" in fields or "continuation" in fields
    return Decoded(NAME, str(int(number)), _address(place[:64]), fields, incomplete=more)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """A record of details belongs to the fault of the same number on the same switch."""
    if not later.fields.get("continuation") or (earlier.code, earlier.device) != (later.code, later.device):
        return None
    details = {name: value for name, value in later.fields.items() if name not in ("continuation", "data")}
    data = [*earlier.fields.get("data", ()), *later.fields.get("data", ())][:_MAX_WORDS]
    fields = {**earlier.fields, **details, **({"data": data} if data else {})}
    return structs.replace(earlier, fields=fields)


@lru_cache(maxsize=256)
def _switch(before: str) -> dict[str, int]:
    number = scan.integer_after(before, "nvidia-nvswitch")
    return {} if number is None else {"nvswitch": number}


@lru_cache(maxsize=256)
def _address(place: str) -> str:
    return scan.pci_address(place.removeprefix("PCI:"))


def _head(body: str, fields: dict[str, Any]) -> None:
    severity, _, message = body.partition(", ")
    if severity in _SEVERITIES:
        fields["severity"] = _SEVERITIES[severity]
    else:
        message = body
    if message.startswith("Link "):
        link, _, message = message[5:].partition(" ")
        fields.update(scan.known(link=scan.integer(link)))
    message = message[:_MAX_MESSAGE]
    if message.endswith("(First)"):
        fields["first"] = True
        message = message.removesuffix("(First)").rstrip()
    for name in ("instance", "chiplet"):
        if f", {name}=" in message:
            fields.update(scan.known(**{name: scan.integer_after(message, f", {name}=")}))
    fields["message"] = message


def _continuation(body: str, fields: dict[str, Any]) -> bool:
    cursor = Cursor(body)
    if cursor.take("Data {"):
        words = cursor.until("}").split(",")[:_MAX_WORDS]
        fields["data"] = [word.strip() for word in words if scan.hexadecimal(word) is not None]
    elif cursor.take("Severity "):
        fields.update(
            scan.known(
                severity_number=cursor.integer(),
                engine_instance=scan.integer_after(body, "Engine instance "),
                sub_engine_instance=scan.integer_after(body, "Sub-engine instance "),
            )
        )
    else:
        return False
    fields["continuation"] = True
    return True


FAMILY = Family(NAME, ("SXid (",), parse, join)
