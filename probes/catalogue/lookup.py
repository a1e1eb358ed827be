"""What a decoded fault means: the catalogue's entry for its family, code, driver and details."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast, get_args

from msgspec import Struct, structs

from ..decode.family import Decoded
from ..model import Action, Severity
from . import tables, versions

_ACTIONS: tuple[str, ...] = get_args(Action)
_SEVERITIES: tuple[str, ...] = get_args(Severity)
_INFORMING = frozenset({"nvidia.identity"})


class Entry(Struct, frozen=True):
    """One entry. `cause` says in words what usually lies behind it.

    `caused_by` are codes that usually come first and are the real fault, `victims` those that follow from this one,
    both as `family:code`. `bucket` is the vendor's word for the action. `dated` is the day of the source, YYYY-MM-DD
    or a shorter form of it. `known` is false for a code that the catalogue has not.
    """

    mnemonic: str
    severity: Severity
    action: Action
    bucket: str
    meaning: str
    check: str
    caused_by: tuple[str, ...]
    victims: tuple[str, ...]
    source: str
    dated: str
    cause: str = ""
    subcode: str = ""
    known: bool = True


def look_up(decoded: Decoded, driver: str = "") -> Entry | None:
    """The entry for what was decoded, None where it only informs. Never raises.

    A code that is not in the catalogue has an entry that says so, as severe as its family asks for.
    """
    if not decoded.code or decoded.family in _INFORMING:
        return None
    return _plain(decoded.family, decoded.code, driver)


@lru_cache(maxsize=512)
def _plain(family: str, code: str, driver: str) -> Entry:
    table, key = _place(family, code)
    found = tables.rows(table, key)
    if not found:
        return _unknown(family, code)
    index = versions.choose(found, driver)
    entry = _entry(found[index])
    if len(found) > 1 and not versions.parse(driver):
        note = (
            f"With an unknown driver read as {found[index]['since']} or later: this number meant something else before."
        )
        return structs.replace(entry, meaning=f"{entry.meaning} {note}")
    return entry


def _place(family: str, code: str) -> tuple[str, str]:
    """Table and key of a code: numbered families have tables of their own."""
    if family == "nvidia.xid":
        return "xid", code
    return "host_faults", f"{family}:{code}"


def _unknown(family: str, code: str) -> Entry:
    """The rule of the family, or of all, for a code that has no row."""
    entry = _entry((tables.rows("unknown", family) or tables.rows("unknown", "any"))[0])
    told = f"{family} {code[:40]!r} is not in the catalogue. {entry.meaning}"
    return structs.replace(entry, meaning=told.strip(), known=False)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        mnemonic=row["mnemonic"],
        severity=cast(Severity, row["severity"]),
        action=cast(Action, row["action"]),
        bucket=row.get("bucket", ""),
        meaning=row["meaning"],
        check=row["check"],
        cause=row.get("cause", ""),
        caused_by=tuple(row.get("caused_by", "").split()),
        victims=tuple(row.get("victims", "").split()),
        source=row["source"],
        dated=row["dated"],
    )
