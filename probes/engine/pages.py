"""Engines without a plugin, by their /metrics: asked in a thread of its own, with a deadline and a bound on the answer.

Never a source to route by: the page is as old as its period, and asking for it costs the engine time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..model import EngineState
from .metric_names import Reading, readings

DEADLINE_S = 5.0
MOST_BYTES = 8 << 20
STALE_PERIODS = 3
_WHOLE = frozenset({"kv_usage_ratio"})


class Page:
    """What one address last told. `problem` says why it tells nothing now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.readings: list[Reading] = []
        self.at_ns = 0
        self.problem = ""

    def take(self, text: str, at_ns: int) -> None:
        found = readings(text)
        self.problem = "" if found else "the page has none of the metrics that are known"
        if found:
            self.readings, self.at_ns = found, at_ns

    def states(self, now_ns: int, period_ns: int) -> list[EngineState]:
        """Of its ranks; unknown once the page is too old."""
        old = now_ns - self.at_ns > STALE_PERIODS * period_ns + DEADLINE_S * 1e9
        return [_state(self, reading, old) for reading in self.readings]


class Pages:
    """Asks each of `urls` every `period_ns`; `on_news` is called in its thread after each answer."""

    def __init__(self, urls: Sequence[str], period_ns: int, on_news: Callable[[], None]) -> None:
        self.pages = [Page(url) for url in urls]
        self._period_s = period_ns / 1e9
        self._on_news = on_news
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(RuntimeError, AttributeError):
            self._loop.call_soon_threadsafe(self._stop.set)  # type: ignore[union-attr]
        self._thread.join(2.0)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        import aiohttp

        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=True) as session:
            tasks = [asyncio.create_task(self._follow(session, page)) for page in self.pages]
            while not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, session: Any, page: Page) -> None:
        while True:
            due = time.monotonic() + self._period_s
            try:
                page.take(await _text(session, page.url), time.monotonic_ns())
            except asyncio.CancelledError:
                raise
            except Exception as error:
                page.problem = f"{type(error).__name__}: {error}"[:200]
            self._on_news()
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _text(session: Any, url: str) -> str:
    """The page. Raises ValueError when it is too large, aiohttp's and OSErrors."""
    async with session.get(url, headers={"Accept": "text/plain"}, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
        return body.decode(errors="replace")


def _state(page: Page, reading: Reading, old: bool) -> EngineState:
    address = urlsplit(page.url)
    where = address.netloc.rpartition("@")[2]
    values: dict[str, Any] = {
        name: min(1.0, value) if name in _WHOLE else round(value) for name, value in reading.values.items()
    }
    busy = bool(values.get("running") or values.get("waiting"))
    known = "running" in values or "waiting" in values
    return EngineState(
        instance=f"{where}{address.path if address.path != '/metrics' else ''}:{reading.dp_rank}",
        engine=reading.engine,
        at_ns=page.at_ns,
        kind="unknown" if old or not known else "step" if busy else "idle",
        source="metrics",
        model=reading.model,
        dp_rank=reading.dp_rank,
        **values,
    )
