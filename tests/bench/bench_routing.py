"""How soon a router knows: from the end of an engine's step to the router's callback, through the whole agent.

Engines are simulated (they write the shared memory that the plugin writes), in processes of their own; the agent runs
with its default probes. Peers in the same run: bare nats-py with the same bytes at the same rate, and a scraper that
reads the engine's page of metrics every 50 ms. Server, agent, engines and subscriber share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
import numpy as np
from bench_agent import COMMAND, find, start
from harness import finish, table

from eagle_eye.collector.nats_server import find_binary
from eagle_eye.collector.routing import Engine, RoutingClient, RoutingTable
from eagle_eye.probes.model import RoutingMessage

HERE = Path(__file__).parent
SCRAPE_S = 0.05
# One GPU: steps of 15 to 20 ms with some tens of requests in them.
STEADY = {"step_base_ms": 15.0, "step_per_request_ms": 0.1, "requests_per_second": 12.0}
# A step of 2 s comes every 5 s, and 30 requests meanwhile.
BLIND = {"step_base_ms": 15.0, "requests_per_second": 15.0, "output_tokens": 20, "stall_every_s": 5.0, "stall_s": 2.0}
BOUNDS = {"step_p50_ms": 1.0, "step_p99_ms": 5.0, "view_age_ms": 60.0, "fleet_age_p99_ms": 50.0}
ENGINES, PROCESSES, RATE = 1000, 4, 20


@contextmanager
def machine() -> Iterator[tuple[str, str]]:
    """A NATS server and an agent on it: their addresses."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = nats_server(stack, folder)
        _, lines = start(
            stack, COMMAND, "agent", "--nats", address, "--listen", "127.0.0.1:0", "--state-dir", folder / "state",
            "--log-format", "logfmt",
        )  # fmt: skip
        yield address, find(lines, r"metrics_url=(\S+)")


def nats_server(stack: ExitStack, folder: Path) -> str:
    _, lines = start(stack, find_binary(), "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", folder / "nats")
    return "nats://" + find(lines, r"Listening for client connections on (\S+)")


@contextmanager
def simulated_engine(scenario: dict[str, float], told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Where it is; what really happened is in `told` afterwards."""
    command = [sys.executable, HERE / "engine_child.py", json.dumps(scenario)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline())
        child.stdin.close()
        told.update(json.loads(child.stdout.readline()))
    finally:
        child.kill()
        child.wait()


@asynccontextmanager
async def router(url: str) -> AsyncIterator[RoutingClient]:
    client = RoutingClient(url)
    await client.connect(20)
    yield client
    await client.close()


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"p50_ms": float("nan"), "p99_ms": float("nan"), "max_ms": float("nan"), "count": 0}
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "max_ms": round(float(most), 3),
        "count": len(values),
    }


class Scraper:
    """Reads the engine's page every 50 ms in a thread's turn, as gateways do; `step_end_ns` is how new its view is."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.delays_ms: list[float] = []
        self.step_end_ns = 0
        self.waiting = 0

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self._scrape)
            await asyncio.sleep(SCRAPE_S)

    def _scrape(self) -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=5) as answer:
            values = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines())
            if values and int(values["vllm:step_end_ns"]) != self.step_end_ns:
                self.step_end_ns = int(values["vllm:step_end_ns"])
                self.delays_ms.append((time.monotonic_ns() - self.step_end_ns) / 1e6)
                self.waiting = int(values["vllm:num_requests_waiting"])


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("the agent does not tell of the engine")
        await asyncio.sleep(0.02)


async def steady(seconds: float) -> dict[str, Any]:
    """Step end to callback, beside bare nats-py and a scraper."""
    told: dict[str, Any] = {}
    delays: list[float] = []
    payloads: list[bytes] = []
    with machine() as (url, page), simulated_engine(STEADY, told) as where:
        async with router(url) as client:
            seen: set[int] = set()

            def hear(engine: Engine) -> None:
                message = engine.message
                if message.instance == where["instance"] and message.kind == "step" and message.step not in seen:
                    seen.add(message.step)
                    delays.append((time.monotonic_ns() - message.at_ns) / 1e6)
                    payloads.append(msgspec.json.encode(message))

            await client.subscribe(hear)
            await until(lambda: len(delays) > 50)
            delays.clear()
            scraper = Scraper(where["port"])
            scraping = asyncio.create_task(scraper.run())
            await asyncio.sleep(seconds)
            scraping.cancel()
            books = read_books(page)
            missed = sum(engine.missed for engine in client.table)
        bare = await bare_nats(url, payloads[-200:], len(delays) / seconds, seconds / 2)
    accounted = books["delivered"] + books["coalesced"] + books["dropped"] + books["held"]
    return {
        "feed": percentiles(delays),
        "nats_py": percentiles(bare),
        "scraper_50_ms": percentiles(scraper.delays_ms),
        "changes": books["changes"],
        "accounted_for": accounted,
        **{name: books[name] for name in ("delivered", "coalesced", "dropped")},
        "missed_by_router": missed,
        "steps_of_engine": told["steps"],
    }


def read_books(page: str) -> dict[str, int]:
    """The feed's own counters, from the agent's page."""
    with urllib.request.urlopen(page, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    names = ("changes", "delivered", "coalesced", "dropped", "held")
    found = dict.fromkeys(names, 0)
    for line in lines:
        for name in names:
            if line.startswith((f"eagle_eye_routing_{name}_total", f"eagle_eye_routing_{name} ")):
                found[name] += int(float(line.rsplit(" ", 1)[1]))
    return found


async def bare_nats(url: str, payloads: list[bytes], rate: float, seconds: float) -> list[float]:
    """The same bytes at the same rate, from one nats-py to another in the same process."""
    sender, reader = await nats.connect(url), await nats.connect(url)
    delays: list[float] = []
    sent_ns: list[int] = []

    async def hear(message: nats.aio.msg.Msg) -> None:
        msgspec.json.decode(message.data, type=RoutingMessage)
        delays.append((time.monotonic_ns() - sent_ns[len(delays)]) / 1e6)

    await reader.subscribe("bench.bare", cb=hear)
    await reader.flush()
    await reader.flush()
    for number in range(int(rate * seconds)):
        sent_ns.append(time.monotonic_ns())
        await sender.publish("bench.bare", payloads[number % len(payloads)])
        await asyncio.sleep(1 / rate)
    await asyncio.sleep(0.1)
    await sender.close()
    await reader.close()
    return delays


async def blind(seconds: float) -> dict[str, Any]:
    """A step of 2 s with 30 arrivals: what the router knows of the queue, and how old that is, every millisecond."""
    told: dict[str, Any] = {}
    rows: list[tuple[int, float, int, float, int]] = []
    with machine() as (url, _), simulated_engine(BLIND, told) as where:
        async with router(url) as client:
            await until(lambda: client.table.find(where["instance"]))
            engine = client.table.find(where["instance"])
            assert engine is not None
            scraper = Scraper(where["port"])
            scraping = asyncio.create_task(scraper.run())
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                now_ns = time.monotonic_ns()
                scraped_ms = (now_ns - scraper.step_end_ns) / 1e6
                rows.append((now_ns, engine.age_ns(now_ns) / 1e6, engine.queue or 0, scraped_ms, scraper.waiting))
                await asyncio.sleep(0.001)
            scraping.cancel()
    scenes = [stall for stall in told["stalls"] if rows[0][0] < stall["start_ns"] and stall["end_ns"] < rows[-1][0]]
    inside = [row for row in rows if any(one["start_ns"] < row[0] < one["end_ns"] for one in scenes)]
    last = [max(row for row in rows if row[0] < one["end_ns"]) for one in scenes]
    return {
        "scenes": len(scenes),
        "feed": percentiles([row[1] for row in inside]),
        "scraper_50_ms": percentiles([row[3] for row in inside]),
        "queue_at_the_end": [one["queue"] for one in scenes],
        "queue_as_the_router_saw_it": [row[2] for row in last],
        "queue_as_the_scraper_saw_it": [row[4] for row in last],
    }


async def fleet(seconds: float) -> dict[str, Any]:
    """1,000 engines with 20 changes a second each, from feeds in other processes, into one table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = nats_server(stack, folder)
        delays: list[float] = []
        async with router(url) as client:
            how = [str(ENGINES // PROCESSES), str(RATE), str(seconds)]
            children = [
                subprocess.Popen(
                    [sys.executable, HERE / "feed_child.py", url, f"node{number}", *how],
                    stdout=subprocess.PIPE, text=True,
                )
                for number in range(PROCESSES)
            ]  # fmt: skip
            await until(lambda: len(client.table) == ENGINES)
            await asyncio.sleep(1)  # so many at once is how they start, not how they work
            await client.subscribe(lambda engine: delays.append(engine.age_ns(time.monotonic_ns()) / 1e6))
            before, cpu, taken = time.monotonic(), time.thread_time(), client.table.taken
            ages: list[float] = []
            while time.monotonic() < before + seconds * 0.8:
                await asyncio.sleep(0.25)
                now_ns = time.monotonic_ns()
                ages += [engine.age_ns(now_ns) / 1e6 for engine in client.table]
            took_s, cpu_s = time.monotonic() - before, time.thread_time() - cpu
            taken = client.table.taken - taken
            outputs = await asyncio.gather(*(asyncio.to_thread(child.communicate) for child in children))
            await asyncio.sleep(0.5)
            books = [json.loads(output) for output, _ in outputs]
            return {
                "messages_per_second": round(taken / took_s),
                "arrival_age": percentiles(delays),
                "view_age": percentiles(ages),
                "router_cpu_us_per_message": round(cpu_s / max(1, taken) * 1e6, 2),
                "router_cpu_ratio": round(cpu_s / took_s, 3),
                "lost": sum(engine.missed for engine in client.table),
                **{
                    name: sum(each[name] for each in books)
                    for name in ("produced", "delivered", "coalesced", "dropped")
                },
            }


def micro() -> dict[str, float]:
    """What the table costs, without NATS; its peer is json.loads into a dict."""
    payloads = [[sample(engine, seq) for engine in range(ENGINES)] for seq in range(1, 6)]
    known = RoutingTable()
    mine = cpu_us(lambda payload: known.take(payload), payloads)
    latest: dict[str, Any] = {}

    def peer(payload: bytes) -> None:
        message = json.loads(payload)
        latest[message["instance"]] = message

    found = {"table_take_us": mine, "json_loads_us": cpu_us(peer, payloads)}
    for engines in (2, 64, ENGINES):
        small = RoutingTable(random_source=random.Random(1))
        for payload in payloads[0][:engines]:
            small.take(payload)
        found[f"pick_of_{engines}_us"] = cpu_us(lambda _: small.pick(tokens=500), [range(200)])
    return found


def cpu_us(call: Any, batches: list[Any]) -> float:
    """The least of several turns."""
    turns = []
    for batch in batches:
        started = time.thread_time_ns()
        for one in batch:
            call(one)
        turns.append((time.thread_time_ns() - started) / len(batch) / 1e3)
    return round(min(turns), 2)


def sample(engine: int, seq: int) -> bytes:
    return msgspec.json.encode(
        RoutingMessage(
            instance=f"{engine:032x}", engine="vllm", at_ns=10**12 + seq * 10**7, kind="step", source="plugin",
            version="0.32.0", model="a-model-of-8b", node=f"node{engine % 50}", cluster="c", boot_id="boot", seq=seq,
            at_wall_ns=1, max_silence_ns=10**9, running=31, waiting=engine % 7, deferred=0, input_queue=0,
            waiting_prefill_tokens=engine % 7 * 900, running_context_tokens=31_000, max_running=128,
            max_batched_tokens=8192, kv_blocks_total=6000, kv_blocks_free=2100, kv_block_tokens=16, kv_usage_ratio=0.65,
            step_duration_ns=18_000_000, schedule_duration_ns=150_000, prefill_requests=0, prefill_tokens=0,
            decode_requests=31, decode_tokens=31, preemptions_total=0, prefill_tokens_total=10**8,
            decode_tokens_total=10**7, finished_total={"stop": 10**5, "length": 10}, steps_total=10**6,
            prefill_tokens_per_second=29_000.5, decode_tokens_per_second=1700.25, health="ok", agent="1-2",
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    logging.getLogger("eagle_eye.routing").setLevel(logging.ERROR)
    found: dict[str, Any] = {"micro": micro()}
    found["steady"] = asyncio.run(steady(seconds))
    found["blind"] = asyncio.run(blind(seconds))
    found["fleet"] = asyncio.run(fleet(seconds))
    head = ("who", "p50 ms", "p99 ms", "max ms", "of")
    rows = [(name, *found["steady"][name].values()) for name in ("feed", "nats_py", "scraper_50_ms")]
    table("End of a step to the router (bounds: p50 1 ms, p99 5 ms)", head, rows)
    rows = [(name, *found["blind"][name].values()) for name in ("feed", "scraper_50_ms")]
    table("Age of the view of the queue, while a step takes 2 s (bound: 60 ms)", head, rows)
    names = ("queue_at_the_end", "queue_as_the_router_saw_it", "queue_as_the_scraper_saw_it")
    table("Requests that waited at its end", ("who", "per scene"), [(name, found["blind"][name]) for name in names])
    rows = [(name, *found["fleet"][name].values()) for name in ("arrival_age", "view_age")]
    table(f"{ENGINES} engines, {RATE} changes a second each (bound: p99 of arrivals 50 ms)", head, rows)
    plain = [
        (name, value)
        for part in ("fleet", "micro")
        for name, value in found[part].items()
        if not isinstance(value, dict)
    ]
    table("Counts and costs", ("what", "value"), plain)
    kept: dict[str, bool] = {
        "step_latency": found["steady"]["feed"]["p50_ms"] <= BOUNDS["step_p50_ms"]
        and found["steady"]["feed"]["p99_ms"] <= BOUNDS["step_p99_ms"],
        "every_change_accounted_for": found["steady"]["changes"] == found["steady"]["accounted_for"],
        "view_of_the_queue": found["blind"]["feed"]["max_ms"] <= BOUNDS["view_age_ms"],
        "fleet_age": found["fleet"]["arrival_age"]["p99_ms"] <= BOUNDS["fleet_age_p99_ms"],
        "fleet_lost_nothing": found["fleet"]["lost"] == 0,
    }
    finish("routing", {**found, "bounds_kept": {name: bool(one) for name, one in kept.items()}})


if __name__ == "__main__":
    main()
