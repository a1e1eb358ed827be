"""What a page of metrics costs: gathered, made into families, rendered, and fetched over HTTP.

The peer is prometheus_client alone, with the same series as its own objects: the floor under any
exporter that uses it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import aiohttp
import numpy as np
from harness import finish, table
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as PeerHistogram

from eagle_eye.collector.exporter import Exporter, Source
from eagle_eye.collector.self_cost import read_usage
from eagle_eye.collector.web import WebServer
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Histogram, Metric, Series

WAITS = Metric("eagle_eye_bench_wait_seconds", "histogram", "Waits.", ("cpu",))
SEEN = Metric("eagle_eye_bench_seen_total", "counter", "Things seen.", ("cgroup", "kind"))
BOUNDS = tuple(1e-6 * 2.0**power for power in range(26))
HISTOGRAMS, COUNTERS, ROUNDS, SCRAPES = 30, 630, 41, 20
GROUP = "/kubepods.slice/kubepods-burstable.slice/pod{:08x}"


def make_exporter() -> Exporter:
    waits = [Series(WAITS, Histogram(BOUNDS, np.arange(27), 1.5), (str(cpu),)) for cpu in range(HISTOGRAMS)]
    seen = [Series(SEEN, number, (GROUP.format(number), "x")) for number in range(COUNTERS)]
    exporter = Exporter()
    exporter.add(Source("bench", (WAITS, SEEN), lambda: [*waits, *seen]))
    return exporter


def make_peer() -> CollectorRegistry:
    registry = CollectorRegistry()
    waits = PeerHistogram("bench_wait_seconds", "Waits.", ["cpu"], buckets=BOUNDS, registry=registry)
    seen = Counter("bench_seen", "Things seen.", ["cgroup", "kind"], registry=registry)
    for cpu in range(HISTOGRAMS):
        waits.labels(str(cpu)).observe(1e-3)
    for number in range(COUNTERS):
        seen.labels(GROUP.format(number), "x").inc(number)
    return registry


def milliseconds(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU time of the thread for one call; the steps take turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.thread_time_ns()
            step()
            taken[name].append((time.thread_time_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


async def fetch(exporter: Exporter) -> tuple[float, float]:
    """Median time of one scrape, and CPU time of this process per scrape, client included."""
    server = WebServer(exporter, ("127.0.0.1", 0))
    await server.start()
    times = []
    cpu = 0.0
    async with aiohttp.ClientSession(headers={"Accept-Encoding": "gzip"}) as session:
        for _ in range(SCRAPES):
            await asyncio.sleep(0.25)
            started, cpu_started = time.perf_counter(), time.process_time()
            async with session.get(server.url + "/metrics") as response:
                await response.read()
            times.append((time.perf_counter() - started) * 1e3)
            cpu += (time.process_time() - cpu_started) * 1e3
    await server.close()
    return statistics.median(times), cpu / SCRAPES


def main() -> None:
    exporter, peer = make_exporter(), make_peer()
    gathered = exporter.gather()
    source, series = gathered.parts[-1]
    page = exporter.render(gathered)
    costs = milliseconds(
        {
            "gather, on the event loop": exporter.gather,
            "make families": lambda: exporter.families(source, series),
            "render text, families included": lambda: exporter.render(gathered),
            "render OpenMetrics, families included": lambda: exporter.render(gathered, openmetrics=True),
            "peer: prometheus_client, text": lambda: generate_latest(peer),
        }
    )
    scrape_ms, scrape_cpu_ms = asyncio.run(fetch(exporter))
    costs |= {"scrape over HTTP, gzip, wall time": scrape_ms, "scrape over HTTP, gzip, CPU": scrape_cpu_ms}
    lines = page.count(b"\n")
    table(f"One page of {lines} lines, {len(page)} bytes", ("step", "ms"), list(costs.items()))
    finish(
        "page",
        {
            "lines": lines,
            "bytes": len(page),
            "milliseconds": {name: round(value, 3) for name, value in costs.items()},
            "resident_bytes": read_usage(Paths().proc, "self").resident_bytes,
        },
    )


if __name__ == "__main__":
    main()
