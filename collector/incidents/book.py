"""All incidents of a node, and the ways to find the one that a fault belongs to. Bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2s

from .places import Place
from .record import SEVERITIES, Key, Part, Record
from .roles import is_same_device

MAX_OPEN = 1024
MAX_CLEARED = 256
# How many of the parts that were told last are looked at for what belongs together.
MAX_LOOK = 256


class Book:
    """Open incidents by id, and those that were cleared last, oldest first."""

    def __init__(self) -> None:
        self.open: dict[str, Record] = {}
        self.cleared: OrderedDict[str, Record] = OrderedDict()
        self._owners: dict[Key, str] = {}
        self._told: OrderedDict[tuple[Key, str], Part] = OrderedDict()
        self._latest: dict[Key, str] = {}

    def remember(self, record: Record) -> None:
        """Takes an open incident in, or its parts and roles as they are now."""
        self.open[record.id] = record
        record.weight = SEVERITIES.index(record.severity)
        for part in record.parts:
            if part.role in ("cause", "verdict"):
                self._owners[part.key] = record.id
            elif self._owners.get(part.key) == record.id:
                del self._owners[part.key]
            self._told[part.key, record.id] = part
            self._latest.setdefault(part.key, record.id)

    def touch(self, record: Record, part: Part) -> None:
        """`part` was told now."""
        self._told.move_to_end((part.key, record.id))
        self._latest[part.key] = record.id

    def forget(self, record: Record) -> None:
        """Takes an incident out of the open ones."""
        self.open.pop(record.id, None)
        for part in record.parts:
            self._told.pop((part.key, record.id), None)
            for index in (self._owners, self._latest):
                if index.get(part.key) == record.id:
                    del index[part.key]

    def put_away(self, record: Record) -> None:
        """Moves an incident to the cleared ones."""
        self.forget(record)
        self.cleared[record.id] = record
        while len(self.cleared) > MAX_CLEARED:
            self.cleared.popitem(last=False)

    def owner(self, key: Key) -> Record | None:
        """The open incident that has this code as its cause or verdict."""
        return self.open.get(self._owners.get(key, ""))

    def latest(self, key: Key) -> tuple[Record, Part] | None:
        """The open incident in which this code was told last, in whatever role."""
        record = self.open.get(self._latest.get(key, ""))
        part = record.find(key) if record is not None else None
        return (record, part) if record is not None and part is not None else None

    def told_lately(self, since_ns: int) -> Iterator[tuple[Record, Part]]:
        """Parts that were told since, the last first; at most MAX_LOOK are looked at."""
        for at, ((_, record_id), part) in enumerate(reversed(self._told.items())):
            if at >= MAX_LOOK:
                return
            if part.last_ns >= since_ns:
                yield self.open[record_id], part

    def with_part(self, key: Key) -> list[tuple[Record, Part]]:
        found = [(record, record.find(key)) for record in self.open.values()]
        return [(record, part) for record, part in found if part is not None]

    def on(self, entity: str) -> list[Record]:
        place = Place(entity)
        return [one for one in self.open.values() if is_same_device(one.primary.place, place)]

    def weakest(self) -> Record | None:
        """Which gives way to a new one: the least severe, of those the oldest; None while there is room."""
        if len(self.open) < MAX_OPEN:
            return None
        return min(self.open.values(), key=lambda one: (one.weight, one.updated_wall_ns))

    def coming_back(self, key: Key, since_wall_ns: int) -> Record | None:
        """The incident of this cause that was cleared last, if it was since then and not by joining another."""
        for record in reversed(self.cleared.values()):
            if (
                record.primary.code == key[2]
                and record.primary.key == key
                and record.cleared_wall_ns >= since_wall_ns
                and not record.merged_into
            ):
                return record
        return None

    def new_id(self, fault_id: str) -> str:
        """Ten digits that follow from the fault, so that the same faults make the same incidents."""
        number = 0
        while True:
            found = blake2s(f"{fault_id}#{number}".encode("utf-8", "replace"), digest_size=5).hexdigest()
            if found not in self.open and found not in self.cleared:
                return found
            number += 1
