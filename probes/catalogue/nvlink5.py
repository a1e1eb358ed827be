"""Xids 144 to 150: which rules the registers in the line match. Drivers before R575 number the units otherwise.

The first register (intrinfo) names the unit and, in bits 25 to 20, why a link went down; the second is the unit's
error status: one bit per error, except for bit-error and firmware events, whose status is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from msgspec import Struct

from . import tables, versions
from .scale import worst_action, worst_severity

_R575 = (575,)
_NUMBERED = frozenset({"NETIR_BER_EVENT", "NETIR_MFDE_EVENT"})
XIDS = frozenset({"144", "145", "146", "147", "148", "149", "150"})


class _Pattern(Struct, frozen=True):
    mask: int
    value: int

    def matches(self, register: int) -> bool:
        return register & self.mask == self.value


class _Rule(Struct, frozen=True):
    """`patterns` and `reset_patterns` are for drivers before R575 and since."""

    unit: str
    patterns: tuple[_Pattern, _Pattern]
    reset_patterns: tuple[_Pattern | None, _Pattern | None]
    status: tuple[int, ...]
    row: dict[str, str]


class Match(Struct, frozen=True):
    """What the rules say; `note` tells where they are not clear. `unit` is "" when none of them fits."""

    unit: str = ""
    severity: str = ""
    action: str = ""
    bucket: str = ""
    meaning: str = ""
    check: str = ""
    victims: tuple[str, ...] = ()
    note: str = ""


def match(xid: str, intrinfo: int, status: int, *, unit: str = "", driver: str = "") -> Match:
    """The worst of the rules that fit. Without a known driver both layouts are tried; no register fits both."""
    version = versions.parse(driver)
    layouts = (int(version >= _R575),) if version else (0, 1)
    found = _fitting(xid, layouts, intrinfo, status)
    named = [one for one in found if not unit or _same_unit(one[1].unit, unit)]
    if named:
        return _merged(named, intrinfo, "")
    if found:
        return _merged(found, intrinfo, f"The line names the unit {unit[:40]}, its registers another one.")
    return _by_the_other_layout(xid, intrinfo, status, unit, layouts)


def _by_the_other_layout(xid: str, intrinfo: int, status: int, unit: str, layouts: tuple[int, ...]) -> Match:
    """The version of the driver may be wrong, where the unit that the line names says so."""
    others = tuple({0, 1}.difference(layouts))
    named = [one for one in _fitting(xid, others, intrinfo, status) if unit and _same_unit(one[1].unit, unit)]
    if not named:
        return Match(note="None of the known rules fits these registers.")
    which = "R575 or later" if others == (1,) else "before R575"
    return _merged(named, intrinfo, f"Registers and unit fit a driver {which} only, which the known version is not.")


def _fitting(xid: str, layouts: tuple[int, ...], intrinfo: int, status: int) -> list[tuple[int, _Rule]]:
    return [(layout, rule) for layout in layouts for rule in _rules(xid) if _fits(rule, layout, intrinfo, status)]


def _fits(rule: _Rule, layout: int, intrinfo: int, status: int) -> bool:
    if not rule.patterns[layout].matches(intrinfo) and not _asks_for_reset(rule, layout, intrinfo):
        return False
    if not rule.status or status in rule.status:
        return True
    return rule.unit not in _NUMBERED and any(status & bit for bit in rule.status)


def _asks_for_reset(rule: _Rule, layout: int, intrinfo: int) -> bool:
    pattern = rule.reset_patterns[layout]
    return pattern is not None and pattern.matches(intrinfo)


def _same_unit(known: str, printed: str) -> bool:
    """`NETIR_LINK_EVT/NETIR_LINK_DOWN` is printed in full or by one of its parts."""
    known, printed = known.upper(), printed.upper()
    return printed == known or bool(set(known.split("/")) & set(printed.split("/"))) or known.startswith(f"{printed}_")


def _merged(found: list[tuple[int, _Rule]], intrinfo: int, note: str) -> Match:
    rows = [
        (rule, rule.row | {"action": "reset_device", "severity": "fatal", "bucket": rule.row["reset_bucket"]})
        if _asks_for_reset(rule, layout, intrinfo)
        else (rule, rule.row)
        for layout, rule in found
    ]
    action = worst_action(row["action"] for _, row in rows)
    rule, row = next((rule, row) for rule, row in rows if row["action"] == action)
    return Match(
        unit=rule.unit,
        severity=worst_severity(row["severity"] for _, row in rows),
        action=action,
        bucket=row["bucket"],
        meaning=_joined(row["meaning"] for _, row in rows),
        check=_joined(row["check"] for _, row in rows),
        victims=tuple(dict.fromkeys(code for _, row in rows for code in row["victims"].split())),
        note=note,
    )


def _joined(texts: Iterator[str]) -> str:
    return " ".join(dict.fromkeys(texts))


@cache
def _rules(xid: str) -> tuple[_Rule, ...]:
    return tuple(map(_rule, tables.rows("xid_nvlink5", xid)))


def _rule(row: dict[str, str]) -> _Rule:
    return _Rule(
        unit=row["unit"],
        patterns=(_pattern(row["pattern_v1"]), _pattern(row["pattern_v2"])),
        reset_patterns=(_optional(row["reset_pattern_v1"]), _optional(row["reset_pattern_v2"])),
        status=tuple(int(one, 16) for one in row["error_status"].split("/") if one),
        row=row,
    )


def _optional(text: str) -> _Pattern | None:
    return _pattern(text) if text else None


def _pattern(text: str) -> _Pattern:
    """Of 32 characters, the highest bit first; a dash is any bit."""
    return _Pattern(int("".join("0" if c == "-" else "1" for c in text), 2), int(text.replace("-", "0"), 2))
