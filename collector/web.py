"""The HTTP server: /metrics, /healthz, /readyz and a page that links to them. It reads nothing but headers."""

from __future__ import annotations

import asyncio
import html
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..probes.probe import Metric, Series
from .exporter import OPENMETRICS_TYPE, TEXT_TYPE, Exporter, Source
from .web_accept import accepts_gzip, prefers_openmetrics
from .web_listener import Listener, bind
from .web_pages import Pages
from .web_reload import LiveWebConfig

Problems = Callable[[], Sequence[str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_SCRAPES = 4
REQUEST_SECONDS = 15.0
IDLE_SECONDS = 60.0
POLL_SECONDS = 1.0

REQUESTS = Metric("eagle_eye_http_requests_total", "counter", "HTTP requests answered.", ("path", "code"))
REFUSED = Metric("eagle_eye_http_refused_total", "counter", "Connections and requests turned away.", ("reason",))
RENDERS = Metric("eagle_eye_page_renders_total", "counter", "Pages of metrics rendered.")
RENDER_SECONDS = Metric("eagle_eye_page_render_seconds_total", "counter", "CPU time spent on rendering pages.")
CONFIG_OK = Metric(
    "eagle_eye_web_config_last_reload_successful", "gauge", "0 while the web configuration on disk is wrong."
)
CONFIG_RELOADS = Metric(
    "eagle_eye_web_config_reloads_total", "counter", "Changes of the web configuration seen, by result.", ("result",)
)

log = structlog.get_logger(component="web")


class WebServer:
    """Serves one exporter. `alive` and `ready` give what is wrong, a sentence each; nothing means good.

    `listen` is (host, port); an empty host is every address, port 0 a free one. Raises UsageError when
    `web_config`, a file in the format of the Prometheus exporter-toolkit, cannot be used.
    """

    def __init__(
        self,
        exporter: Exporter,
        listen: tuple[str, int],
        *,
        alive: Problems = tuple,
        ready: Problems = tuple,
        web_config: Path | None = None,
        version: str = "",
    ) -> None:
        self._listen = listen
        self._alive = alive
        self._ready = ready
        self._version = version
        self._bcrypt = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._live = LiveWebConfig(web_config, self._bcrypt)
        self._pages = Pages(exporter, self._renderer)
        self._scrapes = 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._runner = self._make_runner()
        self._listener: Listener | None = None
        self._watcher: asyncio.Task[None] | None = None
        metrics = (REQUESTS, REFUSED, RENDERS, RENDER_SECONDS, CONFIG_OK, CONFIG_RELOADS)
        exporter.add(Source("web", metrics, self._series))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; once started, those that the kernel gave."""
        return self._listener.address if self._listener else self._listen

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server."""
        host, port = self.address
        local = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
        scheme = "https" if self._live.settings.tls else "http"
        return f"{scheme}://[{local}]:{port}" if ":" in local else f"{scheme}://{local}:{port}"

    async def start(self) -> None:
        """Raises UsageError when the address cannot be used."""
        sock = bind(*self._listen)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._listener = Listener(sock, server, lambda: self._live.settings.tls, self._refuse)
        self._listener.start()
        if self._live.path is not None:
            self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Takes no more requests, gives running ones a second to end, and gives everything back."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._listener is not None:
            await self._listener.close()
        await self._runner.cleanup()
        for thread in (self._bcrypt, self._renderer):
            thread.shutdown(wait=False, cancel_futures=True)

    def _make_runner(self) -> web.AppRunner:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._landing)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.on_response_prepare.append(self._add_headers)
        return web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            logger=_quiet_logger(),
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=0.0,
            max_line_size=4096,
            max_field_size=8190,
            max_headers=64,
            shutdown_timeout=1.0,
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await asyncio.to_thread(self._live.poll)
            except Exception:
                log.exception("the web configuration could not be looked at")

    def _refuse(self, reason: str) -> None:
        self._refused[reason] += 1

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Nothing takes longer than REQUEST_SECONDS, also not a client that reads slowly."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._refusal(request) or await self._answer(request, handler)
                with suppress(ConnectionError):
                    await response.prepare(request)
                    await response.write_eof()
        except TimeoutError:
            self._refuse("timeout")
            response = web.Response(status=503)
            if request.transport is not None:
                request.transport.abort()
        path = request.path if request.match_info.http_exception is None else "other"
        self._requests[path, str(response.status)] += 1
        return response

    async def _refusal(self, request: web.Request) -> web.Response | None:
        settings = self._live.settings
        if settings.limiter is not None and not settings.limiter.take():
            return self._turn_away(429, "rate_limit")
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if not settings.is_allowed_client(certificate):
            return self._turn_away(403, "client_certificate")
        verdict = await settings.auth.check(request.headers.get("Authorization"), request.remote or "")
        if verdict == "busy":
            return self._turn_away(429, "too_many_logins")
        return None if verdict == "allowed" else self._turn_away(401, "login")

    def _turn_away(self, status: int, reason: str) -> web.Response:
        self._refuse(reason)
        headers = {
            401: {"WWW-Authenticate": 'Basic realm="eagle-eye", charset="UTF-8"'},
            429: {"Retry-After": "1"},
            503: {"Retry-After": "1"},
        }
        return web.Response(status=status, text=f"{reason.replace('_', ' ')}\n", headers=headers.get(status, {}))

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return web.Response(status=error.status, text=f"{error.reason}\n", headers=allow)
        except Exception:
            log.exception("a request failed", path=request.path)
            return web.Response(status=500, text="internal error\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._scrapes >= MAX_SCRAPES:
            return self._turn_away(503, "too_many_scrapes")
        openmetrics = prefers_openmetrics(request.headers.get("Accept", ""))
        compressed = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        self._scrapes += 1
        try:
            body = await self._pages.get(openmetrics=openmetrics, compressed=compressed)
        finally:
            self._scrapes -= 1
        headers = {"Content-Type": OPENMETRICS_TYPE if openmetrics else TEXT_TYPE, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _healthz(self, request: web.Request) -> web.Response:
        return _verdict(self._alive)

    async def _readyz(self, request: web.Request) -> web.Response:
        return _verdict(self._ready)

    async def _landing(self, request: web.Request) -> web.Response:
        return web.Response(text=_LANDING.format(version=html.escape(self._version)), content_type="text/html")

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "eagle-eye"
        response.headers.update(self._live.settings.headers)

    def _series(self) -> Iterator[Series]:
        for labels, count in self._requests.items():
            yield Series(REQUESTS, count, labels)
        for reason, count in self._refused.items():
            yield Series(REFUSED, count, (reason,))
        yield Series(RENDERS, self._pages.renders)
        yield Series(RENDER_SECONDS, self._pages.render_seconds)
        yield Series(CONFIG_OK, float(not self._live.failed))
        yield Series(CONFIG_RELOADS, self._live.reloads, ("loaded",))
        yield Series(CONFIG_RELOADS, self._live.failures, ("refused",))


def _verdict(problems: Problems) -> web.Response:
    try:
        reasons = list(problems())
    except Exception as error:
        reasons = [f"the check itself failed: {type(error).__name__}"]
    body = msgspec.json.encode({"status": "failing" if reasons else "ok", "reasons": reasons})
    return web.Response(body=body + b"\n", status=503 if reasons else 200, content_type="application/json")


def _quiet_logger() -> logging.Logger:
    """aiohttp's log without what any stranger can cause by sending nonsense."""
    logger = logging.getLogger("aiohttp.server")
    if not any(isinstance(one, _NoProtocolErrors) for one in logger.filters):
        logger.addFilter(_NoProtocolErrors())
    return logger


class _NoProtocolErrors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LANDING = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Eagle Eye</title></head>
<body>
<h1>Eagle Eye</h1>
<p>Version {version}</p>
<ul>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/healthz">Health</a></li>
<li><a href="/readyz">Readiness</a></li>
</ul>
</body>
</html>
"""
