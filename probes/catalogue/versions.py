"""Which row of a code is meant: codes change their meaning with the driver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import structs

from .entry import Entry, from_row

_FREE = re.compile("RESERVED|UNUSED")
_VERSION = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}")


def parse(version: str) -> tuple[int, ...]:
    """Numbers of a driver version (`570.86.15`), () where there is none."""
    found = _VERSION.search(version[:64])
    return tuple(map(int, found[0].split("."))) if found else ()


def choose(rows: Sequence[Mapping[str, str]], driver: str) -> int:
    """Which of the rows, oldest first, holds for `driver`: their `since` is the first driver of each.

    The newest when the driver is not known; the oldest for a driver that is older still.
    """
    version = parse(driver)
    if not version:
        return len(rows) - 1
    return max((n for n, row in enumerate(rows) if parse(row["since"]) <= version), default=0)


def entry(rows: Sequence[Mapping[str, str]], driver: str) -> Entry:
    """The entry that holds for `driver`. Without one it is today's, and tells what the number meant before."""
    index = choose(rows, driver)
    chosen = from_row(rows[index])
    others = [row for row in rows[:index] if row["meaning"] != chosen.meaning and not _FREE.search(row["mnemonic"])]
    if parse(driver) or not others:
        return chosen
    before = f"(The driver is not known. Before {rows[index]['since']} this number meant: {others[0]['meaning']})"
    return structs.replace(chosen, meaning=f"{chosen.meaning} {before}")
