"""Simulated accelerators as a user sees them, on NATS and on the page, while devices hang, crash and fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import nats
import pytest
import pytest_asyncio

from eagle_eye.native.simulator import Simulation

QUIET = ("--no-sched", "--no-process", "--no-tasks", "--no-kmsg", "--no-link", "--no-pressure")
URL = re.compile(r"^(nats|metrics)_url=(\S+)$", re.MULTILINE)
GOLDEN = Path(__file__).parents[1] / "fixtures/golden"
INTERVAL_S = 0.1


class Agent:
    """`eagle-eye run --simulate` with nothing but devices, its simulation, and what it publishes."""

    def __init__(self, folder: Path, profile: str, *words: str) -> None:
        self.messages: list[tuple[float, str, dict]] = []
        self.output = folder / "output"
        command = [sys.executable, "-m", "eagle_eye", "run", "--plain", "--simulate", profile, *QUIET]
        command += ["--nats-port", "0", "--listen", "127.0.0.1:0", "--interval", "100ms", "--state-dir", folder / "s"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EAGLE_EYE_")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *words], stdout=output, stderr=output, env={**kept, "TMPDIR": str(folder)}
            )
        self._folder = folder

    async def ready(self) -> None:
        await until(lambda: len(URL.findall(self.text)) == 2 or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.text
        urls = dict(URL.findall(self.text))
        self.page_url = urls["metrics"]
        self.client = await nats.connect(urls["nats"])
        await self.client.subscribe("eagle_eye.v1.>", cb=self._take)
        (state,) = self._folder.glob("eagle-eye-simulation-*/*.state")
        self.simulation = Simulation.open(state)
        await until(lambda: self.snapshots and len(self.newest["device_readings"]) == 8, 20)

    async def _take(self, message) -> None:
        self.messages.append((time.monotonic(), message.subject, json.loads(message.data)))

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def snapshots(self) -> list[dict]:
        return [payload for _, subject, payload in self.messages if subject.endswith(".snapshot")]

    @property
    def newest(self) -> dict:
        return self.snapshots[-1]

    def intervals(self, since: float, until: float) -> list[float]:
        """Seconds from one snapshot to the next."""
        at = [
            one["at_ns"] for at, subject, one in self.messages if subject.endswith(".snapshot") and since < at < until
        ]
        return [(after - before) / 1e9 for before, after in pairwise(at)]

    def reading(self, index: int) -> dict:
        uuid = self.newest["devices"][index]["uuid"]
        return next((one for one in self.newest["device_readings"] if one["entity"] == uuid), {"values": {}})

    def health(self) -> dict:
        return next(one for one in self.newest["health"] if one["probe"] == "devices")

    async def event(self, kind: str, timeout_s: float = 20.0) -> tuple[float, dict]:
        """The first event of a kind, and when it arrived."""

        def found() -> list[tuple[float, dict]]:
            return [(at, one) for at, subject, one in self.messages if subject.endswith(f".event.{kind}")]

        await until(found, timeout_s)
        return found()[0]

    def page(self) -> str:
        with urllib.request.urlopen(self.page_url, timeout=5) as answer:
            return answer.read().decode()

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    async def stop(self) -> None:
        with contextlib.suppress(Exception):
            await self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        await asyncio.to_thread(self.process.wait, 15)


def p99_s(intervals: list[float]) -> float:
    assert len(intervals) >= 100
    return statistics.quantiles(intervals, n=100)[98]


async def until(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def agent(tmp_path):
    """`await agent(profile)` starts one; all are stopped with the test."""
    made: list[Agent] = []

    async def start(profile: str = "h100x8", *words: str) -> Agent:
        folder = tmp_path / f"agent{len(made)}"
        folder.mkdir()
        made.append(Agent(folder, profile, *words))
        await made[-1].ready()
        return made[-1]

    yield start
    for each in made:
        try:
            await each.stop()
        finally:
            each.process.kill()


async def test_eight_devices_are_on_nats_and_on_the_page(agent):
    one = await agent()
    page = one.page()

    assert [device["index"] for device in one.newest["devices"]] == list(range(8))
    assert all(device["simulated"] for device in one.newest["devices"])
    assert one.health()["state"] == "ok"
    assert one.newest["topology"]
    for index in range(8):
        assert 'eagle_eye_device_temperature_celsius{sensor="core"}' in one.reading(index)["values"]
        assert re.search(rf'^eagle_eye_device_power_watts{{gpu="{index}",model="[^"]+",uuid="GPU-[^"]+"}} ', page, re.M)


async def test_a_hung_call_costs_the_others_nothing(agent):
    one = await agent()
    uuid = one.newest["devices"][3]["uuid"]
    await asyncio.sleep(12)
    hung = time.monotonic()
    calm_s = p99_s(one.intervals(0, hung))
    one.simulation.set(3, {"call.power.hang": 1})
    arrived, event = await one.event("device.call_stuck")
    # The call is made at the next beat; the deadline is 1 s, the event leaves within 100 ms, the rest is the way.
    assert arrived - hung < 0.1 + 1.0 + 0.1 + 0.3
    assert (event["entity"], event["attributes"]["group"]) == (uuid, "power")
    assert event["attributes"]["stack"]
    await asyncio.sleep(30 - (time.monotonic() - hung))
    taken = [(at, one) for at, subject, one in one.messages if subject.endswith(".snapshot") and at > hung]
    one.simulation.set(3, fault="clear")

    # What the machine's other work does to the beat, it did before too.
    stuck_s = p99_s(one.intervals(hung, time.monotonic()))
    assert stuck_s < 1.2 * max(INTERVAL_S, calm_s), f"p99 of the interval went from {calm_s} s to {stuck_s} s"
    ages = sorted(
        (snapshot["at_ns"] - reading["at_ns"]) / 1e9
        for at, snapshot in taken
        if at > hung + 4
        for reading in snapshot["device_readings"]
        if reading["entity"] != uuid
    )
    assert len(ages) > 1000
    assert ages[int(0.99 * len(ages))] < 0.3, f"the others' samples are {ages[-1]} s old"
    assert one.health()["state"] == "degraded"
    assert uuid in one.health()["reason"]
    await one.event("device.call_recovered", 60)


async def test_a_crash_and_an_xid_arrive_as_events(agent):
    one = await agent()
    one.simulation.set(5, xid=79)
    _, xid = await one.event("device.xid")
    one.simulation.set(2, {"call.memory.crash": 1})
    _, died = await one.event("device.worker_died")

    assert (xid["attributes"]["xid"], xid["severity"]) == (79, "fatal")
    assert died["attributes"]["signal"] == "SIGSEGV"
    assert died["entity"] == one.newest["devices"][2]["uuid"]
    await until(lambda: one.newest["at_ns"] - one.reading(0).get("at_ns", 0) < 0.5e9, 10)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_no_worker_outlives_the_agent(agent, how):
    one = await agent()
    workers = [pid for pid in one.children() if "device_worker" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert workers
    one.process.send_signal(how)
    await asyncio.to_thread(one.process.wait, 15)

    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 3)


@pytest.mark.parametrize("profile", ["h100x8", "ascend910bx8"])
async def test_the_page_is_the_golden_one(agent, profile, request):
    """Series, labels and help texts; the values move. `pytest --update-golden` writes them anew."""
    one = await agent(profile)
    await asyncio.sleep(3)  # each group of calls was made once
    lines = [line for line in one.page().splitlines() if "eagle_eye_device_" in line]
    shape = [line if line.startswith("#") else line.rpartition(" ")[0] for line in lines]
    text = "\n".join(line for line in shape if not re.search(r"_(bucket|created)\b", line)) + "\n"
    text = re.sub(r'numa_node="-?\d+"', 'numa_node="?"', text)  # of the machine that runs the test
    file = GOLDEN / f"{profile}.metrics"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert text == file.read_text()


@pytest.fixture
def container_process():
    """A process in a cgroup as the kubelet makes them: its pid, pod uid and container id."""
    base = next(
        path for path in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")) if (path / "cgroup.procs").exists()
    )
    pod, container = "8a0c1f9e-6f1b-4f7e-9a55-0c2f6f1d3b7a", "c0ffee" * 10 + "beef"
    folders = [base / "kubepods", base / "kubepods/burstable", base / f"kubepods/burstable/pod{pod}"]
    folders.append(folders[-1] / container)
    made = [folder for folder in folders if not folder.exists() and not folder.mkdir()]
    child = subprocess.Popen(["sleep", "300"])
    (folders[-1] / "cgroup.procs").write_text(str(child.pid))
    yield child.pid, pod, container
    child.kill()
    child.wait()
    for folder in reversed(made):
        folder.rmdir()


async def test_memory_of_a_process_is_its_containers(agent, container_process):
    pid, pod, container = container_process
    one = await agent("h100x8", "--devices-hami")
    uuid = one.newest["devices"][1]["uuid"]
    one.simulation.set(1, {f"process.{pid}.memory_bytes": 40 << 30})

    pattern = rf'^eagle_eye_device_process_memory_bytes{{container="([^"]*)",[^}}]*pod="([^"]*)",uuid="{uuid}"}} (\S+)$'
    await until(lambda: any(float(found[2]) == 40 << 30 for found in re.findall(pattern, one.page(), re.M)), 10)
    found = {(name, owner): float(value) for name, owner, value in re.findall(pattern, one.page(), re.M)}
    assert found[container[:12], pod] == 40 << 30
    assert re.search(r"^hami_gpu_memory_total_bytes{.*} \d", one.page(), re.M)
