"""What the agent says, to NATS: snapshots that may be lost and are counted, events that may not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from msgspec import Struct
from nats.aio.client import Client

from ..probes.model import Event, Finding, Health, HealthState, Snapshot, Stall
from .event_sender import EventSender
from .lossy_queue import LossyQueue, Message
from .nats_connection import NatsConnection, User
from .nats_connection import State as ConnectionState
from .nats_options import NatsOptions
from .outbox import Outbox
from .spool import Record
from .subjects import Subjects

log = structlog.get_logger()

Encoding = Literal["json", "msgpack"]

MAX_EVENT_BYTES = 512 * 1024
BLOCKED_POLL_S = 0.02
# nats-py can swallow the cancellation that ends a connection's tasks: they look for themselves now and then.
IDLE_POLL_S = 5.0
FLUSH_POLL_S = 0.005
CANCEL_AGAIN_S = 0.05
# Of a stop's deadline: what remains is for the disk.
FLUSH_SHARE = 0.6


class PublisherStatistics(Struct, frozen=True):
    """Counters since the start and the state now. Drops are by reason.

    events_produced + events_recovered = events_acked + sum of events_dropped + events_queued
    lossy_produced = lossy_published + sum of lossy_dropped + lossy_held
    """

    state: ConnectionState
    reason: str
    stream_reason: str
    spool_reason: str
    last_error: str
    server: str
    connects: int
    rtt_s: float
    events_produced: int
    events_recovered: int
    events_published: int
    events_acked: int
    events_duplicate: int
    events_queued: int
    events_spooled: int
    events_dropped: Mapping[str, int]
    lossy_produced: int
    lossy_published: int
    lossy_held: int
    lossy_dropped: Mapping[str, int]
    spool_bytes: int


class Publisher:
    """Everything of the agent that goes to NATS. Belongs to the event loop that it is made in.

    The `publish_` methods never wait and never raise: what cannot be sent is spooled (events, stalls, findings)
    or dropped (snapshots and other lossy messages), and counted. The spool is `state_dir/spool`. Some give the
    message as it was encoded, for others who need it, or None where it could not be.
    """

    def __init__(
        self,
        options: NatsOptions,
        state_dir: Path,
        *,
        node: str,
        cluster: str,
        encoding: Encoding = "json",
        spool_bytes: int = 64 * 2**20,
        memory_bytes: int = 16 * 2**20,
        stream_bytes: int = 256 * 2**20,
    ) -> None:
        options.check()
        self._state_dir = str(state_dir)
        self.subjects = Subjects(cluster, node)
        self._content_type = f"application/{encoding}"
        self._encode = _encoder(encoding)
        self._outbox = Outbox(
            state_dir / "spool", self._wake_events, spool_bytes=spool_bytes, memory_bytes=memory_bytes
        )
        self._connection = NatsConnection(options, self, f"eagle-eye {node}")
        self._events = EventSender(self._outbox, lambda: self._connection.refusal, stream_bytes=stream_bytes)
        self._lossy = LossyQueue()
        self._lossy_wake = asyncio.Event()
        self._others: list[User] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._last_error = ""

    def share(self, user: User) -> None:
        """Lets another one speak over the same connection; before `start`."""
        self._others.append(user)

    async def start(self) -> None:
        """Open the spool and begin to connect; returns without waiting for NATS.

        Raises UsageError when another agent uses the state directory.
        """
        await self._outbox.start()
        self._task = asyncio.create_task(self._connection.run(), name="nats")

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Send what can be sent in the time, leave the other events on disk, close. Never takes much longer."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s * FLUSH_SHARE):
                await self._flush()
        self._stopped = True
        if self._task is not None:
            await _cancel(self._task, max(0.1, end_s - loop.time()))
        self._connection.state = "stopped"
        await self._outbox.stop(max(0.1, end_s - loop.time()))
        log.info("nats publisher stopped", events_left_in_spool=self._outbox.spooled)
        if lost := self._outbox.dropped["stopped"]:
            log.warning("events lost: neither NATS nor the disk took them", count=lost, state_dir=self._state_dir)

    async def _flush(self) -> None:
        while (client := self._connection.client) and (self._outbox.queued or self._lossy.waiting):
            await asyncio.sleep(FLUSH_POLL_S)
            if self._events.reason:
                break
        if client is not None and self._lossy.held:
            mark = self._lossy.mark(client)
            with contextlib.suppress(Exception):
                await self._connection.ping(client)
                self._lossy.confirm(mark)

    # Collector's side

    def publish_event(self, event: Event) -> bytes | None:
        """An event or a fault, durably; as encoded."""
        return self._durable(event.id, self.subjects.event(event.kind), event)

    def publish_stall(self, stall: Stall) -> None:
        """A stall, durably."""
        self._durable(stall.id, self.subjects.stall, stall)

    def publish_finding(self, finding: Finding) -> None:
        """A finding, durably."""
        self._durable(finding.id, self.subjects.finding, finding)

    def publish_snapshot(self, snapshot: Snapshot) -> bytes | None:
        """The node now; dropped while NATS is away; as encoded."""
        payload = self._payload(snapshot)
        if payload is not None:
            self.publish_lossy(self.subjects.snapshot, payload, self._content_type)
        else:
            self._lossy.refuse("unencodable")
        return payload

    def publish_lossy(self, subject: str, payload: bytes, content_type: str = "application/json") -> None:
        """Any message that is worth sending now or never."""
        if self._connection.client is None:
            self._lossy.refuse("nats_disconnected")
            return
        self._lossy.append(Message(subject, payload, content_type))
        self._lossy_wake.set()

    def _durable(self, message_id: str, subject: str, value: Event | Stall | Finding) -> bytes | None:
        payload = self._payload(value)
        if payload is None:
            self._outbox.refuse("unencodable")
        elif len(payload) > MAX_EVENT_BYTES:
            self._outbox.refuse("too_large")
        elif self._stopped:
            self._outbox.refuse("stopped")
        else:
            self._outbox.append(Record(message_id, subject, self._content_type, payload))
        return payload

    def _payload(self, value: Any) -> bytes | None:
        try:
            return self._encode(value)
        except Exception as error:
            log.warning("a message cannot be encoded", type=type(value).__name__, error=str(error)[:200])
            return None

    # Connection's side

    async def serve(self, client: Client) -> None:
        """Send over one connection until it is lost or we are cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.serve(client))
            group.create_task(self._send_lossy(client))
            for user in self._others:
                group.create_task(user.serve(client))

    async def _send_lossy(self, client: Client) -> None:
        while client.is_connected:
            self._lossy_wake.clear()
            await self._lossy.send(client)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BLOCKED_POLL_S if self._lossy.waiting else IDLE_POLL_S):
                    await self._lossy_wake.wait()

    def detach(self) -> None:
        """The connection is gone."""
        self._lossy.disconnected()
        for user in self._others:
            user.detach()

    def mark(self, client: Client) -> list[Any]:
        """How many lossy messages a ping that leaves now stands behind, then what the others say of theirs."""
        return [self._lossy.mark(client), *(user.mark(client) for user in self._others)]

    def confirm(self, mark: list[Any]) -> None:
        """The server has read them."""
        self._lossy.confirm(mark[0])
        for user, its_mark in zip(self._others, mark[1:], strict=True):
            user.confirm(its_mark)

    def _wake_events(self) -> None:
        self._events.wake.set()

    # What others see

    def statistics(self) -> PublisherStatistics:
        """A consistent reading."""
        connection, outbox, lossy = self._connection, self._outbox, self._lossy
        spool_reason = outbox.disk_reason
        self._last_error = spool_reason or self._events.reason or connection.reason or self._last_error
        return PublisherStatistics(
            state=connection.state,
            reason=connection.reason,
            stream_reason=self._events.reason if connection.client else "",
            spool_reason=spool_reason,
            last_error=self._last_error,
            server=connection.server,
            connects=connection.connects,
            rtt_s=connection.rtt_s,
            events_produced=outbox.appended,
            events_recovered=outbox.recovered,
            events_published=self._events.published,
            events_acked=outbox.settled,
            events_duplicate=self._events.duplicates,
            events_queued=outbox.queued,
            events_spooled=outbox.spooled,
            events_dropped=+outbox.dropped,
            lossy_produced=lossy.produced,
            lossy_published=lossy.published,
            lossy_held=lossy.held,
            lossy_dropped=+lossy.dropped,
            spool_bytes=outbox.spool_bytes,
        )

    def health(self) -> Health:
        """Of the way to NATS as a whole, in the words of a probe's health."""
        now = self.statistics()
        state, reason = _judge(now)
        dropped = Counter(now.events_dropped) + Counter(now.lossy_dropped)
        return Health(probe="nats", state=state, reason=reason, events=now.events_acked, dropped=dict(dropped))


async def _cancel(task: asyncio.Task[None], deadline_s: float) -> None:
    """nats-py swallows a cancellation that meets it while it closes or flushes, so ask more than once."""
    end_s = time.monotonic() + deadline_s
    while not task.done() and time.monotonic() < end_s:
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)


def _judge(now: PublisherStatistics) -> tuple[HealthState, str]:
    if now.state == "starting":
        return "starting", "connecting"
    if now.state == "stopped":
        return "off", ""
    if now.state == "disconnected":
        return "failing", f"{now.reason}; {now.events_queued} events wait"
    if now.stream_reason:
        return "degraded", f"{now.stream_reason}; {now.events_queued} events wait"
    return ("degraded", now.spool_reason) if now.spool_reason else ("ok", "")


def _encoder(encoding: Encoding) -> Callable[[Any], bytes]:
    module: Any = msgspec.json if encoding == "json" else msgspec.msgpack
    encode: Callable[[Any], bytes] = module.Encoder(enc_hook=_plain).encode
    return encode


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"values of type {type(value).__name__} have no form in JSON")
