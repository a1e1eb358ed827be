"""An example router: sends OpenAI requests to the engine that will answer first, as the routing feed tells.

    python router.py --nats nats://127.0.0.1:4222 --listen 127.0.0.1:8080 \\
        --backend llm-0=http://10.0.0.5:8000 --backend llm-1=http://10.0.0.6:8000

The name before each address is the engine's pod, container, node or instance, whichever the feed says.
Needs `pip install eagle-eye`, which brings aiohttp.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Iterator, Mapping

import aiohttp
from aiohttp import web

from eagle_eye.collector.routing import Choice, Engine, RoutingClient

# About what a token of English text takes; the answer only ranks engines.
BYTES_PER_TOKEN = 4
MAX_BODY_BYTES = 16 * 2**20
# Of one connection only; and aiohttp has undone the coding of what it was sent, but not of what it fetched.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade"}
OF_THE_REQUEST = {*HOP_BY_HOP, "content-encoding"}

log = logging.getLogger("router")


class Router:
    """Forwards every request, body and answer as they are, to one of `backends` (address by name)."""

    def __init__(self, client: RoutingClient, backends: dict[str, str]) -> None:
        self._client = client
        self._backends = backends
        self._turn = itertools.cycle(backends.values())
        self._session: aiohttp.ClientSession | None = None

    async def run(self, app: web.Application):
        async with self._client, aiohttp.ClientSession(auto_decompress=False) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        tokens = len(body) // BYTES_PER_TOKEN
        for engine, address in self._addresses(tokens):
            if engine is not None:
                self._client.table.sent(engine, tokens)
            try:
                return await self._forward(request, body, address)
            except aiohttp.ClientConnectorError as error:
                log.warning("%s does not answer: %s", address, error)
            finally:
                if engine is not None:
                    self._client.table.done(engine)
        return web.json_response({"error": {"message": "no engine answers"}}, status=503)

    def _addresses(self, tokens: int) -> Iterator[tuple[Engine | None, str]]:
        """The best engine first; in turn, when the feed tells of none that this router can reach."""
        known = [(choice.engine, self._address(choice)) for choice in self._client.table.pick(64, tokens=tokens)]
        reachable = [(engine, address) for engine, address in known if address]
        yield from reachable or [(None, next(self._turn)) for _ in self._backends]

    def _address(self, choice: Choice) -> str:
        message = choice.engine.message
        names = (message.instance, message.pod, message.container, message.node)
        return next((self._backends[name] for name in names if name in self._backends), "")

    async def _forward(self, request: web.Request, body: bytes, address: str) -> web.StreamResponse:
        assert self._session is not None
        url, headers = address + request.path_qs, without(OF_THE_REQUEST, request.headers)
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            response.headers.update(without(HOP_BY_HOP, answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def without(names: set[str], headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in names}


def backend(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not (name and equals and address.startswith(("http://", "https://"))):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=http://HOST:PORT")
    return name, address.rstrip("/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nats", default="nats://127.0.0.1:4222", help="the NATS server of the agents")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT, where requests are taken")
    parser.add_argument("--backend", type=backend, action="append", required=True, help="NAME=http://HOST:PORT")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    host, _, port = arguments.listen.rpartition(":")
    router = Router(RoutingClient(arguments.nats), dict(arguments.backend))
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(router.run)
    app.router.add_route("*", "/{path:.*}", router.handle)
    web.run_app(app, host=host, port=int(port), access_log=None)


if __name__ == "__main__":
    main()
