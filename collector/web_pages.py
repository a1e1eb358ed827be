"""Renders pages off the event loop: one at a time, shared by those who ask at the same moment."""

from __future__ import annotations

import asyncio
import gzip
import time
from concurrent.futures import Executor

from msgspec import Struct

from .exporter import Exporter, Gathered

GZIP_LEVEL = 4
REUSE_SECONDS = 0.1
# However often somebody asks, rendering takes no more than this share of the time.
RENDER_SHARE_RATIO = 0.1


class _Page(Struct):
    body: asyncio.Task[bytes]
    fresh_until: float


class Pages:
    """The exporter's page in its four forms. `thread` should be one thread."""

    def __init__(self, exporter: Exporter, thread: Executor) -> None:
        self.renders = 0
        self.render_seconds = 0.0
        self._exporter = exporter
        self._thread = thread
        self._pages: dict[tuple[bool, bool], _Page] = {}

    async def get(self, *, openmetrics: bool, compressed: bool) -> bytes:
        """A page not older than a tenth of a second, or ten times what it costs if that is more."""
        form = openmetrics, compressed
        page = self._pages.get(form)
        if page is None or (page.body.done() and time.monotonic() >= page.fresh_until):
            page = self._pages[form] = _Page(asyncio.create_task(self._make(openmetrics, compressed)), 0.0)
        # Shared: whoever goes away must not take it from the others.
        return await asyncio.shield(page.body)

    async def _make(self, openmetrics: bool, compressed: bool) -> bytes:
        gathered = self._exporter.gather()
        loop = asyncio.get_running_loop()
        body, seconds = await loop.run_in_executor(self._thread, self._render, gathered, openmetrics, compressed)
        self.renders += 1
        self.render_seconds += seconds
        reuse_seconds = max(REUSE_SECONDS, seconds / RENDER_SHARE_RATIO)
        self._pages[openmetrics, compressed].fresh_until = time.monotonic() + reuse_seconds
        return body

    def _render(self, gathered: Gathered, openmetrics: bool, compressed: bool) -> tuple[bytes, float]:
        started = time.thread_time()
        body = self._exporter.render(gathered, openmetrics=openmetrics)
        if compressed:
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        return body, time.thread_time() - started
