"""The rules of incidents, read from rules.yaml; a mistake in it is found when it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...native.errors import UsageError
from ...probes.catalogue.tables import every_row
from ...probes.model import Action, Severity
from .selectors import Codes

Scope = Literal["device", "link", "peer", "process", "node"]
Relates = Literal["victim", "precursor", "verdict", "same"]

# Tellings of one code that are nearer to each other are one occasion.
APART_NS = 1_000_000_000

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h)")


class Nanoseconds(int):
    """A duration, written as `2s` in the file."""


class Relation(Struct, frozen=True, forbid_unknown_fields=True):
    """`effect` belongs to `cause` when it is told up to `window` after it, or `lead` before it."""

    name: str
    cause: Codes
    effect: Codes
    role: Relates
    scope: Scope
    window: Nanoseconds
    lead: Nanoseconds
    named: bool = False


class CatalogueRule(Struct, frozen=True, forbid_unknown_fields=True):
    window: Nanoseconds
    lead: Nanoseconds
    scope: Scope


class Clear(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault `by` with the fields of `when` ends incidents whose cause is one of `clears`."""

    name: str
    by: Codes
    clears: Codes
    scope: Scope
    when: dict[str, Any] = {}
    actions: tuple[Action, ...] = ()


class Quiet(Struct, frozen=True, forbid_unknown_fields=True):
    actions: tuple[Action, ...]
    severities: tuple[Severity, ...]
    after: Nanoseconds


class Boot(Struct, frozen=True, forbid_unknown_fields=True):
    ends: Codes
    actions: tuple[Action, ...]
    quiet: Nanoseconds


class Raise(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a rule makes of an incident; a sticky one ends only by the operator."""

    name: str
    of: Codes
    action: Action
    severity: Severity | None = None
    sticky: bool = False


class Escalation(Raise, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`times` occasions within `within`, `apart` from each other, raise the action."""

    times: int
    within: Nanoseconds
    apart: Nanoseconds = Nanoseconds(0)
    same: tuple[str, ...] = ()
    needs_same: bool = False


class Together(Raise, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of `of` and one of `other` in one incident."""

    other: Codes


class Lasting(Raise, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Not over `after` it began."""

    after: Nanoseconds


class Merge(Struct, frozen=True, forbid_unknown_fields=True):
    window: Nanoseconds


class Reopen(Struct, frozen=True, forbid_unknown_fields=True):
    within: Nanoseconds


class Reset(Struct, frozen=True, forbid_unknown_fields=True):
    actions: tuple[Action, ...]


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """All of rules.yaml."""

    merge: Merge
    reopen: Reopen
    catalogue: CatalogueRule
    relations: tuple[Relation, ...]
    primary: tuple[Codes, ...]
    clears: tuple[Clear, ...]
    reset: Reset
    quiet: tuple[Quiet, ...]
    boot: Boot
    escalations: tuple[Escalation, ...]
    together: tuple[Together, ...]
    lasting: tuple[Lasting, ...]
    vendor_tables: tuple[str, ...] = ()

    @property
    def shortest_quiet_ns(self) -> int:
        """Nothing ends by a silence that is shorter."""
        return min([self.boot.quiet, *(one.after for one in self.quiet)])

    @property
    def longest_ns(self) -> int:
        """Nothing that was told longer ago is related to what is told now."""
        times = [time for one in self.relations for time in (one.window, one.lead)]
        return max([*times, self.catalogue.window, self.catalogue.lead])


def load(text: str | None = None) -> Rules:
    """The product's own rules, or those of `text`. Raises UsageError naming what is wrong."""
    # Costs 2 ms and 1 MB, which only an agent pays.
    import yaml

    if text is None:
        text = resources.files(__package__).joinpath("rules.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(text, Loader=loader)  # noqa: S506 - the safe one, in C where there is one
        rules = msgspec.convert(content, Rules, dec_hook=_convert)
        return _with_vendor_rules(rules)
    except (msgspec.ValidationError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"rules of incidents: {error}") from None


def _with_vendor_rules(rules: Rules) -> Rules:
    rows = [row for table in rules.vendor_tables for row in every_row(table)]
    of_kind = {kind: [row for row in rows if row["rule"] == kind] for kind in ("repeated", "together", "lasting")}
    return replace(
        rules,
        relations=(*rules.relations, *map(_relation, of_kind["together"])),
        escalations=(*rules.escalations, *map(_escalation, of_kind["repeated"])),
        together=(*rules.together, *map(_together, of_kind["together"])),
        lasting=(*rules.lasting, *map(_lasting, of_kind["lasting"])),
    )


def _raise(row: Mapping[str, str], name: str) -> dict[str, Any]:
    sticky = row["bucket"].startswith("Manually")
    return {"name": name, "of": _codes(row["code"]), "action": row["action"], "sticky": sticky, "severity": "error"}


def _escalation(row: Mapping[str, str]) -> Escalation:
    hours = int(row["window_s"]) // 3600
    name = f"{row['times']} times in {hours} h: {row['bucket']}"
    within = Nanoseconds(int(row["window_s"]) * 10**9)
    return Escalation(**_raise(row, name), times=int(row["times"]), within=within, apart=Nanoseconds(APART_NS))


def _together(row: Mapping[str, str]) -> Together:
    return Together(**_raise(row, f"together with {row['other']}: {row['bucket']}"), other=_codes(row["other"]))


def _lasting(row: Mapping[str, str]) -> Lasting:
    return Lasting(**_raise(row, row["bucket"]), after=Nanoseconds(int(row["window_s"]) * 10**9))


def _relation(row: Mapping[str, str]) -> Relation:
    window = Nanoseconds(int(row["window_s"]) * 10**9)
    scope: Scope = "node" if ":" in row["other"] else "device"
    return Relation(
        name=f"{row['other']} and {row['code']}",
        cause=_codes(row["other"]),
        effect=_codes(row["code"]),
        role="victim",
        scope=scope,
        window=window,
        lead=window,
    )


def _codes(code: str) -> Codes:
    """Keys of a switch, which the catalogue writes with colons, are told as `[0x08520003,na,L2,na]`."""
    told = f"[{code.replace(':', ',')}]" if ":" in code else code
    return Codes(f"ascend.* {code} {told}")


def _convert(kind: type, raw: Any) -> Any:
    if kind is Codes:
        return Codes(raw)
    if kind is Nanoseconds:
        return duration_ns(raw)
    raise NotImplementedError(kind.__name__)


def duration_ns(raw: object) -> Nanoseconds:
    """`10m` in nanoseconds. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(str(raw))
    if found is None:
        raise ValueError(f"{raw!r} is no duration such as 500ms, 2s, 10m or 24h")
    return Nanoseconds(int(found[1]) * _UNITS_NS[found[2]])
