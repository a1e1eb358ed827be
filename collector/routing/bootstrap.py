"""The last values of all engines out of their bucket, with the time that each lay there, by the server's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..nats_streams import API_TIMEOUT_S, ApiError
from .names import BUCKET, LAST_VALUES, STREAM

DEADLINE_S = 5.0
IDLE_NS = 10_000_000_000
# $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<sequence>.<timestamp>.<pending>
_TOKENS = 9
# With <domain>.<account> before the stream and a random token at the end.
_TOKENS_OF_NEWER = 12


class _Created(Struct):
    """`num_pending` messages will come; `ts` is the server's time, which servers before 2.10 do not tell."""

    error: ApiError | None = None
    num_pending: int = 0
    ts: datetime | None = None


async def last_values(client: Client, engines: str, take: Callable[[bytes, int], object]) -> str:
    """Calls `take(payload, kept_ns)` for every value whose key matches `engines`. Why there are none, or ""."""
    arrived = _Arrivals(take)
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=arrived.on_message)
    try:
        request = {"stream_name": STREAM, "config": _config(inbox, engines)}
        answer = await client.request(
            f"$JS.API.CONSUMER.CREATE.{STREAM}", msgspec.json.encode(request), timeout=API_TIMEOUT_S
        )
        created = msgspec.json.decode(answer.data, type=_Created)
        if created.error is not None:
            return f"bucket {BUCKET}: {created.error.description or created.error.code}"
        await arrived.wait(created)
    except nats.errors.NoRespondersError:
        return "JetStream is off on this server"
    except (nats.errors.Error, TimeoutError, msgspec.DecodeError) as error:
        return f"last values could not be read: {error or 'no answer'}"
    finally:
        if client.is_connected:
            await subscription.unsubscribe()
    return ""


def _config(inbox: str, engines: str) -> dict[str, object]:
    return {
        "deliver_subject": inbox,
        "deliver_policy": "last_per_subject",
        "filter_subject": f"{LAST_VALUES}.{engines}",
        "ack_policy": "none",
        "replay_policy": "instant",
        "inactive_threshold": IDLE_NS,
        "mem_storage": True,
        "num_replicas": 1,
    }


class _Arrivals:
    """Holds what comes before the answer that says how much will come, and what time it is there."""

    def __init__(self, take: Callable[[bytes, int], object]) -> None:
        self._take = take
        self._waiting: list[tuple[int, bytes]] = []
        self._complete = asyncio.Event()

    async def on_message(self, message: Msg) -> None:
        parts = message.reply.split(".")
        if len(parts) not in (_TOKENS, _TOKENS_OF_NEWER):
            return
        timestamp, pending = parts[7:9] if len(parts) == _TOKENS else parts[9:11]
        if not (message.headers or {}).get("KV-Operation"):
            self._waiting.append((int(timestamp), message.data))
        if pending == "0":
            self._complete.set()

    async def wait(self, created: _Created) -> None:
        """Until the last one has come, or DEADLINE_S; raises TimeoutError."""
        try:
            if created.num_pending:
                await asyncio.wait_for(self._complete.wait(), DEADLINE_S)
        finally:
            newest_ns = max((stamp_ns for stamp_ns, _ in self._waiting), default=0)
            now_ns = int(created.ts.timestamp() * 1e9) if created.ts else newest_ns
            for stamp_ns, payload in self._waiting:
                self._take(payload, max(0, now_ns - stamp_ns))
