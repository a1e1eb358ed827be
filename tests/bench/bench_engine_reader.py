"""How soon a scheduler step is known, and what watching engines costs: none, idle ones, busy ones.

The engines are simulated, in a process of their own; they write what the plugin writes. The peer is what routers do
without it: a page of metrics as large as vLLM's, fetched every 50 ms and parsed by prometheus_client. How old its
news is follows from the period alone, and is said beside it.
"""

from __future__ import annotations

import http.client
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
from harness import finish, table
from prometheus_client.parser import text_string_to_metric_families

from eagle_eye.probes.engines import SPEC, Engines
from eagle_eye.probes.model import EngineState
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource

SECONDS = 8.0
SNAPSHOT_S = 0.5
SCRAPE_S = 0.05
PAGE_LINES = 614
WRITER = """
import sys, time
from eagle_eye.probes.engine.simulator import Fleet, Scenario, SimulatedEngine
folder, engines, step_ms, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
scenario = Scenario(requests_per_second=rate, step_base_ms=step_ms, step_per_request_ms=0, prompt_tokens=30)
fleet = Fleet([SimulatedEngine(scenario, directory=folder, dp_rank=rank) for rank in range(engines)])
while True:
    fleet.run_until(time.monotonic_ns() + 10**9)
"""
# Engines, milliseconds of a step, requests per second of each.
SCENES = {
    "no engine": (0, 0.0, 0.0),
    "4 idle engines": (4, 5.0, 0.0),
    "1 engine, 33 steps/s": (1, 30.0, 8.0),
    "4 engines, 200 steps/s each": (4, 5.0, 20.0),
}


@contextmanager
def watching(engines: int, step_ms: float, rate: float) -> Iterator[Engines]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name) / "shm"
        folder.mkdir()
        words = [str(folder), str(engines), str(step_ms), str(rate)]
        writer = subprocess.Popen([sys.executable, "-c", WRITER, *words])
        options = {one.name: None if one.default is None else one.parse(one.default, one.name) for one in SPEC.options}
        events = EventSource("engines", node="bench", cluster="bench", boot_id="bench")
        # The node's own /proc, so that the search costs what it costs.
        probe = Engines(Context(paths=Paths(dev=Path(name)), options=options, events=events))
        try:
            yield probe
        finally:
            probe.close()
            writer.kill()
            writer.wait()


def measure(probe: Engines, engines: int) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while len(probe._ranks) < engines and time.monotonic() < deadline:
        time.sleep(0.1)
        probe.sample(time.monotonic_ns())
    run(probe, 2.0, lambda *_: None)
    late: list[float] = []
    poll = probe._ranks.poll
    polled = poll.counts().cpu_ns if poll else 0
    process, thread = time.process_time(), time.thread_time()
    before = [(rank.ring.next, rank.ring.delivered, rank.ring.missed) for rank in probe._ranks]

    def note(state: EngineState, now_ns: int) -> None:
        late.append((now_ns - state.at_ns) / 1e6)

    rounds = run(probe, SECONDS, note)
    after = [(rank.ring.next, rank.ring.delivered, rank.ring.missed) for rank in probe._ranks]
    produced, delivered, missed = (sum(b[i] - a[i] for a, b in zip(before, after, strict=True)) for i in range(3))
    assert delivered + missed == produced
    found = {
        "rounds_per_second": rounds / SECONDS,
        "records_per_second": produced / SECONDS,
        "missed": float(missed),
        "poller_percent": (poll.counts().cpu_ns - polled) / 1e7 / SECONDS if poll else 0.0,
        "probe_percent": (time.thread_time() - thread) * 100 / SECONDS,
        "process_percent": (time.process_time() - process) * 100 / SECONDS,
    }
    if late:
        p50, p99 = np.percentile(late, [50, 99])
        found |= {"p50_ms": float(p50), "p99_ms": float(p99)}
    return found


def run(probe: Engines, seconds: float, note: Callable[[EngineState, int], None]) -> int:
    """Rounds as the agent makes them: when woken, and with every snapshot."""
    end, rounds = time.monotonic() + seconds, 0
    snapshot = 0.0
    while (now := time.monotonic()) < end:
        woken = select.select(probe.wake_fds(), [], [], max(0.0, min(end, snapshot + SNAPSHOT_S) - now))[0]
        if not woken and time.monotonic() < snapshot + SNAPSHOT_S:
            continue
        snapshot = snapshot if woken else time.monotonic()
        sample = probe.sample(time.monotonic_ns())
        now_ns = time.monotonic_ns()
        rounds += 1
        for state in sample.engines:
            if state.kind == "step":
                note(state, now_ns)
    return rounds


def page() -> bytes:
    """As many lines as vLLM 0.32 has, of the same sort."""
    lines = ['vllm:num_requests_running{engine="0",model_name="m"} 3.0']
    for number in range(PAGE_LINES - 1):
        lines.append(f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="{number}.0",model_name="m"}} {number}.0')
    return ("\n".join(lines) + "\n").encode()


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    body = page()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def scraped() -> dict[str, float]:
    """One engine's page every 50 ms: CPU of the client's thread alone."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    took, started, thread = [], time.monotonic(), time.thread_time()
    while time.monotonic() - started < SECONDS / 2:
        begun = time.monotonic()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        assert any(family.name == "vllm:num_requests_running" for family in text_string_to_metric_families(text))
        took.append((time.monotonic() - begun) * 1e3)
        time.sleep(max(0.0, SCRAPE_S - (time.monotonic() - begun)))
    percent = (time.thread_time() - thread) * 100 / (time.monotonic() - started)
    connection.close()
    server.shutdown()
    server.server_close()
    # News is on average half a period old when it is fetched, and as old as the fetch takes.
    return {"probe_percent": percent, "p50_ms": SCRAPE_S * 500 + statistics.median(took)}


def main() -> None:
    found: dict[str, dict[str, float]] = {}
    for scene, (engines, step_ms, rate) in SCENES.items():
        with watching(engines, step_ms, rate) as probe:
            found[scene] = measure(probe, engines)
    found["peer: 1 page every 50 ms"] = scraped()
    columns = (
        "records_per_second",
        "rounds_per_second",
        "p50_ms",
        "p99_ms",
        "poller_percent",
        "probe_percent",
        "process_percent",
    )
    rows = [(scene, *(one.get(column, "-") for column in columns)) for scene, one in found.items()]
    table("A step's end until it is known, and CPU in percent of a core", ("", *columns), rows)
    finish("engine_reader", found)


if __name__ == "__main__":
    main()
