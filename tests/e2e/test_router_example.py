"""The example router in front of two engines of different speed: real HTTP, real NATS, and the feed between them."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.publisher import Publisher
from eagle_eye.collector.routing.feed import Feed, FeedOptions
from eagle_eye.probes.model import EngineState

ROUTER = Path(__file__).resolve().parents[2] / "deploy/examples/router.py"
TOKENS = 400
REQUESTS = 60
WARM_UP = 12


class SlowEngine:
    """An OpenAI-compatible server that prefills one prompt after the other, so many tokens a second, and says so."""

    def __init__(self, name: str, feed: Feed, tokens_per_second: float) -> None:
        self.name = name
        self.served = 0
        self._feed = feed
        self._step_s = TOKENS / tokens_per_second
        self._one = asyncio.Lock()
        self._waiting = self._running = self._step = 0

    def say(self, kind: str = "step", **fields: int) -> None:
        self._feed.take(
            [
                EngineState(
                    instance=f"instance-of-{self.name}", engine="test", at_ns=time.monotonic_ns(), kind=kind,
                    source="shm", pod=self.name, step=self._step, running=self._running, waiting=self._waiting,
                    waiting_prefill_tokens=self._waiting * TOKENS, **fields,
                )
            ]
        )  # fmt: skip

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self._waiting += 1
        self.say("tick")
        async with self._one:
            self._waiting, self._running = self._waiting - 1, 1
            self.say("tick", in_flight_age_ns=0, step_duration_ns=int(self._step_s * 1e9))
            await asyncio.sleep(self._step_s)
            self.end_step()
        self.served += 1
        response = web.StreamResponse(headers={"X-Served-By": self.name, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in (asked["prompt"][:5].encode(), b"data: [DONE]\n\n"):
            await response.write(word)
        return response

    def end_step(self) -> None:
        self._step, self._running = self._step + 1, 0
        self.say(prefill_tokens=TOKENS, prefill_requests=1, step_duration_ns=int(self._step_s * 1e9))

    async def serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def started(process: asyncio.subprocess.Process) -> str:
    """The address that the router listens on."""
    while line := await asyncio.wait_for(process.stdout.readline(), 20):
        if b"Running on" in line:
            return line.split()[3].decode()
    pytest.fail("the router did not start")


async def test_the_slow_engine_gets_fewer_requests_and_a_dead_one_none(server, tmp_path, unused_tcp_port):
    real = server()
    real.start()
    publisher = Publisher(NatsOptions((real.url,)), tmp_path / "state", node="n", cluster="c")
    feed = Feed(FeedOptions(), node="n", cluster="c", boot_id="b")
    publisher.share(feed)
    await publisher.start()
    engines = [SlowEngine("fast", feed, 20_000), SlowEngine("slow", feed, 4_000)]
    served = [await engine.serve() for engine in engines]
    for engine in engines:
        for _ in range(WARM_UP):
            engine.end_step()
    backends = [f"--backend={engine.name}={address}" for engine, (_, address) in zip(engines, served, strict=True)]
    router = await asyncio.create_subprocess_exec(
        sys.executable, ROUTER, "--nats", real.url, "--listen", f"127.0.0.1:{unused_tcp_port}", *backends,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        address = await started(router)
        async with aiohttp.ClientSession() as session:
            answers = await asyncio.gather(*(worker(session, address, REQUESTS // 6) for _ in range(6)))
            assert {status for each in answers for status, _ in each} == {200}
            assert {text for each in answers for _, text in each} == {b"Hellodata: [DONE]\n\n"}
            fast, slow = (engine.served for engine in engines)
            assert fast + slow == REQUESTS
            assert fast >= 2 * slow
            await served[0][0].cleanup()
            engines[0].say("gone")
            assert {status for status, _ in await worker(session, address, 3)} == {200}
            assert engines[1].served == slow + 3
    finally:
        router.terminate()
        await router.wait()
        for runner, _ in served:
            await runner.cleanup()
        await publisher.stop(1.0)


async def worker(session: aiohttp.ClientSession, address: str, requests: int) -> list[tuple[int, bytes]]:
    answers = []
    for _ in range(requests):
        body = {"prompt": "Hello" * (TOKENS * 4 // 5)}
        async with session.post(f"{address}/v1/completions", json=body) as answer:
            answers.append((answer.status, await answer.read()))
    return answers
