"""Disks, file systems, arrays and network file systems."""

from __future__ import annotations

from msgspec import structs

from . import scan
from .family import Decoded, Family
from .shape import by_shapes, first_of, triggers_of

_NAME = "storage"
_BLOCK_CODES = {
    "critical medium": "block_medium_error", "timeout": "block_timeout", "critical space allocation": "block_no_space",
    "critical nexus": "block_reservation_conflict", "reservation conflict": "block_reservation_conflict",
    "protection": "block_protection_error", "device offline": "block_offline",
}  # fmt: skip
_BLOCK_KINDS = frozenset({*_BLOCK_CODES, "I/O", "critical target", "recoverable transport", "operation not supported",
                          "zone resource", "kernel resource", "device resource", "nonblocking retry",
                          "dm internal retry", "open zones exceeded", "active zones exceeded",
                          "duration limit exceeded", "invalid", "invalid argument", "bad block"})  # fmt: skip
_SENSE_CODES = {"Medium Error": "scsi_medium_error", "Hardware Error": "scsi_hardware_error",
                "Aborted Command": "scsi_error", "Not Ready": "scsi_not_ready",
                "Data Protect": "scsi_error"}  # fmt: skip


def _block_error(text: str) -> Decoded | None:
    """`critical medium error, dev sdb, sector 52428288 op 0x0:(READ) …`; behind the function's name before 5.16."""
    head, mark, rest = text.partition(" error, dev ")
    kind = head.rpartition(": ")[2]
    disk, comma, place = rest.partition(", sector ")
    sector = scan.integer(place)
    if not mark or not comma or kind not in _BLOCK_KINDS or sector is None or not disk or " " in disk:
        return None
    fields = scan.known(
        disk=disk[:64], sector=sector, error=kind, operation=scan.between(place, ":(", ")")[:32],
        flags=scan.hexadecimal_after(place, "flags "),
    )  # fmt: skip
    return Decoded(_NAME, _BLOCK_CODES.get(kind, "block_io_error"), "", fields)


def _scsi(text: str) -> Decoded | None:
    """`sd 0:0:0:0: [sda] tag#12 Sense Key : Medium Error [current]`, `Add. Sense: …`, `FAILED Result: …`."""
    address, _, rest = text.removeprefix("sd ").partition(": [")
    disk, closed, said = rest.partition("] ")
    if not text.startswith("sd ") or not closed or address.count(":") != 3 or " " in address:
        return None
    tag = scan.integer_after(said, "tag#")
    said = said.partition(" ")[2].lstrip() if said.startswith("tag#") else said.lstrip()
    told = _scsi_told(said)
    if told is None:
        return None
    fields = {**scan.known(scsi_address=address, disk=disk[:32], tag=tag), **told}
    return Decoded(_NAME, _SENSE_CODES.get(str(told.get("sense_key", "")), ""), "", fields, incomplete=True)


def _scsi_told(said: str) -> dict[str, object] | None:
    if said.startswith("Sense Key : "):
        return {"sense_key": said.removeprefix("Sense Key : ").partition(" [")[0].strip()[:64]}
    if said.startswith("Add. Sense: "):
        return {"additional_sense": said.removeprefix("Add. Sense: ").strip()[:120]}
    if "Result: hostbyte=" in said:
        return scan.known(
            host_byte=scan.word_after(said, "hostbyte="), driver_byte=scan.word_after(said, "driverbyte=")
        )
    return {"command": said.removeprefix("CDB: ")[:120]} if said.startswith("CDB: ") else None


parse = first_of(_block_error, _scsi, by_shapes(_NAME))


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """What one command of a SCSI disk ended with. With the block layer's line comes the sector, and the end."""
    old, new = earlier.fields, later.fields
    if not earlier.incomplete or "disk" not in old or old["disk"] != new.get("disk"):
        return None
    if "sector" in new:
        code = earlier.code or later.code
        return structs.replace(later, code=code, fields={**old, **new})
    if (
        not later.incomplete
        or old.get("tag") != new.get("tag")
        or set(new) & set(old) > {"scsi_address", "disk", "tag"}
    ):
        return None
    return structs.replace(later, code=earlier.code or later.code, fields={**old, **new})


FAMILY = Family(
    _NAME,
    (" error, dev ", "Sense Key : ", "Add. Sense: ", "Result: hostbyte=", "CDB: ", *triggers_of(_NAME)),
    parse,
    join,
)
