"""An incident as the engine keeps it, which is also what the state file holds, and how it is shown to others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar, get_args

from msgspec import Struct

from ...probes.model import Action, Fault, Incident, IncidentPart, Severity
from .places import Place
from .rules import Raise

ACTIONS: tuple[Action, ...] = get_args(Action)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
MAX_WORD, MAX_TEXT, MAX_EACH = 256, 2048, 16

T = TypeVar("T")
Role = Literal["cause", "precursor", "victim", "verdict"]
Key = tuple[str, str, str]


class Told(Struct, frozen=True):
    """A fault as the engine takes it: where it is, how many of it are new, and when by the wall clock."""

    fault: Fault
    place: Place
    count: int
    wall_ns: int

    @property
    def key(self) -> Key:
        return (self.place.entity, self.fault.family, self.fault.code)


class Part(Struct, kw_only=True):
    """One code on one entity. `first_ns` and `last_ns` are of the boot in which it was told last.

    `named` are the codes that its own texts say came first; `severity` and `action` are the worst that were told.
    `begun`: told as an occurrence, so that only its recovery ends it.
    """

    place: Place
    family: str
    code: str
    fault: str
    first_ns: int
    last_ns: int
    first_wall_ns: int
    last_wall_ns: int
    severity: Severity
    action: Action
    role: Role = "cause"
    count: int = 0
    mnemonic: str = ""
    meaning: str = ""
    check: str = ""
    sources: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    begun: bool = False
    recovered: bool = False
    simulated: bool = False
    looked_ns: int = -1 << 62

    @property
    def key(self) -> Key:
        return (self.place.entity, self.family, self.code)


class Record(Struct, kw_only=True):
    """An incident. `boot_id` is that of its last fault; `note` says what a reader must know beside its parts.

    `weight` is the place of its severity, for those who compare many.
    """

    id: str
    parts: list[Part]
    opened_wall_ns: int
    updated_wall_ns: int
    boot_id: str
    state: Literal["open", "cleared"] = "open"
    escalated: str = ""
    raised: Action = "none"
    raised_severity: Severity = "info"
    sticky: bool = False
    cleared_by: str = ""
    cleared_wall_ns: int = 0
    reopened: int = 0
    note: str = ""
    merged_into: str = ""
    weight: int = 0
    left_out: int = 0

    @property
    def primary(self) -> Part:
        """The first part is the one that names the incident."""
        return self.parts[0]

    @property
    def severity(self) -> Severity:
        return worst([*(part.severity for part in self.parts), self.raised_severity])

    @property
    def action(self) -> Action:
        """What the strongest device asks for: its verdict, else its causes that still hold; raised by frequency."""
        verdicts = [part for part in self.parts if part.role == "verdict" and part.action != "none"]
        judged = {part.place.slot for part in verdicts}
        causes = (part for part in self.parts if part.role == "cause" and not part.recovered)
        open_causes = [part for part in causes if part.place.slot not in judged]
        return strongest((*(part.action for part in (*verdicts, *open_causes)), self.raised))

    @property
    def last_ns(self) -> int:
        return max(part.last_ns for part in self.parts)

    def find(self, key: Key) -> Part | None:
        return next((part for part in self.parts if part.key == key), None)

    def export(self, node: str, cluster: str, max_parts: int = 1 << 30) -> Incident:
        """What is published of it."""
        primary = self.primary
        return Incident(
            id=self.id,
            node=node,
            entity=primary.place.entity,
            family=primary.family,
            code=primary.code,
            mnemonic=primary.mnemonic,
            severity=self.severity,
            action=self.action,
            state=self.state,
            opened_wall_ns=self.opened_wall_ns,
            updated_wall_ns=self.updated_wall_ns,
            parts=tuple(_part(part) for part in self.parts[:max_parts]),
            occurrences=sum(part.count for part in self.parts) + self.left_out,
            meaning=primary.meaning,
            check=primary.check,
            device=primary.place.address,
            escalated=self.escalated,
            cleared_by=self.cleared_by,
            reopened=self.reopened,
            boot_id=self.boot_id,
            cluster=cluster,
            simulated=any(part.simulated for part in self.parts),
            note=self.note,
        )


def strongest(actions: Iterable[Action]) -> Action:
    return max(actions, key=ACTIONS.index, default="none")


def worst(severities: Iterable[Severity]) -> Severity:
    return max(severities, key=SEVERITIES.index, default="info")


def new_part(told: Told) -> Part:
    """The part that a fault begins."""
    fault = told.fault
    return Part(
        place=told.place,
        family=fault.family,
        code=fault.code,
        fault=fault.id,
        first_ns=fault.at_ns,
        last_ns=fault.at_ns,
        first_wall_ns=told.wall_ns,
        last_wall_ns=told.wall_ns,
        severity=fault.severity,
        action=fault.action,
        count=told.count,
        mnemonic=fault.mnemonic[:MAX_WORD],
        meaning=fault.meaning[:MAX_TEXT],
        check=fault.check[:MAX_TEXT],
        sources=fault.sources[:MAX_EACH],
        named=(fault.cause[:MAX_WORD],) if fault.cause else (),
        pids=(fault.pid,) if fault.pid else (),
        begun=fault.phase == "occurrence",
        simulated=fault.simulated,
    )


def grow(part: Part, told: Told) -> None:
    """Takes another telling of the same code into `part`; the order in which they arrive does not matter."""
    fault = told.fault
    newest = fault.at_ns >= part.last_ns
    if fault.at_ns < part.first_ns:
        part.first_ns, part.first_wall_ns, part.fault = fault.at_ns, told.wall_ns, fault.id
    if newest:
        part.last_ns, part.last_wall_ns = fault.at_ns, told.wall_ns
        part.recovered = False
    if part.role != "verdict":
        part.action = strongest((part.action, fault.action))
    elif newest:
        part.action = fault.action
    part.severity = worst((part.severity, fault.severity))
    part.count += told.count
    if fault.cause:
        part.named = _with(part.named, (fault.cause[:MAX_WORD],))
    if fault.pid:
        part.pids = _with(part.pids, (fault.pid,))
    part.begun = part.begun or fault.phase == "occurrence"
    part.sources = _with(part.sources, fault.sources)


def brings_more(part: Part, fault: Fault) -> bool:
    """Whether a fault says of a known code what may tie it to others."""
    return bool((fault.cause and fault.cause not in part.named) or (fault.pid and fault.pid not in part.pids))


def unite(record: Record) -> None:
    """Parts that have become one code of one entity become one part."""
    united: dict[Key, Part] = {}
    for part in record.parts:
        mine = united.setdefault(part.key, part)
        if mine is not part:
            _absorb(mine, part)
    record.parts = list(united.values())


def raise_by(record: Record, rule: Raise) -> bool:
    """Raises an incident as `rule` says; whether that changed anything."""
    before = (record.action, record.severity, record.sticky)
    record.raised = strongest((record.raised, rule.action))
    record.raised_severity = worst((record.raised_severity, rule.severity or "info"))
    record.sticky = record.sticky or rule.sticky
    if (record.action, record.severity, record.sticky) == before:
        return False
    record.escalated = rule.name
    record.weight = SEVERITIES.index(record.severity)
    return True


def copy_of(part: Part) -> Part:
    return Part(**{name: getattr(part, name) for name in part.__struct_fields__})


def _absorb(mine: Part, other: Part) -> None:
    if other.first_ns < mine.first_ns:
        mine.first_ns, mine.first_wall_ns, mine.fault = other.first_ns, other.first_wall_ns, other.fault
    if other.last_ns > mine.last_ns:
        mine.last_ns, mine.last_wall_ns, mine.recovered = other.last_ns, other.last_wall_ns, other.recovered
    mine.count += other.count
    mine.action = strongest((mine.action, other.action))
    mine.severity = worst((mine.severity, other.severity))
    mine.named = _with(mine.named, other.named)
    mine.pids = _with(mine.pids, other.pids)
    mine.begun = mine.begun or other.begun
    mine.sources = _with(mine.sources, other.sources)


def _with(some: tuple[T, ...], more: tuple[T, ...]) -> tuple[T, ...]:
    """Both, without repeats and in one order, at most MAX_EACH."""
    if set(more) <= set(some):
        return some
    return tuple(sorted({*some, *more}, key=str))[:MAX_EACH]


def _part(part: Part) -> IncidentPart:
    return IncidentPart(
        family=part.family,
        code=part.code,
        role=part.role,
        fault=part.fault,
        entity=part.place.entity,
        count=part.count,
        first_ns=part.first_wall_ns,
        last_ns=part.last_wall_ns,
        mnemonic=part.mnemonic,
        sources=part.sources,
    )
