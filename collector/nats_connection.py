"""One connection to NATS, made again for ever.

nats-py's own reconnecting is not used: it waits for a server that has stopped reading, replays a buffer of
unknown content, and cannot be ended while it tries. Here every connection is a new client, watched by pings
and thrown away when it fails; what was in flight is the business of those who know what it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import nats.errors
import structlog
from nats.aio.client import Client

from .nats_options import NatsOptions

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 2
CONNECT_DEADLINE_S = 5.0
PING_INTERVAL_S = 1.0
PING_DEADLINE_S = 1.5
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
MAX_REFUSED_BACKOFF_S = 5.0
CLOSE_DEADLINE_S = 1.0
# Publishers stop far below this, so that nats-py never has to wait for room.
PENDING_BYTES = 64 * 2**20
NO_TLS = "the server offers no TLS, and the settings ask for it"

State = Literal["starting", "connected", "disconnected", "stopped"]


class User(Protocol):
    """Who uses the connection."""

    async def serve(self, client: Client) -> None:
        """Work over a new connection until cancelled. An exception ends the connection."""
        ...

    def detach(self) -> None:
        """It is gone; nothing that was given to it and not confirmed can be counted on."""
        ...

    def mark(self, client: Client) -> Any:
        """A ping is about to leave: what it stands behind."""
        ...

    def confirm(self, mark: Any) -> None:
        """The ping came back, so the server has read everything before it."""
        ...


class NatsConnection:
    """`client` is a connected nats-py client, or None; `reason` says why it is None.

    `refusal` is the last thing that the server forbade on this connection, `rtt_s` the last round trip.
    `tell` is called with words and facts when the connection came or went; `None` writes them to the agent's log.
    """

    def __init__(
        self, options: NatsOptions, user: User, name: str, tell: Callable[[str, dict[str, object]], None] | None = None
    ) -> None:
        self.client: Client | None = None
        self.state: State = "starting"
        self.reason = ""
        self.refusal = ""
        self.server = ""
        self.connects = 0
        self.rtt_s = 0.0
        self._options = options
        self._servers = ", ".join(options.addresses())
        self._user = user
        self._name = name
        self._heard: Exception | None = None
        self._lost = asyncio.Event()
        self._trips: set[asyncio.Future[float]] = set()
        self._tell = tell or _log

    async def run(self) -> None:
        """Connect, serve, connect again, until cancelled."""
        failures = 0
        while True:
            client = Client()
            connects = self.connects
            try:
                await self._connect(client)
                await self._serve(client)
            except Exception as error:
                self._disconnected(self._explain(error))
            finally:
                self.client = None
                await _discard(client)
            failures = 0 if self.connects > connects else failures + 1
            await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        most = MAX_REFUSED_BACKOFF_S if "uthorization" in self.reason else MAX_BACKOFF_S
        longest_s: float = min(most, FIRST_BACKOFF_S * 2 ** min(failures, 10))
        return longest_s * random.uniform(0.5, 1.0)

    # One connection

    async def _connect(self, client: Client) -> None:
        self._heard = None
        self._lost.clear()
        self.refusal = ""
        options = self._options
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await client.connect(
                servers=options.addresses(),
                name=self._name,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=86_400,
                flush_timeout=0.05,
                pending_size=PENDING_BYTES,
                inbox_prefix=options.inbox_prefix,
                tls=options.ssl_context(),
                **_guarded(options, client),
            )
            if options.wants_tls and not _is_encrypted(client):
                raise nats.errors.Error(NO_TLS)

    async def _serve(self, client: Client) -> None:
        self.client = client
        self.connects += 1
        self.server = _peer(client)
        self.state, self.reason = "connected", ""
        self._tell("connected to nats", {"server": self.server, "connects": self.connects})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(client))
                group.create_task(self._user.serve(client))
        finally:
            self.client = None
            self._user.detach()

    async def _watch(self, client: Client) -> None:
        while True:
            mark = self._user.mark(client)
            await self.ping(client)
            self._user.confirm(mark)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), PING_INTERVAL_S)
            if not client.is_connected:
                raise LostError

    async def ping(self, client: Client) -> None:
        """A round trip, after which the server has read what nats-py had written before. Raises nats.errors.Error.

        Waits for as long as anything else comes: the answer may stand behind many messages.
        """
        started_s = time.monotonic()
        # A timeout of its own would cancel a future that a late answer then trips over, ending nats-py's reading.
        trip = asyncio.ensure_future(client.rtt(timeout=3600))
        self._trips.add(trip)
        try:
            heard = -1
            while not trip.done() and client.stats["in_bytes"] != heard:
                heard = client.stats["in_bytes"]
                await asyncio.wait({trip}, timeout=PING_DEADLINE_S)
        finally:
            self._trips.discard(trip)
            trip.cancel()
        if not trip.done():
            raise nats.errors.Error(f"the server has not answered for {PING_DEADLINE_S:g} s")
        if trip.cancelled():
            raise LostError
        trip.result()
        self.rtt_s = time.monotonic() - started_s

    async def _on_closed(self) -> None:
        self._lost.set()
        for trip in self._trips:
            trip.cancel()

    # Words

    async def _on_error(self, error: Exception) -> None:
        self._heard = error
        if "permissions violation" in str(error):
            self.refusal = str(error).removeprefix("nats: ")

    def _disconnected(self, reason: str) -> None:
        if self.state != "disconnected" or reason != self.reason:
            self._tell("nats is away", {"reason": reason})
        self.state, self.reason = "disconnected", reason

    def _explain(self, error: Exception) -> str:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, nats.errors.NoServersError | LostError) and self._heard is not None:
            error = self._heard
        if isinstance(error, TimeoutError):
            return f"{self._servers} does not answer as a NATS server"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{self._servers}: its certificate is not accepted: {error.verify_message}"
        if isinstance(error, OSError) and error.errno and error.errno > 0:
            return f"{self._servers}: {os.strerror(error.errno)}"
        return f"{self._servers}: {str(error).removeprefix('nats: ') or type(error).__name__}"


def _log(words: str, facts: dict[str, object]) -> None:
    (log.warning if "reason" in facts else log.info)(words, **facts)


class LostError(nats.errors.Error):
    """nats-py closed the connection."""

    def __str__(self) -> str:
        return "the connection was lost"


def _guarded(options: NatsOptions, client: Client) -> dict[str, Any]:
    """The identity; with TLS asked for, secrets leave only on an encrypted connection.

    nats-py itself would send them in the clear when whoever answers says that TLS is not needed.
    """
    identity: dict[str, Any] = dict(options.identity())
    if options.wants_tls:
        for name in {"user", "password", "token"} & identity.keys():
            identity[name] = partial(_secret, client, identity[name])
    return identity


def _secret(client: Client, value: str) -> str:
    if not _is_encrypted(client):
        raise nats.errors.Error(NO_TLS)
    return value


# What nats-py has no public way for.


def _writer(client: Client) -> asyncio.StreamWriter | None:
    return getattr(getattr(client, "_transport", None), "_io_writer", None)


def _is_encrypted(client: Client) -> bool:
    writer = _writer(client)
    return writer is not None and writer.get_extra_info("ssl_object") is not None


def _peer(client: Client) -> str:
    url = client.connected_url
    return f"{url.scheme}://{url.hostname}:{url.port}" if url else ""


async def _discard(client: Client) -> None:
    """End a client for good. Its own close waits for a peer that may never read again, so the socket goes first."""
    # Nothing here may end the connecting: abort() of a closed TLS transport raises AttributeError in Python 3.11.2.
    if (writer := _writer(client)) is not None:
        with contextlib.suppress(Exception):
            writer.transport.abort()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.close(), CLOSE_DEADLINE_S)
