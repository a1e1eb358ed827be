"""Messages worth sending now or never: snapshots, the routing feed."""

from __future__ import annotations

from collections import Counter, deque

from msgspec import Struct
from nats.aio.client import Client

# More than this inside nats-py means that the server does not keep up.
PENDING_BYTES = 256 * 1024


class Message(Struct, frozen=True):
    """Ready for the wire; `content_type` goes into the header."""

    subject: str
    payload: bytes
    content_type: str


class LossyQueue:
    """Bounded; the oldest go first. At any time produced = published + dropped + held.

    A message counts as published once the server has answered a ping that left after it. What was handed to a
    connection that broke before counts as dropped (`nats_disconnected`), although it may have arrived.
    """

    def __init__(self, max_messages: int = 64, max_bytes: int = 4 * 2**20) -> None:
        self.produced = 0
        self.published = 0
        self.dropped: Counter[str] = Counter()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[Message] = deque()
        self._queue_bytes = 0
        self._unconfirmed = 0

    @property
    def held(self) -> int:
        """Messages that wait, and those handed over whose fate is not known yet."""
        return len(self._queue) + self._unconfirmed

    @property
    def waiting(self) -> bool:
        """There is something to send."""
        return bool(self._queue)

    def append(self, message: Message) -> None:
        """Queue `message`; what does not fit any more is dropped as `queue_full`."""
        self.produced += 1
        self._queue.append(message)
        self._queue_bytes += len(message.payload)
        while len(self._queue) > self._max_messages or self._queue_bytes > self._max_bytes:
            self._pop()
            self.dropped["queue_full"] += 1

    def refuse(self, reason: str) -> None:
        """Count a message that is not even queued."""
        self.produced += 1
        self.dropped[reason] += 1

    def _pop(self) -> Message:
        message = self._queue.popleft()
        self._queue_bytes -= len(message.payload)
        return message

    async def send(self, client: Client) -> None:
        """Hand over what `client` takes without waiting."""
        while self._queue and client.is_connected and client.pending_data_size < PENDING_BYTES:
            message = self._pop()
            if len(message.payload) + 256 > client.max_payload:
                self.dropped["too_large"] += 1
                continue
            self._unconfirmed += 1
            await client.publish(message.subject, message.payload, headers={"Content-Type": message.content_type})

    def mark(self, client: Client) -> int:
        """How many of the unconfirmed messages a ping that leaves now stands behind.

        nats-py writes a ping ahead of what it has buffered: with anything in the buffer it stands behind nothing.
        """
        return self._unconfirmed if client.pending_data_size == 0 else 0

    def confirm(self, count: int) -> None:
        """The ping of `mark` was answered."""
        self._unconfirmed -= count
        self.published += count

    def disconnected(self) -> None:
        """What waits is stale when the connection is back, and what was handed over is uncertain."""
        self.dropped["nats_disconnected"] += self.held
        self._queue.clear()
        self._queue_bytes = self._unconfirmed = 0
