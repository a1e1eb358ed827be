"""All rings that are open: who is read when, who began, fell silent, ended."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ...native.engine_poll import EnginePoll, Times
from ..model import EngineState
from .finder import Finder, Found, Key, discard, remove_file
from .layout import RefusedError, StepBatch
from .metrics import Ledger, Part, parts_of, parts_of_rank, parts_of_requests
from .rank import Rank, is_readable
from .ring import Ring
from .vllm import wire

# A front end's requests may wait; its end may not.
FRONTEND_FLOOR_NS = 500_000_000


class Ended(Struct, frozen=True, eq=False):
    """An engine that is no more. `died` without a word; `broken` says why its file could not be read to the end."""

    rank: Rank
    state: EngineState
    died: bool
    broken: str = ""


class Ranks:
    """Rings by slot of the poller, which exists only while there are rings."""

    def __init__(self, finder: Finder, ledger: Ledger, floor_ns: int) -> None:
        self._finder = finder
        self._ledger = ledger
        self._floor_ns = floor_ns
        self._poll: EnginePoll | None = None
        self._ranks: dict[int, Rank] = {}
        self._told: dict[int, EngineState] = {}
        self._refused: dict[Key, str] = {}

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._ranks.values())

    @property
    def fd(self) -> int | None:
        return self._poll.fd if self._poll else None

    @property
    def poll(self) -> EnginePoll | None:
        return self._poll

    def add(self, found: Found, now_ns: int) -> Rank | None:
        """Begins to read a ring; None where that cannot be: `refused` says why."""
        assert isinstance(found.file, Ring)
        hello = found.file.handshake
        try:
            if any(rank.key == hello.instance for rank in self):
                raise RefusedError(f"another engine is called {hello.instance!r} already")
            rank = Rank(found, now_ns)
            slot = self._watch(found.file, FRONTEND_FLOOR_NS if hello.is_frontend else self._floor_ns)
        except (RefusedError, OSError) as error:
            self._refused[found.key] = f"{found.file.name[:80]}: {error}"
            self._let_go(found)
            return None
        self._ranks[slot] = rank
        found.file.ask(now_ns)
        return rank

    def changed(self) -> list[int]:
        """Slots whose ring has something."""
        return [slot for slot in self._poll.take() if slot in self._ranks] if self._poll else []

    def refused(self) -> list[str]:
        """Why rings that are there still are not read."""
        self._refused = {key: why for key, why in self._refused.items() if self._finder.knows(key)}
        return list(self._refused.values())

    def all(self) -> list[int]:
        return list(self._ranks)

    def read(self, slots: list[int], now_ns: int) -> list[Ended]:
        """Takes what is new in these; those that ended are let go."""
        ended = []
        for slot in slots:
            rank = self._ranks[slot]
            rank.ring.ask(now_ns)
            broken = is_readable(rank, now_ns)
            died = rank.heard_ns != now_ns and rank.ring.is_abandoned()
            if died:
                broken = broken or is_readable(rank, now_ns)  # with its last words
            if broken or died or rank.state_word == wire.STATE_GONE:
                ended.append(self._end(slot, now_ns, died=died and rank.state_word != wire.STATE_GONE, broken=broken))
        return ended

    def news(self, slots: list[int], now_ns: int) -> list[EngineState]:
        """States of those whose word or silence is new."""
        found = []
        for slot in slots:
            rank = self._ranks.get(slot)
            if rank is None or rank.handshake.is_frontend:
                continue
            state, told = rank.state(now_ns), self._told.get(slot)
            if told is None or state.at_ns != told.at_ns or state.kind != told.kind:
                self._told[slot] = state
                found.append(state)
        return found

    def steps(self) -> list[StepBatch]:
        return [batch for rank in self if (batch := rank.take_steps())]

    def parts(self, now_ns: int) -> Iterator[Part]:
        for rank in self:
            yield from _parts(rank, rank.state(now_ns), now_ns)

    def close(self) -> None:
        for rank in self:
            discard(rank.found)
        self._ranks.clear()
        if self._poll:
            self._poll.close()

    def _watch(self, ring: Ring, floor_ns: int) -> int:
        if self._poll is None:
            self._poll = EnginePoll(Times())
        slot = self._poll.add(ring.fd, floor_ns)
        if slot is None:
            raise RefusedError("too many rings are open")
        return slot

    def _end(self, slot: int, now_ns: int, *, died: bool, broken: str) -> Ended:
        rank = self._ranks.pop(slot)
        self._told.pop(slot, None)
        assert self._poll is not None
        self._poll.remove(slot)
        state = rank.state(now_ns, gone=True)
        self._ledger.end(_parts(rank, state, now_ns))
        if died:
            remove_file(rank.found)
        self._let_go(rank.found)
        return Ended(rank, state, died or bool(broken), broken)

    def _let_go(self, found: Found) -> None:
        discard(found)
        self._finder.forget(found)


def _parts(rank: Rank, state: EngineState, now_ns: int) -> Iterator[Part]:
    if not rank.handshake.is_frontend:
        yield from parts_of(state, now_ns)
        yield from parts_of_rank(rank, state)
    try:
        yield from parts_of_requests(state, rank.ring.histograms())
    except (RefusedError, OSError):
        return
