"""The last value of every engine in a NATS bucket, for routers that come later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from ..lossy_queue import PENDING_BYTES
from ..nats_streams import API_TIMEOUT_S, NOT_FOUND, ApiAnswer, answer_decoder
from .names import BUCKET, LAST_VALUES, STREAM

log = structlog.get_logger(component="routing")

# Each engine's value is written this often at most, but for its first and its last.
PERIOD_S = 0.5
# A bucket that an administrator or a restart of the server took away is made again after this.
CHECK_S = 20.0
TTL_NS = 30_000_000_000
# Keys to take away when NATS is back; those of a longer outage have run out by then.
MAX_GONE = 1024
MAX_BUCKET_BYTES = 32 * 2**20

_PURGE = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
_CONFIG: Mapping[str, Any] = {
    "name": STREAM,
    "description": "Eagle Eye: last routing message of every engine",
    "subjects": [f"{LAST_VALUES}.>"],
    "storage": "memory",
    "max_msgs_per_subject": 1,
    "max_age": TTL_NS,
    "max_bytes": MAX_BUCKET_BYTES,
    "discard": "old",
    "duplicate_window": 1_000_000_000,
    "allow_rollup_hdrs": True,
    "allow_direct": True,
    "deny_delete": True,
}


class LastValues:
    """Holds one value per engine until it is written; `reason` says why nothing is kept, "" while it is."""

    def __init__(self) -> None:
        self.reason = "not connected"
        self.written = 0
        self._values: dict[str, bytes] = {}
        self._gone: set[str] = set()
        self._known: set[str] = set()
        self._filled = asyncio.Event()
        self._urgent = asyncio.Event()

    def put(self, key: str, payload: bytes) -> None:
        """The engine's value now; the newest wins."""
        self._values[key] = payload
        self._filled.set()
        if key not in self._known:
            self._known.add(key)
            self._urgent.set()

    def remove(self, key: str) -> None:
        """The engine is gone, or nobody will speak of it any more."""
        self._values.pop(key, None)
        if key in self._known:
            self._known.discard(key)
            if len(self._gone) < MAX_GONE:
                self._gone.add(key)
            self._filled.set()
            self._urgent.set()

    async def serve(self, client: Client) -> None:
        """Writes over one connection until cancelled; without JetStream it says so and tries again later."""
        while client.is_connected:
            self._tell(await _ensure_bucket(client))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self._write_for_ever(client)

    async def _write_for_ever(self, client: Client) -> None:
        while client.is_connected:
            await self._filled.wait()
            self._filled.clear()
            self._urgent.clear()
            if not self.reason:
                await self._write(client)
            # Two steps, so that a burst of engines that come and go is written as one.
            await asyncio.sleep(PERIOD_S / 5)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S * 4 / 5):
                    await self._urgent.wait()

    async def _write(self, client: Client) -> None:
        values, self._values = self._values, {}
        gone, self._gone = self._gone, set()
        for key in gone - values.keys():
            await client.publish(f"{LAST_VALUES}.{key}", b"", headers=_PURGE)
        for key, payload in values.items():
            if client.pending_data_size >= PENDING_BYTES:
                self._values = {key: payload} | self._values
                self._filled.set()
                continue
            await client.publish(f"{LAST_VALUES}.{key}", payload)
            self.written += 1

    def _tell(self, reason: str) -> None:
        if reason and reason != self.reason:
            log.warning("late subscribers get no last values of engines", reason=reason)
        self.reason = reason


async def _ensure_bucket(client: Client) -> str:
    try:
        answer = await _ask(client, f"$JS.API.STREAM.INFO.{STREAM}", b"")
        if answer.error is not None and answer.error.code == NOT_FOUND:
            answer = await _ask(client, f"$JS.API.STREAM.CREATE.{STREAM}", msgspec.json.encode(_CONFIG))
    except nats.errors.NoRespondersError:
        return "JetStream is off on this server"
    except nats.errors.TimeoutError:
        return f"JetStream did not answer in {API_TIMEOUT_S:g} s"
    except (nats.errors.Error, msgspec.DecodeError) as error:
        return f"JetStream could not be asked: {error}"
    if answer.error is not None:
        return f"bucket {BUCKET}: {answer.error.description or answer.error.code}"
    return ""


async def _ask(client: Client, subject: str, request: bytes) -> ApiAnswer:
    message = await client.request(subject, request, timeout=API_TIMEOUT_S)
    return answer_decoder.decode(message.data)
