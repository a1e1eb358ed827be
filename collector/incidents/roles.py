"""Which of the codes of an incident is the cause: by the rules, by what the driver names, by the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from ...probes.catalogue.lookup import look_up
from ...probes.decode.family import Decoded
from .places import Place, Places
from .record import SEVERITIES, Part, Record, Role
from .rules import Relates, Rules, Scope

SAME_NS = 2_000_000_000
# How far a relation reaches; what the driver names itself is as good as the same device.
BREADTH: dict[Scope, int] = {"device": 0, "process": 0, "link": 1, "peer": 2, "node": 3}
UNEXPLAINED = 4


class _Tie(Struct, frozen=True):
    """How a cause and an effect may belong together; a relation without the codes that it is about."""

    role: Relates
    scope: Scope
    window_ns: int
    lead_ns: int
    named: bool = False

    @property
    def breadth(self) -> int:
        return 0 if self.named else BREADTH[self.scope]


class _Code(Struct, frozen=True, eq=False):
    """What the rules and the catalogue say of one code: bit n of a mask is relation n."""

    name: str
    as_cause: int
    as_effect: int
    victims: frozenset[str]
    causes: frozenset[str]

    def may_cause(self, other: _Code, relations: int) -> bool:
        """Whether one of `relations`, a mask, or the catalogue ties them."""
        by_rule = bool(self.as_cause & other.as_effect & relations)
        return by_rule or other.name in self.victims or self.name in other.causes


class Roles:
    """Relations between parts. The ties between two codes are worked out once."""

    def __init__(self, rules: Rules, places: Places) -> None:
        self._rules = rules
        self._places = places
        self._every = (1 << len(rules.relations)) - 1
        self._unnamed = sum(1 << at for at, rule in enumerate(rules.relations) if not rule.named)
        self._ties = lru_cache(maxsize=4096)(self._find_ties)
        self._code = lru_cache(maxsize=4096)(self._find_code)

    def related(self, part: Part, told: Iterable[tuple[Record, Part]]) -> dict[str, Record]:
        """The incidents, by id, of those `told` that belong together with `part`.

        A victim belongs to the nearest cause: what its own device explains ties it to nothing else on the node.
        """
        found: dict[str, Record] = {}
        explaining: list[tuple[int, Record]] = []
        mine = self._code(part.family, part.code)
        every, unnamed = self._every, self._unnamed
        for record, other in told:
            theirs = self._code(other.family, other.code)
            may_follow = mine.may_cause(theirs, every if other.named else unnamed)
            may_precede = theirs.may_cause(mine, every if part.named else unnamed)
            is_same = mine.name == theirs.name and _goes_on(part, other)
            if not (may_follow or may_precede or is_same) or record.id in found:
                continue
            if is_same:
                explaining.append((0, record))
            if may_follow and (tie := self._tie(part, other)) and self._reaches(tie, other, record):
                found[record.id] = record
            elif may_precede and (tie := self._tie(other, part)):
                explaining.append((tie.breadth if tie.role == "victim" else 0, record))
        nearest = min((breadth for breadth, _ in explaining), default=0)
        return found | {record.id: record for breadth, record in explaining if breadth == nearest}

    def assign(self, parts: list[Part]) -> None:
        """Gives every part its role and puts the one that names the incident first; the order told is no matter."""
        effects = {id(effect): self._role(effect, parts) for effect in parts}
        for part in parts:
            part.role = effects[id(part)]
        if not any(part.role == "cause" for part in parts):
            min(parts, key=self._rank).role = "cause"
        parts.sort(key=lambda part: (part.role != "cause", *self._rank(part)))

    def _role(self, effect: Part, parts: list[Part]) -> Role:
        found = {tie.role for cause in parts if cause is not effect and (tie := self._tie(cause, effect))}
        strongest: tuple[Role, ...] = ("verdict", "precursor", "victim")
        return next((role for role in strongest if role in found), "cause")

    def _reaches(self, tie: _Tie, effect: Part, record: Record) -> bool:
        """Whether a new cause takes `effect` with its incident: not where that has a nearer cause already."""
        if tie.role != "victim" or effect.role != "victim":
            return True
        ties = (self._tie(part, effect) for part in record.parts if part is not effect)
        return tie.breadth <= min((one.breadth for one in ties if one), default=UNEXPLAINED)

    def _tie(self, cause: Part, effect: Part) -> _Tie | None:
        one, other = self._code(cause.family, cause.code), self._code(effect.family, effect.code)
        if not one.may_cause(other, self._every if effect.named else self._unnamed):
            return None
        for tie in self._ties(one, other):
            if tie.named and (cause.code not in effect.named or effect.key == cause.key):
                continue
            if _in_time(tie, cause, effect) and self._in_place(tie.scope, cause, effect):
                return tie
        return None

    def _in_place(self, scope: Scope, one: Part, other: Part) -> bool:
        here, there = one.place, other.place
        if scope == "node":
            return True
        if scope == "process":
            return not set(one.pids).isdisjoint(other.pids)
        if scope == "link":
            return self._places.are_on_one_link(here, there)
        if scope == "peer":
            return here.entity != there.entity and self._places.are_peers(here, there)
        return is_same_device(here, there)

    def _find_ties(self, cause: _Code, effect: _Code) -> tuple[_Tie, ...]:
        """The rules of two codes; the catalogue is asked only about codes of which no rule says how they are tied."""
        ties = self._ruled(cause, effect)
        ruled = any(not tie.named for tie in (*ties, *self._ruled(effect, cause)))
        listed = effect.name in cause.victims or cause.name in effect.causes
        if ruled or not listed or cause.name == effect.name:
            return ties
        rule = self._rules.catalogue
        scope: Scope = "link" if "pcie.aer:" in cause.name + effect.name else rule.scope
        return (*ties, _Tie("victim", scope, rule.window, rule.lead))

    def _ruled(self, cause: _Code, effect: _Code) -> tuple[_Tie, ...]:
        both = cause.as_cause & effect.as_effect
        return tuple(
            _Tie(rule.role, rule.scope, rule.window, rule.lead, rule.named)
            for at, rule in enumerate(self._rules.relations)
            if both >> at & 1
        )

    def _find_code(self, family: str, code: str) -> _Code:
        entry = look_up(Decoded(family=family, code=code))
        known = entry is not None and entry.known
        rules = self._rules.relations
        return _Code(
            name=f"{family}:{code}",
            as_cause=sum(1 << at for at, rule in enumerate(rules) if rule.cause.match(family, code)),
            as_effect=sum(1 << at for at, rule in enumerate(rules) if rule.effect.match(family, code)),
            victims=frozenset(entry.victims) if entry is not None and known else frozenset(),
            causes=frozenset(entry.caused_by) if entry is not None and known else frozenset(),
        )

    def _rank(self, part: Part) -> tuple[int, int, int, int, str, str]:
        named = next((at for at, one in enumerate(self._rules.primary) if one.match(part.family, part.code)), 1 << 20)
        worst = -SEVERITIES.index(part.severity)
        return (named, part.recovered, worst, part.first_ns, part.family, f"{part.code} {part.place.entity}")


def is_same_device(one: Place, other: Place) -> bool:
    return one.entity == other.entity or (bool(one.address) and one.slot == other.slot)


def _goes_on(part: Part, other: Part) -> bool:
    """Whether a code is told again of the same device, soon enough to be of the same episode in any role."""
    close = other.first_ns - SAME_NS <= part.first_ns <= other.last_ns + SAME_NS
    return close and part.place.entity == other.place.entity


def _in_time(tie: _Tie, cause: Part, effect: Part) -> bool:
    return effect.first_ns <= cause.last_ns + tie.window_ns and effect.last_ns >= cause.first_ns - tie.lead_ns
