"""A GPU that no longer answers on the bus, told with or without an Xid, in one record or in three."""

from __future__ import annotations

from msgspec import structs

from . import scan
from .cursor import Cursor
from .family import Decoded, Family

NAME = "nvidia.fallen"
FALLEN = "fallen_off_bus"
_HEAD = "NVRM: The NVIDIA GPU "
_POWER = ("Refused to change power state", "Unable to change power state", "can't change power state")


def parse(text: str) -> Decoded | None:
    if "Xid (" in text[:64]:
        return None
    if text.startswith(_HEAD):
        return _three_lines(text)
    if text.startswith("NVRM: GPU "):
        return _of_gpu(Cursor(text, len("NVRM: GPU ")))
    if text.startswith("NVRM: A GPU crash dump has been created"):
        return Decoded(NAME, "crash_dump")
    if text.startswith("NVRM: "):
        return _later_line(text)
    return _refused(text)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """`The NVIDIA GPU 0000:b3:00.0`, `(PCI ID: …) installed in this system has`, `fallen off the bus …`."""
    if not later.fields.get("continuation") or earlier.fields.get("part") != "head":
        return None
    fields = {**earlier.fields, **later.fields}
    del fields["continuation"]
    if later.code:
        del fields["part"]
    return Decoded(later.family, later.code, earlier.device, fields, incomplete=not later.code)


def _of_gpu(cursor: Cursor) -> Decoded | None:
    device = scan.pci_address(cursor.until(": "))
    said = cursor.rest()
    if device and "fallen off the bus" in said:
        return Decoded(NAME, FALLEN, device)
    if device and cursor.take("GPU serial number is "):
        return Decoded(NAME, device=device, fields={"serial": scan.word(cursor.rest())})
    return None


def _three_lines(text: str) -> Decoded | None:
    """The first of them, and the others where they are lines of one record."""
    lines = text.split("\n", 4)
    found = Decoded(NAME, device=scan.pci_address(lines[0][len(_HEAD) :]), fields={"part": "head"}, incomplete=True)
    if not found.device:
        return None
    in_line = _later_line("NVRM: " + lines[0][len(_HEAD) :].partition(" ")[2])
    for later in (in_line, *map(_later_line, lines[1:])):
        joined = join(found, later) if later else None
        found = joined or found
    return structs.replace(found, incomplete=not found.code)


def _later_line(text: str) -> Decoded | None:
    if "fallen off the bus" in text:
        return Decoded(NAME, FALLEN, fields={"continuation": True, **_pci_id(text)})
    if "installed in this system is not supported" in text:
        return Decoded("nvidia.init_assert", "gpu_not_supported", fields={"continuation": True, **_pci_id(text)})
    if text.startswith("NVRM: (PCI ID: "):
        return Decoded(NAME, fields={"continuation": True, **_pci_id(text)})
    return None


def _pci_id(text: str) -> dict[str, str]:
    number = scan.between(text, "(PCI ID: ", ")")
    return {"pci_id": number[:32]} if number else {}


def _refused(text: str) -> Decoded | None:
    """Other functions of the card lose their power with it; that the GPU itself is inaccessible `pcie.aer` tells."""
    driver, device, said = scan.device_message(text)
    of_card = driver.startswith("nvidia-") or (driver == "nvidia" and "inaccessible" not in said)
    if of_card and said.startswith(_POWER):
        return Decoded(NAME, "power_state_refused", device, {"driver_name": driver, "message": said[:200]})
    return None


FAMILY = Family(
    NAME,
    (_HEAD, "fallen off the bus", "GPU serial number is ", "A GPU crash dump", "NVRM: (PCI ID: ", *_POWER,
     "in this system is not supported"),
    parse,
    join,
)  # fmt: skip
