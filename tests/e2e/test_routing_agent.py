"""The routing feed of a whole agent: a simulated engine's shared memory, the real kernel log, and a router's table."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from eagle_eye.collector.routing import RoutingClient
from eagle_eye.probes.engine.simulator import Fleet, Scenario, SimulatedEngine

KMSG = Path("/dev/kmsg")
QUIET = ("sched", "process", "tasks", "link", "pressure", "tracepoints", "aer")
BUS = f"0fef:{os.getpid() & 0xFF:02x}"
README = Path(__file__).resolve().parents[2] / "collector/README.md"


@pytest.fixture
def simulated():
    """`simulated(**scenario)`: a simulated engine that works in a thread until the test ends."""
    ended = threading.Event()
    made: list[tuple[Fleet, threading.Thread]] = []

    def work(fleet: Fleet) -> None:
        while not ended.is_set():
            fleet.run_until(time.monotonic_ns() + 10_000_000)

    def make(**scenario) -> SimulatedEngine:
        fleet = Fleet([SimulatedEngine(Scenario(**scenario))])
        thread = threading.Thread(
            target=lambda: [fleet.run_until(time.monotonic_ns() + 10**7) for _ in iter(ended.is_set, True)]
        )
        thread.start()
        made.append((fleet, thread))
        return fleet.engines[0]

    yield make
    ended.set()
    for fleet, thread in made:
        thread.join(10)
        fleet.close()


@pytest.fixture
def agent(tmp_path, children, until):
    """`await agent(url, *words)` starts one and waits for its page."""

    async def start(url: str, *words: str) -> tuple[subprocess.Popen[bytes], str]:
        output = tmp_path / f"output{time.monotonic_ns()}"
        command = [sys.executable, "-m", "eagle_eye", "agent", "--nats", url, "--listen", "127.0.0.1:0"]
        command += ["--state-dir", str(tmp_path / "state"), "--interval", "100ms", "--log-format", "logfmt", *words]
        with output.open("wb") as file:
            process = children([*command, *(f"--no-{name}" for name in QUIET)], stdout=file, stderr=file)
        await until(lambda: "metrics_url=" in output.read_text() or process.poll() is not None, 30)
        assert process.poll() is None, output.read_text()
        return process, re.search(r"metrics_url=(\S+)", output.read_text())[1]

    return start


def series(page: str) -> dict[str, float]:
    with urllib.request.urlopen(page, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("eagle_eye_routing")
    }


async def test_steps_reach_the_router_also_over_a_kill_of_the_agent(server, agent, simulated, until):
    real = server()
    real.start()
    engine = simulated(requests_per_second=50.0, prompt_tokens=200, output_tokens=20)
    process, page = await agent(real.url)
    client = RoutingClient(real.url)
    await client.connect(10)
    steps: list[int] = []
    await client.subscribe(lambda one: steps.append(one.message.step) if one.instance == engine.instance else None)
    await until(lambda: len(steps) > 50, 30)
    found = client.table.find(engine.instance)

    assert found.message.simulated
    assert found.message.model == "simulated-8b"
    assert found.freshness(time.monotonic_ns()) == "fresh"
    await until(lambda: found.message.prefill_tokens_per_second, 30)
    assert 5_000 < found.message.prefill_tokens_per_second < 60_000, "30,000, and what a step takes besides"
    counted = series(page)
    outcomes = ("delivered_total", "coalesced_total", "held")
    assert counted["eagle_eye_routing_changes_total"] == sum(counted[f"eagle_eye_routing_{one}"] for one in outcomes)
    assert counted["eagle_eye_routing_changes_total"] >= len(set(steps))

    process.send_signal(signal.SIGKILL)
    process.wait(10)
    await until(lambda: found.freshness(time.monotonic_ns()) == "unknown", 30)
    last = found.message.step
    await agent(real.url)
    await until(lambda: found.message.step > last and found.freshness(time.monotonic_ns()) == "fresh", 30)
    await client.close()


@pytest.mark.skipif(not os.access(KMSG, os.W_OK), reason="needs a writable kernel log")
async def test_a_fault_in_the_kernel_log_makes_routers_careful(server, agent, simulated, until):
    real = server()
    real.start()
    engine = simulated()
    await agent(real.url)
    client = RoutingClient(real.url)
    await client.connect(10)
    await until(lambda: (found := client.table.find(engine.instance)) and found.message.health == "ok", 30)
    found = client.table.find(engine.instance)
    KMSG.write_text(f"NVRM: Xid (PCI:{BUS}:01): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n")
    await until(lambda: found.message.health == "degraded", 30)

    assert "79" in found.message.health_reason
    assert "not known" in found.message.health_reason
    await client.close()


async def test_switched_off_it_says_nothing(server, agent, simulated):
    real = server()
    real.start()
    simulated()
    _, page = await agent(real.url, "--no-routing")
    client = RoutingClient(real.url)
    await client.connect(10)
    await asyncio.sleep(0.5)

    assert len(client.table) == 0
    assert series(page) == {}
    await client.close()


async def test_the_example_of_the_readme_runs(server, agent, simulated, capsys):
    real = server()
    real.start()
    simulated(model="llama")
    await agent(real.url)
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(code.replace("nats://127.0.0.1:4222", real.url), names)
    said = ""
    async with asyncio.timeout(30):
        while not re.search(r"^ (idle|busy) \d+\.\d+$", said, re.MULTILINE):
            await names["main"]()
            said += capsys.readouterr().out
