"""What a decoded fault means: the catalogue's entry for its family, code, driver and details."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache

from msgspec import structs

from ..decode.family import Decoded
from . import ascend, nvidia, tables, versions
from .entry import Entry, from_row
from .scale import worst_severity

__all__ = ["FAMILIES", "Entry", "codes", "look_up", "place"]

FAMILIES = (
    "nvidia.xid", "nvidia.sxid", "nvidia.fallen", "nvidia.init_assert", *ascend.FAMILIES, "pcie.aer",
    "cpu.memory.mce_edac", "mm.oom", "sched.hang", "storage", "nic", "kernel.fault", "other_vendor",
)  # fmt: skip
_INFORMING = frozenset({"nvidia.identity"})
_NUMBERED = {"nvidia.xid": "xid", "nvidia.sxid": "sxid", "pcie.aer": "aer"}
_NVLINK5_DRIVER = "560.35.03"
_SHORT = 80


def look_up(decoded: Decoded, driver: str = "") -> Entry | None:
    """The entry for what was decoded, None where it only informs. Never raises.

    A code that is not in the catalogue has an entry that says so, as severe as its family asks for.
    """
    family, code = decoded.family, decoded.code
    if not code or family in _INFORMING:
        return None
    if family in ascend.FAMILIES:
        return ascend.entry(code[:_SHORT], decoded.fields)
    # Only drivers that know NVLink 5 print its registers.
    least = driver or (_NVLINK5_DRIVER if "intrinfo" in decoded.fields else "")
    entry = _plain(family[:_SHORT], code[:_SHORT], least[:_SHORT])
    if family == "nvidia.xid":
        return nvidia.of_xid(entry, code, decoded.fields, driver)
    if family == "nvidia.sxid":
        return nvidia.of_sxid(entry, decoded.fields)
    if family == "cpu.memory.mce_edac":
        return _of_class(entry, str(decoded.fields.get("mca_class", ""))[:_SHORT])
    return _as_severe_as_told(entry, decoded) if family == "pcie.aer" else entry


def place(family: str, code: str) -> tuple[str, str]:
    """Table and key of a code: numbered families have tables of their own, all network cards have one family."""
    table = _NUMBERED.get(family)
    if table:
        return table, code
    return "host_faults", f"{'nic' if family.startswith('nic.') else family}:{code}"


@lru_cache(maxsize=512)
def _plain(family: str, code: str, driver: str) -> Entry:
    table, key = place(family, code)
    found = tables.rows(table, key)
    if not found:
        return _unknown(family, code)
    return versions.entry(found, driver) if "since" in found[0] else from_row(found[0])


def _unknown(family: str, code: str) -> Entry:
    """The rule of the family, or of all, for a code that has no row."""
    entry = _rules().get(family) or _rules()["any"]
    told = f"{family} {code!r} is not in the catalogue. {entry.meaning}"
    return structs.replace(entry, meaning=told, known=False)


@cache
def _rules() -> dict[str, Entry]:
    return {row["family"]: from_row(row) for row in tables.every_row("unknown")}


def _of_class(entry: Entry, name: str) -> Entry:
    """A machine check says by its class which part of the processor it comes from."""
    found = tables.rows("mce", name)
    if not found:
        return entry
    row = found[0]
    meaning, check = f"{entry.meaning} {row['meaning']}", f"{row['check']} {entry.check}"
    return structs.replace(entry, meaning=meaning, check=check, subcode=name)


def _as_severe_as_told(entry: Entry, decoded: Decoded) -> Entry:
    """The report itself says whether an uncorrectable error was fatal to the link."""
    told = decoded.fields.get("severity")
    if told == "fatal":
        return structs.replace(entry, severity=worst_severity((entry.severity, "fatal")))
    return structs.replace(entry, severity="error") if told == "nonfatal" and entry.severity == "fatal" else entry


def codes(family: str) -> Iterator[tuple[str, str]]:
    """Each code of a family with its mnemonic, in the order of the table; of Ascend's events without one."""
    table = "ascend_codes" if family == ascend.EVENTS else place(family, "")[0]
    if table == "host_faults":
        start = place("ascend" if family in ascend.FAMILIES else family, "")[1]
        yield from (
            (row["key"].removeprefix(start), row["mnemonic"])
            for row in tables.every_row(table)
            if row["key"].startswith(start)
        )
    else:
        newest = {row["code"]: row.get("mnemonic", row.get("bucket", "")) for row in tables.every_row(table)}
        yield from newest.items()
