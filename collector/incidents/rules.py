"""The rules of incidents, read from rules.yaml; a mistake in it is found when it is read."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...native.errors import UsageError
from ...probes.model import Action, Severity
from .selectors import Codes

Scope = Literal["device", "link", "peer", "process", "node"]
Relates = Literal["victim", "precursor", "verdict", "same"]

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


class Escalation(Struct, frozen=True, forbid_unknown_fields=True):
    """`times` occasions within `within`, `apart` from each other, raise the action."""

    name: str
    of: Codes
    times: int
    within: Nanoseconds
    action: Action
    apart: Nanoseconds = Nanoseconds(0)
    same: tuple[str, ...] = ()
    needs_same: bool = False
    sticky: bool = False
    severity: Severity | None = None


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
        return msgspec.convert(content, Rules, dec_hook=_convert)
    except (msgspec.ValidationError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"rules of incidents: {error}") from None


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
