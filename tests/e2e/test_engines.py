"""A simulated engine as a user sees it: in the snapshot, on the routing feed, on the page, and when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import nats
import pytest

QUIET = ("--no-sched", "--no-process", "--no-tasks", "--no-kmsg", "--no-link", "--no-pressure", "--no-devices")
URL = re.compile(r"^(nats|metrics)_url=(\S+)$", re.MULTILINE)


async def until(condition, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return found


@pytest.fixture
def agent(tmp_path):
    """A running agent with the probe of engines and little else, and the file of its output."""
    output = tmp_path / "output"
    command = [sys.executable, "-m", "eagle_eye", "run", "--plain", "--simulate", "vllm", *QUIET]
    command += ["--nats-port", "0", "--listen", "127.0.0.1:0", "--interval", "100ms", "--state-dir", tmp_path / "s"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EAGLE_EYE_")}
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=kept)
    yield process, output
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    process.kill()


def child_of(process):
    """The simulated engine, which the agent started."""
    listed = subprocess.check_output(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], text=True)
    return int(re.search(r"(\d+) .*simulate engine", listed)[1])


async def test_an_engine_is_seen_everywhere_until_it_is_killed(agent):
    process, output = agent
    await until(lambda: len(URL.findall(output.read_text())) == 2)
    urls, heard = dict(URL.findall(output.read_text())), []
    client = await nats.connect(urls["nats"])

    async def take(message):
        heard.append((message.subject, json.loads(message.data)))

    await client.subscribe("eagle_eye.>", cb=take)
    pid = child_of(process)

    def states(kind):
        found = [one for name, one in heard if name.endswith(kind)]
        engines = [engine for snapshot in found for engine in snapshot["engines"]]
        return [engine for engine in engines if engine.get("pid") == pid]

    await until(lambda: [state for state in states(".snapshot") if state.get("running")])
    state = states(".snapshot")[-1]
    instance = state["instance"]
    assert (state["engine"], state["model"], state["simulated"]) == ("vllm", "simulated-8b", True)

    routed = await until(
        lambda: [one for name, one in heard if name == "eagle_eye.routing_metrics" and one["pid"] == pid]
    )
    assert (routed[-1]["instance"], routed[-1]["source"]) == (instance, "plugin")

    names = (
        "requests_running",
        "kv_usage_ratio",
        "steps_total",
        "step_seconds_bucket",
        "time_to_first_token_seconds_sum",
    )

    async def page():
        return await asyncio.to_thread(lambda: urllib.request.urlopen(urls["metrics"], timeout=5).read())

    end = time.monotonic() + 30
    while missing := [name for name in names if f"eagle_eye_engine_{name}{{".encode() not in await page()]:
        assert time.monotonic() < end, missing
        await asyncio.sleep(0.1)
    checked = subprocess.run(["promtool", "check", "metrics"], input=await page(), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")

    os.kill(pid, signal.SIGKILL)
    gone = await until(
        lambda: [
            one for name, one in heard if name.endswith(".event.engine.gone") and one["attributes"].get("pid") == pid
        ]
    )
    assert (gone[0]["severity"], gone[0]["attributes"]["instance"]) == ("error", instance)
    await until(
        lambda: [
            one
            for name, one in heard
            if name == "eagle_eye.routing_metrics" and one["instance"] == instance and one["kind"] == "gone"
        ]
    )
    assert not os.path.exists(f"/dev/shm/eagle-eye-engine-{instance}.ring")
    await client.close()


async def test_plain_lines_tell_of_engines(agent):
    _, output = agent
    await until(lambda: "engines_simulated=" in output.read_text())
    line = next(line for line in output.read_text().splitlines() if "engine.started" in line and "simulated" in line)
    assert "vllm simulated" in line
    assert "serves simulated-8b" in line
