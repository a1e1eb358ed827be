"""Listens to the routing feed: keeps a table of all engines, calls who wants to hear of news, comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.msg import Msg

from ...native.errors import UnavailableError
from ..nats_connection import NatsConnection
from ..nats_options import NatsOptions
from .bootstrap import last_values
from .engine import Engine
from .names import SUBJECT
from .table import RoutingTable

# Of messages that came and were not looked at yet; beyond, nats-py drops, and `Engine.missed` tells.
MAX_PENDING_MESSAGES = 65_536
MAX_PENDING_BYTES = 64 * 2**20
CLOSE_S = 1.0

Handler = Callable[[Engine], Awaitable[None] | None]

log = logging.getLogger("eagle_eye.routing")


class RoutingClient:
    """A subscriber of the feed on `servers` (`nats://HOST:PORT`, several joined by commas, or NatsOptions).

    `engines` chooses by `<node>.<instance>` with NATS wildcards (`node7.>`); "" takes all, on one subject.
    `table` has everything that was heard; `last_values_reason` says why it did not begin with what was said before.
    """

    def __init__(
        self,
        servers: str | NatsOptions = "nats://127.0.0.1:4222",
        *,
        subject: str = SUBJECT,
        engines: str = "",
        table: RoutingTable | None = None,
    ) -> None:
        options = servers if isinstance(servers, NatsOptions) else NatsOptions(tuple(servers.split(",")))
        options.check()
        self.table = table or RoutingTable()
        self.last_values_reason = ""
        self._subject = f"{subject}.{engines}" if engines else subject
        self._engines = engines or ">"
        self._connection = NatsConnection(options, self, "eagle-eye router", _tell)
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._handlers: list[Callable[[Engine], Any]] = []
        self._news: list[_News] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_connected(self) -> bool:
        return self._connection.client is not None

    @property
    def trouble(self) -> str:
        """Why nothing is heard: the server is away, or forbids it; "" while all is well."""
        return self._connection.refusal if self.is_connected else self._connection.reason or "not connected yet"

    async def connect(self, timeout_s: float | None = None) -> None:
        """Connects, subscribes and reads the last values; later connections are made again without a word from you.

        Raises UnavailableError when that took longer than `timeout_s`; without one it waits for the server.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._connection.run(), name="routing client")
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            reason = self._connection.reason or "no answer"
            await self.close()
            raise UnavailableError(
                f"the routing feed cannot be heard: {reason}", remedy="name the agents' NATS server"
            ) from None

    async def subscribe(self, handler: Handler) -> None:
        """Calls `handler(engine)` with every engine that there is news of.

        A plain function is called at once, with every message. A coroutine function is called for one engine after
        the other; when it is slower than the feed it gets the newest of each engine, and misses what lay between.
        """
        if inspect.iscoroutinefunction(handler):
            task = asyncio.create_task(self._call(handler))
            self._tasks.add(task)
        else:
            self._handlers.append(handler)
        if self._task is None:
            await self.connect()

    async def news(self) -> AsyncGenerator[Engine, None]:
        """Engines that there is news of, for ever: each once, however often it changed since it was given."""
        news = _News()
        self._news.append(news)
        try:
            while True:
                for engine in await news.take():
                    yield engine
        finally:
            self._news.remove(news)

    async def close(self) -> None:
        """Stops listening; the table stays as it is."""
        tasks = [*self._tasks, *([self._task] if self._task else [])]
        self._tasks.clear()
        self._task = None
        end_s = asyncio.get_running_loop().time() + CLOSE_S
        while (open_tasks := [task for task in tasks if not task.done()]) and _now_s() < end_s:
            # nats-py swallows a cancellation that meets it while it closes, so ask more than once.
            for task in open_tasks:
                task.cancel()
            await asyncio.wait(open_tasks, timeout=0.05)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # As the user of a connection

    async def serve(self, client: Client) -> None:
        """Listen over one connection until cancelled."""
        await client.subscribe(
            self._subject,
            cb=self._on_message,
            pending_msgs_limit=MAX_PENDING_MESSAGES,
            pending_bytes_limit=MAX_PENDING_BYTES,
        )
        # nats-py writes the ping of a flush ahead of what it has buffered: only the second one stands behind it.
        await client.flush()
        await client.flush()
        reason = await last_values(client, self._engines, self._take)
        if reason and reason != self.last_values_reason:
            log.info("begins without last values: %s", reason)
        self.last_values_reason = reason
        self._ready.set()
        await asyncio.Event().wait()

    def detach(self) -> None:
        """The connection is gone; ages tell it."""

    def mark(self, client: Client) -> None:
        """Nothing is sent."""

    def confirm(self, mark: None) -> None:
        """Nothing is sent."""

    async def _on_message(self, message: Msg) -> None:
        self._take(message.data, None)

    def _take(self, payload: bytes, kept_ns: int | None) -> None:
        engine = self.table.take(payload, kept_ns)
        if engine is None:
            return
        for handler in self._handlers:
            try:
                handler(engine)
            except Exception:
                log.exception("a handler of routing news failed")
        for news in self._news:
            news.put(engine)

    async def _call(self, handler: Callable[[Engine], Awaitable[None]]) -> None:
        async with contextlib.aclosing(self.news()) as news:
            async for engine in news:
                try:
                    await handler(engine)
                except Exception:
                    log.exception("a handler of routing news failed")


class _News:
    """Engines that changed since they were taken."""

    def __init__(self) -> None:
        self._changed: dict[int, Engine] = {}
        self._wake = asyncio.Event()

    def put(self, engine: Engine) -> None:
        self._changed[id(engine)] = engine
        self._wake.set()

    async def take(self) -> list[Engine]:
        await self._wake.wait()
        self._wake.clear()
        changed, self._changed = self._changed, {}
        return list(changed.values())


def _tell(words: str, facts: dict[str, object]) -> None:
    log.log(logging.WARNING if "reason" in facts else logging.INFO, "%s: %s", words, facts)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
