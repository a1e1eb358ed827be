"""Which of the codes of an incident is the cause: by the rules, by what the driver names, by the catalogue."""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from ...probes.catalogue.lookup import look_up
from ...probes.decode.family import Decoded
from .places import Place, Places
from .record import SEVERITIES, Part, Role
from .rules import Relates, Rules, Scope


class _Tie(Struct, frozen=True):
    """How a cause and an effect may belong together; a relation without the codes that it is about."""

    role: Relates
    scope: Scope
    window_ns: int
    lead_ns: int
    named: bool = False


@lru_cache(maxsize=2048)
def catalogue_victims(family: str, code: str) -> frozenset[str]:
    """What usually follows from a code, as `family:code`."""
    entry = look_up(Decoded(family=family, code=code))
    return frozenset(entry.victims) if entry is not None and entry.known else frozenset()


@lru_cache(maxsize=2048)
def catalogue_causes(family: str, code: str) -> frozenset[str]:
    """What usually comes before a code, as `family:code`."""
    entry = look_up(Decoded(family=family, code=code))
    return frozenset(entry.caused_by) if entry is not None and entry.known else frozenset()


class Roles:
    """Relations between parts. The ties between two codes are worked out once."""

    def __init__(self, rules: Rules, places: Places) -> None:
        self._rules = rules
        self._places = places
        self._ties = lru_cache(maxsize=8192)(self._find_ties)

    def belong_together(self, one: Part, other: Part) -> bool:
        return self._tie(one, other) is not None or self._tie(other, one) is not None

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

    def _tie(self, cause: Part, effect: Part) -> _Tie | None:
        for tie in self._ties(cause.family, cause.code, effect.family, effect.code):
            if tie.named and (effect.named != cause.code or effect.key == cause.key):
                continue
            if _in_time(tie, cause, effect) and self._in_place(tie.scope, cause, effect):
                return tie
        return None

    def _in_place(self, scope: Scope, one: Part, other: Part) -> bool:
        here, there = one.place, other.place
        if scope == "node":
            return True
        if scope == "process":
            return one.pid > 0 and one.pid == other.pid
        if scope == "link":
            return self._places.are_on_one_link(here, there)
        if scope == "peer":
            return here.entity != there.entity and self._places.are_peers(here, there)
        return is_same_device(here, there)

    def _find_ties(self, family: str, code: str, effect_family: str, effect_code: str) -> tuple[_Tie, ...]:
        ties = self._ruled(family, code, effect_family, effect_code)
        back = self._ruled(effect_family, effect_code, family, code)
        if any(not tie.named for tie in (*ties, *back)):
            return ties
        listed = f"{effect_family}:{effect_code}" in catalogue_victims(family, code)
        listed = listed or f"{family}:{code}" in catalogue_causes(effect_family, effect_code)
        if not listed or (family, code) == (effect_family, effect_code):
            return ties
        rule = self._rules.catalogue
        scope: Scope = "link" if "pcie.aer" in (family, effect_family) else rule.scope
        return (*ties, _Tie("victim", scope, rule.window, rule.lead))

    def _ruled(self, family: str, code: str, effect_family: str, effect_code: str) -> tuple[_Tie, ...]:
        return tuple(
            _Tie(rule.role, rule.scope, rule.window, rule.lead, rule.named)
            for rule in self._rules.relations
            if rule.cause.match(family, code) and rule.effect.match(effect_family, effect_code)
        )

    def _rank(self, part: Part) -> tuple[int, int, int, int, str, str]:
        named = next((at for at, one in enumerate(self._rules.primary) if one.match(part.family, part.code)), 1 << 20)
        worst = -SEVERITIES.index(part.severity)
        return (named, part.recovered, worst, part.first_ns, part.family, f"{part.code} {part.place.entity}")


def is_same_device(one: Place, other: Place) -> bool:
    return one.entity == other.entity or (bool(one.address) and one.slot == other.slot)


def _in_time(tie: _Tie, cause: Part, effect: Part) -> bool:
    return effect.first_ns <= cause.last_ns + tie.window_ns and effect.last_ns >= cause.first_ns - tie.lead_ns
