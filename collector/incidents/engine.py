"""The incident engine: faults in, incidents out. Pure: time is passed in, nothing is read or written.

Faults that belong together by the rules are one incident, whatever the order in which they arrive: what a fault
ties together is joined, and roles are worked out anew from all parts. A victim is tied to the nearest cause that was
told until then, so that a fault of the node does not join what devices explain themselves.

Everything is bounded; what does not fit is counted in `dropped`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ...probes.model import Fault
from .book import Book
from .closing import Closing
from .frequency import Frequency
from .places import Place, Places
from .record import (
    SEVERITIES,
    Key,
    Part,
    Record,
    Told,
    brings_more,
    copy_of,
    grow,
    new_part,
    raise_by,
    strongest,
    unite,
)
from .roles import Roles
from .rules import Raise, Rules, Together

MAX_PARTS = 32
MAX_RECOVERIES = 1024
# A code that goes on is looked at for what belongs to it once in so long.
LOOK_AGAIN_NS = 1_000_000_000
LONG_AGO_NS = -1 << 62
MERGED = "merged into"

ChangeKind = Literal["opened", "updated", "escalated", "cleared", "reopened"]


class Change(Struct, frozen=True):
    """What happened to an incident. `urgent` ones are told at once, others at most once a second."""

    kind: ChangeKind
    record: Record
    urgent: bool = True


class Engine:
    """The incidents of a node. `at_ns` of faults is CLOCK_MONOTONIC, `wall_ns` Unix time."""

    def __init__(self, rules: Rules, places: Places, boot_id: str) -> None:
        self.book = Book()
        self.dropped: Counter[str] = Counter()
        self.recoveries = 0
        self.frequency = Frequency(rules.escalations)
        self._rules = rules
        self._places = places
        self._boot_id = boot_id
        self._roles = Roles(rules, places)
        self._closing = Closing(rules, places)
        self._recovered: OrderedDict[Key, int] = OrderedDict()
        self._longest_ns = rules.longest_ns

    # What is told.

    def take(self, fault: Fault, count: int, wall_offset_ns: int) -> list[Change]:
        """A fault of which `count` are new; 0 when another source tells a known one."""
        told = Told(fault, self._places.place(fault), count, fault.at_ns + wall_offset_ns)
        ended = [self.clear(one, why, told.wall_ns) for one, why in self._closing.by_fault(told, self.book.open)]
        if fault.phase == "recovery":
            self.recoveries += count
            return [*ended, *self._recover(told)]
        if ended and fault.action == "none":
            self.recoveries += count
            return ended
        return [*ended, *self._join(told)]

    def tick(self, now_ns: int, wall_ns: int) -> list[Change]:
        """Ends what was silent for long enough."""
        shortest_ns = self._rules.shortest_quiet_ns
        quiet = [
            (record, reason)
            for record in self.book.open.values()
            if wall_ns - record.updated_wall_ns >= shortest_ns
            and (reason := self._closing.by_silence(record, self._silent_ns(record, now_ns, wall_ns), self._boot_id))
        ]
        ended = [self.clear(record, reason, wall_ns) for record, reason in quiet]
        return [*ended, *self._escalate_lasting(wall_ns)]

    def device_was_reset(self, entity: str, reason: str, wall_ns: int) -> list[Change]:
        """Ends what a reset of the device mends."""
        actions = self._rules.reset.actions
        mended = [one for one in self.book.on(entity) if one.action in actions and not one.sticky]
        return [self.clear(record, reason, wall_ns) for record in mended]

    def clear(self, record: Record, by: str, wall_ns: int) -> Change:
        """Ends an incident for the reason `by`."""
        record.state, record.cleared_by = "cleared", by
        record.cleared_wall_ns = record.updated_wall_ns = wall_ns
        self.book.put_away(record)
        return Change("cleared", record)

    def rename(self, uuids: Mapping[str, str]) -> list[Change]:
        """Devices have these uuids, by the names used until now, as is known now."""
        renamed = []
        for record in list(self.book.open.values()):
            nameless = [part for part in record.parts if part.place.entity in uuids]
            if not nameless:
                continue
            self.book.forget(record)
            for part in nameless:
                uuid = uuids[part.place.entity]
                self.frequency.rename(part.place.entity, uuid)
                part.place = Place(uuid, part.place.address)
            unite(record)
            self.book.remember(record)
            renamed.append(Change("updated", record))
        return renamed

    def restore(self, records: list[Record], wall_ns: int) -> list[Change]:
        """Takes what was saved; ends what the reboot since then has ended."""
        changes = []
        for record in records:
            if record.state == "cleared":
                self.book.cleared[record.id] = record
                continue
            self.book.remember(record)
            if record.boot_id != self._boot_id:
                _outlive(record)
                if self._closing.ends_with_boot(record):
                    changes.append(self.clear(record, "reboot", wall_ns))
        return changes

    # A fault finds its incident.

    def _join(self, told: Told) -> list[Change]:
        known = self.book.latest(told.key)
        if known is not None and not _must_look(known[1], told.fault):
            return self._repeat(told, *known)
        part = new_part(told)
        part.looked_ns = told.fault.at_ns
        related = self._related(part, told)
        if not related:
            return self._open(part, told)
        record, changes = self._united(related, told.wall_ns)
        was = (record.primary.key, record.severity, record.action)
        part = self._add(record, part, told)
        return [*changes, *self._grown(record, part, told, was)]

    def _repeat(self, told: Told, record: Record, part: Part) -> list[Change]:
        """The quick way for a code that goes on."""
        before = (part.first_ns, part.severity, part.action, part.recovered)
        was = (record.primary.key, record.severity, record.action)
        grow(part, told)
        if before != (part.first_ns, part.severity, part.action, part.recovered):
            return self._grown(record, part, told, was)
        record.updated_wall_ns = max(record.updated_wall_ns, told.wall_ns)
        self.book.touch(record, part)
        changes = [Change("updated", record, urgent=False), *self._escalate(record, told)]
        return [*changes, *self._end_if_recovered(record, part, told.wall_ns)]

    def _related(self, part: Part, told: Told) -> list[Record]:
        """The incidents to which a fault belongs, oldest first; a cleared one when it comes back."""
        found = self._roles.related(part, self.book.told_lately(part.first_ns - self._longest_ns))
        owner = self.book.owner(told.key)
        if owner is not None:
            found[owner.id] = owner
        if owner is None and (back := self.book.coming_back(told.key, told.wall_ns - self._rules.reopen.within)):
            found[back.id] = back
        return sorted(found.values(), key=lambda one: (one.opened_wall_ns, one.id))

    def _united(self, related: list[Record], wall_ns: int) -> tuple[Record, list[Change]]:
        """One incident of several: the oldest takes the parts of the others."""
        record, *others = related
        changes = [self._reopen(record, wall_ns)] if record.state == "cleared" else []
        for other in others:
            if other.state == "cleared":
                record.reopened = max(record.reopened, other.reopened + 1)
                del self.book.cleared[other.id]
            else:
                other.merged_into = record.id
                changes.append(self.clear(other, f"{MERGED} {record.id}", wall_ns))
            self._take_over(record, other)
        return record, changes

    def _take_over(self, record: Record, other: Record) -> None:
        self.book.forget(record)
        record.parts += [copy_of(part) for part in other.parts]
        record.left_out += other.left_out
        record.raised = strongest((record.raised, other.raised))
        record.escalated = record.escalated or other.escalated
        record.sticky = record.sticky or other.sticky
        unite(record)
        for part in record.parts[MAX_PARTS:]:
            self._leave_out(record, part.count)
        del record.parts[MAX_PARTS:]
        self.book.remember(record)

    def _add(self, record: Record, part: Part, told: Told) -> Part:
        mine = record.find(part.key)
        if mine is not None:
            grow(mine, told)
            mine.looked_ns = told.fault.at_ns
            return mine
        if len(record.parts) >= MAX_PARTS:
            self._leave_out(record, told.count)
            return record.primary
        record.parts.append(part)
        return part

    def _leave_out(self, record: Record, count: int) -> None:
        record.left_out += count
        self.dropped["too_many_parts"] += count

    def _grown(self, record: Record, part: Part, told: Told, was: tuple[Key, str, str]) -> list[Change]:
        self._roles.assign(record.parts)
        record.updated_wall_ns = max(record.updated_wall_ns, told.wall_ns)
        record.boot_id, record.note = self._boot_id, ""
        self.book.remember(record)
        self.book.touch(record, part)
        urgent = (record.primary.key, record.severity, record.action) != was
        changes = [Change("updated", record, urgent), *self._escalate(record, told)]
        return [*changes, *self._end_if_recovered(record, part, told.wall_ns)]

    def _open(self, part: Part, told: Told) -> list[Change]:
        changes = []
        weakest = self.book.weakest()
        if weakest is not None:
            if SEVERITIES.index(weakest.severity) > SEVERITIES.index(part.severity):
                self.dropped["too_many_open"] += part.count
                return []
            self.dropped["displaced"] += sum(one.count for one in weakest.parts)
            changes.append(self.clear(weakest, "displaced by newer incidents", told.wall_ns))
        record = Record(
            id=self.book.new_id(told.fault.id),
            parts=[part],
            opened_wall_ns=told.wall_ns,
            updated_wall_ns=told.wall_ns,
            boot_id=self._boot_id,
        )
        self.book.remember(record)
        self.book.touch(record, part)
        changes += [Change("opened", record), *self._escalate(record, told)]
        return [*changes, *self._end_if_recovered(record, part, told.wall_ns)]

    def _reopen(self, record: Record, wall_ns: int) -> Change:
        del self.book.cleared[record.id]
        record.state, record.cleared_by, record.cleared_wall_ns = "open", "", 0
        record.reopened += 1
        record.updated_wall_ns = wall_ns
        verdicts = [part for part in record.parts if part.role == "verdict"]  # on what is over
        record.parts = [part for part in record.parts if part.role != "verdict"]
        record.left_out += sum(part.count for part in verdicts)
        self.book.remember(record)
        return Change("reopened", record)

    def _escalate(self, record: Record, told: Told) -> list[Change]:
        rules: list[Raise] = [*self.frequency.note(told.place.entity, told.fault, told.wall_ns)]
        if len(record.parts) > 1:
            rules += [one for one in self._rules.together if _holds(record, one)]
        return [Change("escalated", record) for rule in rules if raise_by(record, rule)]

    def _escalate_lasting(self, wall_ns: int) -> list[Change]:
        return [
            Change("escalated", record)
            for record in self.book.open.values()
            for rule in self._rules.lasting
            if wall_ns - record.primary.first_wall_ns >= rule.after
            and not record.primary.recovered
            and rule.of.match(record.primary.family, record.primary.code)
            and raise_by(record, rule)
        ]

    # A fault ends something.

    def _recover(self, told: Told) -> list[Change]:
        self._recovered[told.key] = max(told.fault.at_ns, self._recovered.get(told.key, told.fault.at_ns))
        self._recovered.move_to_end(told.key)
        while len(self._recovered) > MAX_RECOVERIES:
            self._recovered.popitem(last=False)
        found = self.book.with_part(told.key)
        return [change for one, part in found for change in self._end_if_recovered(one, part, told.wall_ns)]

    def _end_if_recovered(self, record: Record, part: Part, wall_ns: int) -> list[Change]:
        recovered_ns = self._recovered.get(part.key)
        if recovered_ns is None or recovered_ns < part.last_ns or record.state == "cleared":
            return []
        part.recovered = True
        if record.sticky or not all(one.recovered for one in record.parts if one.role == "cause"):
            return [Change("updated", record)]
        return [self.clear(record, "recovery", wall_ns)]

    def _silent_ns(self, record: Record, now_ns: int, wall_ns: int) -> int:
        return now_ns - record.last_ns if record.boot_id == self._boot_id else wall_ns - record.updated_wall_ns


def _must_look(part: Part, fault: Fault) -> bool:
    return abs(fault.at_ns - part.looked_ns) > LOOK_AGAIN_NS or brings_more(part, fault)


def _holds(record: Record, rule: Together) -> bool:
    told = [(part.family, part.code) for part in record.parts]
    return any(rule.of.match(*one) for one in told) and any(rule.other.match(*one) for one in told)


def _outlive(record: Record) -> None:
    """The times of an earlier boot are before everything in this one."""
    record.note = "outlived a reboot, and nothing was heard of it since"
    for part in record.parts:
        part.first_ns = part.last_ns = part.looked_ns = LONG_AGO_NS
