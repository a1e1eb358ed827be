"""The names of PCIe AER's status bits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from msgspec import Struct

Severity = Literal["correctable", "uncorrectable"]


class Bit(Struct, frozen=True):
    """`name` as Linux prints it and sysfs counts it; the bit of highest `rank` is the one to act on."""

    severity: str
    bit: int
    name: str
    rank: int


def _read(path: Path) -> list[tuple[Bit, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [(Bit(row["severity"], int(row["bit"]), row["name"], int(row["rank"])), row["old"]) for row in rows]


_ROWS = _read(Path(__file__).with_name("aer_bits.csv"))
BITS = {bit.name: bit for bit, _ in _ROWS}
_BY_PRINTED = {**{old: bit for bit, old in _ROWS if old}, **BITS}


def by_printed_name(name: str) -> Bit | None:
    """The bit that the kernel calls `name`, today or before Linux 5.2."""
    return _BY_PRINTED.get(name)


def bits_of(status: int, severity: Severity) -> list[str]:
    """The names of the bits that are set, lowest first."""
    return [bit.name for bit in BITS.values() if bit.severity == severity and status >> bit.bit & 1]


def most_severe(names: list[str]) -> str:
    """The name to act on; "" of none. The lowest bit of those with the same rank."""
    return max(names, key=lambda name: BITS[name].rank, default="")
