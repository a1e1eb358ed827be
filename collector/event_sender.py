"""Events out of the outbox into JetStream: pipelined, acknowledged, repeated until they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from .lossy_queue import PENDING_BYTES
from .nats_streams import ApiAnswer, answer_decoder, ensure_streams
from .outbox import Outbox
from .spool import Record

log = structlog.get_logger()

WINDOW_MESSAGES = 256
WINDOW_BYTES = 1024 * 1024
ACK_DEADLINE_S = 3.0
FIRST_HOLD_S = 0.1
MAX_HOLD_S = 5.0
BLOCKED_POLL_S = 0.02
HEADERS_BYTES = 512

NO_RESPONDERS = "503"
MESSAGE_TOO_LARGE = 10054


class EventSender:
    """Counters: `published` (repeats included) and `duplicates` (the stream had the message already).

    `reason` says why events wait although the connection is up, "" when they do not. After a connection or a
    refusal one message goes first and the others follow when it is stored, so that a server that is still
    starting does not store a later event before an earlier one.
    """

    def __init__(self, outbox: Outbox, refusal: Callable[[], str], *, stream_bytes: int) -> None:
        self.published = 0
        self.duplicates = 0
        self.reason = ""
        self.wake = asyncio.Event()
        self._outbox = outbox
        self._head = outbox.head
        self._refusal = refusal
        self._stream_bytes = stream_bytes
        self._inbox = ""
        self._window = 1
        self._hold_s = FIRST_HOLD_S
        self._trouble = ""
        self._progress_s = 0.0

    async def serve(self, client: Client) -> None:
        """Send over one connection until cancelled; what is not settled then is ready again."""
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        try:
            while client.is_connected:
                self._window, self._trouble = 1, ""
                missing = await ensure_streams(client, self._stream_bytes)
                self._tell(missing)
                await self._flow(client)
                self._outbox.prompt = False
                self._tell(missing or self._trouble)
                self._head.rewind()
                await asyncio.sleep(self._hold_s)
                self._hold_s = min(self._hold_s * 2, MAX_HOLD_S)
        finally:
            self._outbox.prompt = False
            self._head.rewind()

    async def _flow(self, client: Client) -> None:
        """Send while messages are stored; ends when one is not."""
        while not self._trouble and client.is_connected:
            self.wake.clear()
            await self._send(client)
            try:
                async with asyncio.timeout_at(self._look_again_at()):
                    await self.wake.wait()
            except TimeoutError:
                self._check_progress()

    async def _send(self, client: Client) -> None:
        while self._has_window(client) and (record := self._head.peek()) is not None:
            if not self._head.in_flight:
                self._progress_s = _now_s()
            token = self._head.take()
            if len(record.payload) + HEADERS_BYTES > client.max_payload:
                self._head.settle(token, "too_large")
                continue
            self.published += 1
            await client.publish(record.subject, record.payload, f"{self._inbox}.{token}", _headers(record))

    def _has_window(self, client: Client) -> bool:
        return (
            client.is_connected
            and client.pending_data_size < PENDING_BYTES
            and self._head.in_flight < self._window
            and self._head.in_flight_bytes < WINDOW_BYTES
        )

    def _look_again_at(self) -> float:
        """When to look without being woken: an acknowledgement is due, nats-py is full, or streams are missing."""
        if self._head.in_flight:
            return self._progress_s + ACK_DEADLINE_S
        if self._head.peek() is not None:
            return _now_s() + BLOCKED_POLL_S
        return _now_s() + MAX_HOLD_S

    def _check_progress(self) -> None:
        if self._head.in_flight and _now_s() >= self._progress_s + ACK_DEADLINE_S:
            refusal = self._refusal()
            self._trouble = (
                f"the server refuses events: {refusal}" if refusal else f"no acknowledgement in {ACK_DEADLINE_S:g} s"
            )
        elif self.reason and not self._head.in_flight:
            self._trouble = self.reason

    # Answers

    async def _on_answer(self, message: Msg) -> None:
        token = int(message.subject.rpartition(".")[2])
        if not self._head.is_flying(token):
            return
        if message.headers and message.headers.get("Status") == NO_RESPONDERS:
            self._refused("no stream takes events: JetStream is off on this server, or the stream is missing")
            return
        try:
            self._judge(token, answer_decoder.decode(message.data))
        except msgspec.DecodeError:
            self._refused("something other than JetStream answers on the event subjects")

    def _judge(self, token: int, answer: ApiAnswer) -> None:
        if answer.error is None and answer.stream:
            self.duplicates += answer.duplicate
            self._settled(token)
        elif answer.error is not None and answer.error.err_code == MESSAGE_TOO_LARGE:
            self._settled(token, "too_large")
        else:
            self._refused(f"the stream refuses events: {answer.error.description if answer.error else 'no reason'}")

    def _settled(self, token: int, drop_reason: str = "") -> None:
        self._head.settle(token, drop_reason)
        self._progress_s = _now_s()
        self._window, self._hold_s = WINDOW_MESSAGES, FIRST_HOLD_S
        self._outbox.prompt = True
        self._tell("")
        if self._head.peek() is not None:
            self.wake.set()

    def _refused(self, reason: str) -> None:
        self._trouble = self._trouble or reason
        self.wake.set()

    def _tell(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            if reason:
                log.warning("events wait", reason=reason, queued=self._outbox.queued)
            else:
                log.info("events flow", queued=self._outbox.queued)


def _headers(record: Record) -> dict[str, str]:
    return {"Nats-Msg-Id": record.id, "Content-Type": record.content_type}


def _now_s() -> float:
    return asyncio.get_running_loop().time()
