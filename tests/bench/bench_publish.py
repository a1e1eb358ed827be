"""What it costs to say something over NATS, and how soon it is heard.

Peers: nats-py alone, which keeps nothing on disk: `publish` for the latency, awaited and pipelined
JetStream publishing for the throughput. Server, publisher and subscriber share this machine.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import numpy as np
import structlog
from harness import finish, table

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.nats_server import NatsServer
from eagle_eye.collector.publisher import Publisher
from eagle_eye.probes.model import Event

EVENTS, BATCH = 20_000, 100
LATENCY_EVENTS, LATENCY_PER_S = 1_000, 200
IDLE_S = 10.0
SUBJECT = "eagle_eye.v1.bench.bench.event.sched.long_wait"
ATTRIBUTES = {"waited_ns": 12_345_678, "cpu": 3, "task": "python3", "tid": 4711, "ran": "stress-ng", "cgroup": "/a/b"}
HEADERS = {"Nats-Msg-Id": "", "Content-Type": "application/json"}


def event(number: int, entity: str = "host") -> Event:
    now_ns = time.monotonic_ns()
    return Event(f"boot:sched:{number}", "sched.long_wait", now_ns, 0, "bench", "boot", entity, "warning", ATTRIBUTES)


@asynccontextmanager
async def agent(url: str, folder: Path) -> AsyncIterator[Publisher]:
    publisher = Publisher(NatsOptions((url,)), folder, node="bench", cluster="bench")
    await publisher.start()
    while publisher.statistics().state != "connected" or publisher.statistics().stream_reason:
        await asyncio.sleep(0.01)
    yield publisher
    await publisher.stop(5.0)


async def throughput(say: Callable[[int], Awaitable[None]], done: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Events per second until the last is acknowledged, and CPU time of this process for each."""
    started, cpu = time.perf_counter(), time.process_time()
    for number in range(EVENTS):
        await say(number)
        if number % BATCH == 0:
            await asyncio.sleep(0)
    await done()
    cpu_s, took_s = time.process_time() - cpu, time.perf_counter() - started
    return {"events_per_second": round(EVENTS / took_s), "cpu_us_per_event": round(cpu_s / EVENTS * 1e6, 2)}


async def throughput_of_agent(url: str, folder: Path) -> dict[str, float]:
    async with agent(url, folder) as publisher:

        async def say(number: int) -> None:
            while publisher.statistics().events_queued > 8000:
                await asyncio.sleep(0.001)
            publisher.publish_event(event(number))

        async def done() -> None:
            while publisher.statistics().events_acked < EVENTS:
                await asyncio.sleep(0.001)

        return await throughput(say, done)


async def throughput_of_peer(url: str, pipelined: bool) -> dict[str, float]:
    client = await nats.connect(url)
    stream = client.jetstream(publish_async_max_pending=256)

    async def say(number: int) -> None:
        headers = HEADERS | {"Nats-Msg-Id": f"peer{pipelined}:{number}"}
        publish = stream.publish_async if pipelined else stream.publish
        await publish(SUBJECT, msgspec.json.encode(event(number)), headers=headers)

    try:
        return await throughput(say, stream.publish_async_completed)
    finally:
        await client.close()


async def latency(url: str, say: Callable[[bytes], Awaitable[None]], subject: str) -> dict[str, float]:
    """From the call to the subscriber's callback."""
    client = await nats.connect(url)
    taken_ns: list[int] = []

    async def hear(message: nats.aio.msg.Msg) -> None:
        taken_ns.append(time.perf_counter_ns() - int(message.data.split(b"@")[1]))

    await client.subscribe(subject, cb=hear)
    await client.flush()
    await client.flush()
    for _ in range(LATENCY_EVENTS):
        await say(b"@%d@" % time.perf_counter_ns())
        await asyncio.sleep(1 / LATENCY_PER_S)
    await asyncio.sleep(0.2)
    await client.close()
    p50, p99 = np.percentile(taken_ns, [50, 99]) / 1e6
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "heard": len(taken_ns)}


async def latencies(url: str, folder: Path) -> dict[str, dict[str, float]]:
    client = await nats.connect(url)
    async with agent(url, folder) as publisher:

        async def durable(mark: bytes) -> None:
            publisher.publish_event(event(time.monotonic_ns(), mark.decode()))

        async def lossy(mark: bytes) -> None:
            publisher.publish_lossy("bench.lossy", mark)

        async def bare(mark: bytes) -> None:
            await client.publish("bench.bare", mark)

        found = {
            "event_latency": await latency(url, durable, publisher.subjects.event("sched.long_wait")),
            "lossy_latency": await latency(url, lossy, "bench.lossy"),
            "nats_py_latency": await latency(url, bare, "bench.bare"),
        }
    await client.close()
    return found


async def idle(url: str, folder: Path) -> dict[str, float]:
    """A connected publisher that says two small things a second."""
    async with agent(url, folder) as publisher:
        cpu, end = time.process_time(), time.monotonic() + IDLE_S
        while time.monotonic() < end:
            publisher.publish_lossy("bench.idle", b"x" * 4000)
            await asyncio.sleep(0.5)
        return {"cpu_ratio": round((time.process_time() - cpu) / IDLE_S, 5)}


async def measure() -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = NatsServer(folder, port=0)
        await server.start()
        try:
            return {
                "agent": await throughput_of_agent(server.url, folder),
                "nats_py_awaited": await throughput_of_peer(server.url, False),
                "nats_py_pipelined": await throughput_of_peer(server.url, True),
                **await latencies(server.url, folder / "latency"),
                "idle": await idle(server.url, folder / "idle"),
            }
        finally:
            await server.stop()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    metrics = asyncio.run(measure())
    rates = [(name, *metrics[name].values()) for name in ("agent", "nats_py_awaited", "nats_py_pipelined")]
    table(f"{EVENTS} events into JetStream", ("who", "events/s", "CPU us/event"), rates)
    times = [(name, *metrics[name].values()) for name in ("event_latency", "lossy_latency", "nats_py_latency")]
    table(f"Call to callback at {LATENCY_PER_S}/s", ("what", "p50 ms", "p99 ms", "heard"), times)
    table("Connected, 2 messages/s", ("who", "share of a core"), [("agent", metrics["idle"]["cpu_ratio"])])
    finish("publish", metrics)


if __name__ == "__main__":
    main()
