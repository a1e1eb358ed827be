"""The routing feed: states of engines in, one message per engine out, as soon and as seldom as it should be."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

import msgspec
from msgspec import Struct
from nats.aio.client import Client

from ...probes.model import EngineState, Finding, Incident, RoutingMessage, Snapshot
from ..lossy_queue import PENDING_BYTES
from .books import Books
from .coalesce import Line, Pace, silent, without_load
from .health import Judge, Verdict
from .last_values import LastValues
from .names import SUBJECT, engine_key
from .rates import Rates

MAX_ENGINES = 1024
MAX_MESSAGE_BYTES = 16 * 1024
# The probe of engines looks with every snapshot at least; after this it is taken for hung.
LOST_NS = 3_000_000_000
# An engine that is gone is told again after a lost connection, for so long.
GONE_KEPT_NS = 5_000_000_000
SILENT_KEPT_NS = 600_000_000_000
BLOCKED_POLL_S = 0.005
LONGEST_WAIT_S = 5.0
STOP_POLL_S = 0.005

_AT_REST = ("idle", "draining")
_OVER = {"gone": GONE_KEPT_NS, "unknown": SILENT_KEPT_NS}


class FeedOptions(Struct, frozen=True):
    """`aggregate` sends every engine on `subject`, `per_engine` each on `subject.<node>.<instance>`."""

    subject: str = SUBJECT
    aggregate: bool = True
    per_engine: bool = True
    last_values: bool = True
    floor_ns: int = 10_000_000
    max_silence_ns: int = 1_000_000_000
    encoding: Literal["json", "msgpack"] = "json"


class Outgoing(Struct, frozen=True):
    """A message, encoded, of the engine called `key` in subjects."""

    key: str
    payload: bytes


class _Engine(Line):
    """A line with what the feed has learned of its engine. `calls_ns` are the times at which the heap has it, latest
    first: a later one is left there and used again, so that a message does not cost a call for nothing half a second
    later."""

    __slots__ = ("calls_ns", "is_forgotten", "key", "kind_since_ns", "rates", "verdict")

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.kind_since_ns = 0
        self.rates = Rates()
        self.verdict = Verdict()
        self.calls_ns: list[float] = []
        self.is_forgotten = False


class Feed:
    """Belongs to the event loop. The `take` methods never wait and never raise; `serve` uses one connection.

    `last_success_ns` says when the probe of engines last worked (CLOCK_MONOTONIC); `now_ns` and `wall_ns` are clocks.
    While NATS is away the latest state of every engine is kept, and nothing else.
    """

    def __init__(
        self,
        options: FeedOptions,
        *,
        node: str,
        cluster: str,
        boot_id: str,
        last_success_ns: Callable[[], int] = time.monotonic_ns,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.books = Books()
        self.last_values = LastValues() if options.last_values else None
        self._options = options
        self._pace = Pace(options.floor_ns, options.max_silence_ns // 2)
        self._node, self._cluster, self._boot_id = node, cluster, boot_id
        self._agent = f"{os.getpid()}-{time.monotonic_ns():x}"
        self._last_success_ns, self._now_ns, self._wall_ns = last_success_ns, now_ns, wall_ns
        self._encode = (msgspec.json if options.encoding == "json" else msgspec.msgpack).Encoder().encode
        self._headers = None if options.encoding == "json" else {"Content-Type": "application/msgpack"}
        self._judge = Judge()
        self._snapshot: Snapshot | None = None
        self._engines: dict[str, _Engine] = {}
        self._heap: list[tuple[float, int, _Engine]] = []
        self._tie = count()
        self._wake = asyncio.Event()
        self._waits_until_ns = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # Collector's side

    def take(self, states: Iterable[EngineState]) -> None:
        """Ranks whose state changed."""
        for state in states:
            self._take(state)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """The node now: its devices and open incidents."""
        self._snapshot = snapshot
        if self._engines:
            self._judge.take_snapshot(snapshot)
            self._judge_all()

    def take_incidents(self, incidents: Iterable[Incident]) -> None:
        """All open ones, as soon as they changed."""
        self._judge.take_incidents(incidents)
        self._judge_all()

    def take_finding(self, finding: Finding) -> None:
        """A diagnosis; its `entities` are uuids of devices, instances of engines, or `host`."""
        self._judge.take_finding(finding)
        self._judge_all()

    def take_pids(self, pids: Mapping[str, Sequence[int]]) -> None:
        """Processes that have a device open, by its uuid."""
        self._judge.take_pids(pids)

    @property
    def engines(self) -> int:
        """How many are told of."""
        return len(self._engines)

    def _take(self, state: EngineState) -> None:
        self.books.produced += 1
        if state.kind in _OVER:
            state = without_load(state)
        engine = self._engines.get(state.instance) or self._open(state)
        if engine is None:
            self.books.dropped["too_many_engines"] += 1
            return
        if engine.latest is None or engine.latest.kind != state.kind:
            engine.kind_since_ns = self._now_ns()
        engine.rates.learn(state)
        was_pending = engine.pending
        changes, coalesced = engine.offer(state)
        self.books.produced += changes - 1
        self.books.coalesced += coalesced
        self.books.waiting += not was_pending
        self._schedule(engine)

    def _open(self, state: EngineState) -> _Engine | None:
        if len(self._engines) >= MAX_ENGINES:
            ended = next((one for one in self._engines.values() if one.latest and one.latest.kind == "gone"), None)
            if ended is None:
                return None
            self._forget(ended)
        if not self._engines and self._snapshot is not None:
            self._judge.take_snapshot(self._snapshot)
        engine = self._engines[state.instance] = _Engine(engine_key(self._node, state.instance))
        engine.verdict = self._judge.verdict(state, self._now_ns())
        return engine

    def _forget(self, engine: _Engine) -> None:
        assert engine.latest is not None
        if engine.pending:
            self.books.drop("gone")
        del self._engines[engine.latest.instance]
        engine.is_forgotten = True
        if self.last_values:
            self.last_values.remove(engine.key)

    def _judge_all(self) -> None:
        now_ns = self._now_ns()
        for engine in self._engines.values():
            assert engine.latest is not None
            before, engine.verdict = engine.verdict, self._judge.verdict(engine.latest, now_ns)
            if before.level != engine.verdict.level:
                engine.edge = True
                self._schedule(engine)

    # When

    def due(self, now_ns: int) -> Iterator[Outgoing]:
        """Messages that leave now; each counts as having left when it is given."""
        for engine in self._called(now_ns):
            if not self._is_over(engine, now_ns):
                outgoing = self._leave(engine, now_ns)
                self._schedule(engine)
                if outgoing is not None:
                    yield outgoing

    def next_due_ns(self) -> float:
        """When `due` has something again, as far as is known now."""
        return self._heap[0][0] if self._heap else math.inf

    def _schedule(self, engine: _Engine) -> None:
        due_ns = engine.due_ns(self._pace)
        if not engine.calls_ns or due_ns < engine.calls_ns[-1]:
            engine.calls_ns.append(due_ns)
            heappush(self._heap, (due_ns, next(self._tie), engine))
            if due_ns < self._waits_until_ns:
                self._wake.set()

    def _called(self, now_ns: int) -> Iterator[_Engine]:
        while self._heap and self._heap[0][0] <= now_ns:
            _, _, engine = heappop(self._heap)
            if engine.is_forgotten:
                continue
            engine.calls_ns.pop()
            if engine.due_ns(self._pace) <= now_ns:
                yield engine
            else:
                self._schedule(engine)

    def _is_over(self, engine: _Engine, now_ns: int) -> bool:
        """Silence is told as such; who is gone or silent for long is forgotten."""
        state = engine.latest
        assert state is not None
        if state.kind in _OVER:
            if engine.sent is None or engine.pending or now_ns - engine.kind_since_ns < _OVER[state.kind]:
                return False
            self._forget(engine)
            return True
        if max(state.at_ns, self._last_success_ns()) < now_ns - LOST_NS:
            self._take(silent(state))
        return False

    def _leave(self, engine: _Engine, now_ns: int) -> Outgoing | None:
        is_change = engine.pending
        coalesced = engine.leave(now_ns)
        message = self._message(engine, coalesced, now_ns)
        payload = self._encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            if is_change:
                self.books.drop("too_large")
            return None
        self.books.left(is_change)
        if self.last_values is not None and message.kind == "gone":
            self.last_values.remove(engine.key)
        elif self.last_values is not None:
            self.last_values.put(engine.key, payload)
        return Outgoing(engine.key, payload)

    # NATS' side

    async def serve(self, client: Client) -> None:
        """Send over one connection until cancelled; first the latest state of every engine."""
        for engine in self._engines.values():
            engine.repeat()
            self._schedule(engine)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(client))
            if self.last_values:
                group.create_task(self.last_values.serve(client))

    def detach(self) -> None:
        """The connection is gone."""
        self.books.disconnected()
        if self.last_values:
            self.last_values.reason = "not connected"

    def mark(self, client: Client) -> int:
        """What a ping that leaves now stands behind."""
        return self.books.mark(client)

    def confirm(self, mark: int) -> None:
        """The server has read it."""
        self.books.confirm(mark)

    async def stop(self, deadline_s: float) -> None:
        """Tell that nobody will speak of these engines any more, if there is somebody to hear it."""
        for engine in list(self._engines.values()):
            if engine.latest is not None and engine.latest.kind != "gone":
                self._take(silent(engine.latest))
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s
        # Not an event: what waits is counted where it leaves, and this is once in a life.
        while self.books.waiting and loop.time() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(STOP_POLL_S)

    async def _send(self, client: Client) -> None:
        try:
            while client.is_connected:
                self._wake.clear()
                self._wake_in(await self._send_due(client))
                await self._wake.wait()
                self._waits_until_ns = -math.inf
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wake_in(self, wait_s: float) -> None:
        """A timer that comes sooner is left as it is: a call for nothing now and then costs less than a new one."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self._timer is not None and now_s < self._timer.when() <= now_s + wait_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(now_s + wait_s, self._wake.set)

    async def _send_due(self, client: Client) -> float:
        """Seconds until more can be sent."""
        messages = self.due(self._now_ns())
        while client.pending_data_size < PENDING_BYTES:
            message = next(messages, None)
            if message is None:
                self._waits_until_ns = self.next_due_ns()
                return min(LONGEST_WAIT_S, max(0.0, (self._waits_until_ns - self._now_ns()) / 1e9))
            if self._options.aggregate:
                await client.publish(self._options.subject, message.payload, headers=self._headers)
            if self._options.per_engine:
                subject = f"{self._options.subject}.{message.key}"
                await client.publish(subject, message.payload, headers=self._headers)
        return BLOCKED_POLL_S

    def _message(self, engine: _Engine, coalesced: int, now_ns: int) -> RoutingMessage:
        state = engine.latest
        assert state is not None
        fields: dict[str, Any] = msgspec.structs.asdict(state)
        if state.kind in _AT_REST:
            # The probe looked since and found no change: the state is as old as that look.
            fields["at_ns"] = max(state.at_ns, min(self._last_success_ns(), now_ns))
        age_ns = max(0, now_ns - fields["at_ns"])
        offset_ns = self._wall_ns() - now_ns
        verdict = engine.verdict
        return RoutingMessage(
            **fields,
            node=self._node,
            cluster=self._cluster,
            boot_id=self._boot_id,
            agent=self._agent,
            seq=engine.seq,
            at_wall_ns=fields["at_ns"] + offset_ns,
            age_ns=age_ns,
            max_silence_ns=self._options.max_silence_ns,
            coalesced=coalesced,
            steps_total=None if state.source == "metrics" else state.step,
            prefill_tokens_per_second=engine.rates.prefill.per_second,
            decode_tokens_per_second=engine.rates.decode.per_second,
            health=verdict.level,
            health_reason=verdict.reason,
            health_at_wall_ns=verdict.at_ns + offset_ns if verdict.at_ns else 0,
            device_pressure_ratio=verdict.pressure_ratio,
        )
