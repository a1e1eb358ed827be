"""An entry of the catalogue, and how the row of a table becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from msgspec import Struct

from ..model import Action, Severity


class Entry(Struct, frozen=True):
    """What one code means. `cause` says in words what usually lies behind it.

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


def from_row(row: Mapping[str, str]) -> Entry:
    return Entry(
        mnemonic=row["mnemonic"],
        severity=cast(Severity, row["severity"]),
        action=cast(Action, row["action"]),
        bucket=row["bucket"],
        meaning=row["meaning"],
        check=row["check"],
        cause=row["cause"],
        caused_by=tuple(row["caused_by"].split()),
        victims=tuple(row["victims"].split()),
        source=row["source"],
        dated=row["dated"],
    )
