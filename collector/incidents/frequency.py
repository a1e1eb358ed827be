"""Faults that come too often: how many occasions in how long, by rule, device and details."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from ...probes.model import Fault
from .rules import Escalation

MAX_KEYS = 4096


class Occasions(Struct):
    """Wall-clock times of the last occasions, oldest first."""

    rule: str
    entity: str
    code: str
    same: tuple[str, ...]
    times_ns: list[int] = []


class Frequency:
    """Counts occasions; knows at most MAX_KEYS places at once, the oldest give way."""

    def __init__(self, rules: tuple[Escalation, ...]) -> None:
        self._of_code = lru_cache(maxsize=1024)(
            lambda family, code: tuple(rule for rule in rules if rule.of.match(family, code)),
        )
        self._occasions: OrderedDict[tuple[str, str, str, tuple[str, ...]], Occasions] = OrderedDict()

    def note(self, entity: str, fault: Fault, wall_ns: int) -> list[Escalation]:
        """The rules that hold from this fault on, also those that held before."""
        return [rule for rule in self._concerned(fault) if self._held(rule, entity, fault, wall_ns)]

    def export(self) -> tuple[Occasions, ...]:
        return tuple(self._occasions.values())

    def restore(self, occasions: tuple[Occasions, ...]) -> None:
        for one in occasions:
            self._occasions[one.rule, one.entity, one.code, one.same] = one

    def rename(self, before: str, after: str) -> None:
        for one in [one for one in self._occasions.values() if one.entity == before]:
            del self._occasions[one.rule, before, one.code, one.same]
            one.entity = after
            self._occasions[one.rule, after, one.code, one.same] = one

    def _concerned(self, fault: Fault) -> Iterator[Escalation]:
        for rule in self._of_code(fault.family, fault.code):
            if not rule.needs_same or all(name in fault.fields for name in rule.same):
                yield rule

    def _held(self, rule: Escalation, entity: str, fault: Fault, wall_ns: int) -> bool:
        same = tuple(str(fault.fields.get(name, ""))[:64] for name in rule.same)
        key = (rule.name, entity, fault.code, same)
        found = self._occasions.get(key)
        if found is None:
            found = self._occasions[key] = Occasions(rule.name, entity, fault.code, same)
            if len(self._occasions) > MAX_KEYS:
                self._occasions.popitem(last=False)
        self._occasions.move_to_end(key)
        times = found.times_ns
        if not times or abs(wall_ns - times[-1]) >= rule.apart:
            times.append(wall_ns)
            del times[: -rule.times]
        return len(times) >= rule.times and times[-1] - times[0] <= rule.within
