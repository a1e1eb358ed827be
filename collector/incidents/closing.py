"""Which incidents end, and by what: another fault, silence, a reboot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ...probes.model import Fault
from .places import Places
from .record import Record, Told
from .roles import is_same_device
from .rules import Clear, Rules


class Closing:
    """The rules that end incidents; it only says which, and why."""

    def __init__(self, rules: Rules, places: Places) -> None:
        self._rules = rules
        self._places = places
        self._by_code = lru_cache(maxsize=1024)(
            lambda family, code: tuple(rule for rule in rules.clears if rule.by.match(family, code)),
        )

    def by_fault(self, told: Told, records: Mapping[str, Record]) -> list[tuple[Record, str]]:
        fault = told.fault
        rules = [rule for rule in self._by_code(fault.family, fault.code) if _applies(rule, fault)]
        if not rules:
            return []
        return [
            (record, rule.name)
            for record in records.values()
            if (rule := next((one for one in rules if self._ends(one, record, told)), None))
        ]

    def by_silence(self, record: Record, silent_ns: int, boot_id: str) -> str:
        """Why a silent incident ends, "" when it does not."""
        if record.sticky:
            return ""
        if record.boot_id != boot_id and record.action in self._rules.boot.actions:
            ends = silent_ns >= self._rules.boot.quiet
            return f"reboot, and silence for {_words(self._rules.boot.quiet)}" if ends else ""
        if any(part.begun and not part.recovered for part in record.parts if part.role == "cause"):
            return ""
        for rule in self._rules.quiet:
            if record.action in rule.actions and record.severity in rule.severities:
                return f"silence for {_words(rule.after)}" if silent_ns >= rule.after else ""
        return ""

    def ends_with_boot(self, record: Record) -> bool:
        primary = record.primary
        return self._rules.boot.ends.match(primary.family, primary.code) and not record.sticky

    def _ends(self, rule: Clear, record: Record, told: Told) -> bool:
        primary = record.primary
        if record.sticky or primary.last_ns > told.fault.at_ns or (rule.actions and record.action not in rule.actions):
            return False
        if not rule.clears.match(primary.family, primary.code):
            return False
        if rule.scope == "link":
            return self._places.are_on_one_link(primary.place, told.place)
        return rule.scope == "node" or is_same_device(primary.place, told.place)


def _applies(rule: Clear, fault: Fault) -> bool:
    return all(fault.fields.get(name) == value for name, value in rule.when.items())


def _words(duration_ns: int) -> str:
    minutes = duration_ns // 60_000_000_000
    return f"{minutes // 60} h" if minutes >= 60 and minutes % 60 == 0 else f"{minutes} min"
