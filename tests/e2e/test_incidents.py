"""Incidents of the real agent: from lines of the real kernel log to NATS, the page, the command and the next agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest

from eagle_eye.collector.commands.incidents import read
from eagle_eye.collector.incidents.incidents import DIRECTORY
from eagle_eye.native.errors import EagleEyeError
from eagle_eye.native.simulator import Simulation, parse_changes

KMSG = Path("/dev/kmsg")
QUIET = ("sched", "process", "tasks", "link", "pressure", "devices", "engines", "tracepoints", "aer")
# Nobody has so many PCI segments; every run takes another bus, for the log keeps what it is told.
BUS = f"0fee:{os.getpid() & 0xFF:02x}"

pytestmark = pytest.mark.skipif(not os.access(KMSG, os.W_OK), reason="needs a writable kernel log")


def incidents(state_dir: Path) -> list[dict]:
    """The saved open incidents, as `eagle-eye incidents -j` prints them, without a process for each look."""
    try:
        return [json.loads(msgspec.json.encode(one)) for one in read(state_dir / DIRECTORY) if one.state == "open"]
    except EagleEyeError:
        return []


class Node:
    """An agent on a state folder, told the real kernel log."""

    def __init__(self, server, folder: Path, children) -> None:
        self._server = server
        self._children = children
        self.state_dir = folder / "state"
        self._folder = folder
        self._starts = 0
        self.process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        return (self._folder / f"output{self._starts}").read_text()

    async def start(self, until) -> None:
        self._starts += 1
        command = [sys.executable, "-m", "eagle_eye", "agent", "--nats", self._server.url, "--listen", "127.0.0.1:0"]
        command += ["--state-dir", str(self.state_dir), "--interval", "100ms", "--log-format", "logfmt"]
        with (self._folder / f"output{self._starts}").open("wb") as output:
            self.process = self._children([*command, *(f"--no-{name}" for name in QUIET)], stdout=output, stderr=output)
        await until(lambda: "metrics_url=" in self.output or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.output

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0, self.output

    def page(self) -> str:
        found = re.search(r"metrics_url=(\S+)", self.output)
        assert found is not None
        with urllib.request.urlopen(found[1], timeout=10) as answer:
            return answer.read().decode()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eagle_eye", "incidents", "--state-dir", str(self.state_dir), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def open(self) -> list[dict]:
        """The saved open incidents of this run's bus."""
        return [one for one in incidents(self.state_dir) if BUS in one["entity"]]

    async def events(self, kind: str) -> list[dict]:
        messages = [json.loads(message.data) for message in await self._server.stored()]
        return [one for one in messages if one["kind"] == kind and BUS in one["entity"]]


@pytest.fixture
def node(server, tmp_path, children):
    nats = server()
    nats.start()
    return Node(nats, tmp_path, children)


def write(device: int, text: str) -> None:
    KMSG.write_text(f"NVRM: Xid (PCI:{BUS}:{device:02x}): {text}\n")


async def test_lines_become_one_incident_that_outlives_a_kill_and_ends_by_the_operator(node, until):
    await node.start(until)
    write(1, "79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    write(1, "45, pid=77, name=python3, Ch 00000010")
    await until(lambda: node.open() and len(node.open()[0]["parts"]) == 2, 30)
    (incident,) = node.open()
    assert (incident["code"], incident["action"], incident["severity"]) == ("79", "reboot_node", "fatal")
    assert {part["code"]: part["role"] for part in incident["parts"]} == {"79": "cause", "45": "victim"}
    assert [json.loads(line) for line in node.command("-j").stdout.splitlines() if BUS in line] == [incident]
    page = node.page()
    assert re.search(rf'eagle_eye_fault_active{{[^}}]*code="79",device="{BUS}:01.0"[^}}]*}} 1.0', page)
    assert 'eagle_eye_incidents_open{action="reboot_node",severity="fatal"}' in page

    node.kill()
    await node.start(until)
    assert node.open() == [incident]
    write(1, "45, pid=78, name=python3, Ch 00000011")
    await until(lambda: node.open()[0]["occurrences"] == 3, 30)
    assert node.open()[0]["id"] == incident["id"]

    done = node.command("clear", incident["id"][:6], "--reason", "a test")
    assert done.returncode == 0, done.stderr
    assert node.open() == []
    node.stop()

    assert len(await node.events("incident.opened")) == 1
    (cleared,) = await node.events("incident.cleared")
    assert cleared["attributes"]["cleared_by"].endswith(": a test")
    assert cleared["attributes"]["id"] == incident["id"]
    told = await node.events("nvidia.xid")
    assert [one["attributes"]["code"] for one in told] == ["79", "45", "45"]
    assert all(one["attributes"]["incident"] == incident["id"] for one in told)


async def test_a_request_waits_for_the_next_agent(node, until):
    await node.start(until)
    write(2, "95, pid=77, name=python3, Uncontained: LTC TAG (0x2, 0x1). RST: Yes, D-RST: No")
    await until(node.open, 30)
    (incident,) = node.open()
    node.stop()

    done = node.command("clear", incident["id"], "--reason", "replaced")
    assert (done.returncode, "no agent runs here" in done.stdout) == (0, True)
    assert "ending" in node.command().stdout

    await node.start(until)
    await until(lambda: not node.open(), 30)
    node.stop()
    assert len(await node.events("incident.cleared")) == 1


async def test_the_command_says_what_it_lacks(node, until, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    nobody = node.command()
    assert (nobody.returncode, "no agent has kept incidents" in nobody.stderr) == (1, True)

    node.state_dir = tmp_path / "eagle-eye-run"
    await node.start(until)
    node.state_dir, real = tmp_path / "elsewhere", node.state_dir
    await until(lambda: f"--state-dir {real}" in node.command().stderr, 30)
    node.state_dir = real
    assert node.command("show", "ffff").returncode == 1
    assert "no incident is called" in node.command("clear", "ffff", "--reason", "x").stderr
    node.stop()


async def test_the_log_and_the_library_tell_one_fault_and_a_reset_that_is_seen_ends_it(tmp_path, children, until):
    log, state_dir, output = tmp_path / "kmsg", tmp_path / "state", tmp_path / "output"
    os.mkfifo(log)
    command = [sys.executable, "-m", "eagle_eye", "run", "--plain", "--simulate", "h100x8", "--kmsg-path", str(log)]
    command += ["--nats-port", "0", "--listen", "127.0.0.1:0", "--state-dir", str(state_dir), "--interval", "100ms"]
    quiet = [f"--no-{name}" for name in QUIET if name != "devices"]
    with output.open("wb") as file:
        children([*command, *quiet], stdout=file, stderr=file)
    await until(lambda: "simulated_devices=8" in output.read_text(), 30)
    state = re.search(r'"state_file":"([^"]+)"', output.read_text())
    assert state is not None
    simulation = Simulation.open(Path(state[1]))

    simulation.set("3", parse_changes(["xid=79"]))
    with log.open("w") as kernel:
        kernel.write(
            f"6,7,{time.monotonic_ns() // 1000},-;NVRM: Xid (PCI:0000:61:00): 79, GPU has fallen off the bus.\n"
        )
        kernel.flush()
        await until(lambda: "kmsg" in str(incidents(state_dir)) and "nvml" in str(incidents(state_dir)), 30)
    (incident,) = incidents(state_dir)
    assert (incident["occurrences"], incident["parts"][0]["sources"]) == (1, ["kmsg", "nvml"])
    assert incident["entity"].startswith("GPU-")
    assert incident["device"] == "0000:61:00.0"
    await until(lambda: "incident.opened" in output.read_text() and " nvidia.xid fatal: " in output.read_text(), 30)
    assert output.read_text().count("incident.opened") == 1
    assert output.read_text().count(" nvidia.xid fatal: ") == 1

    simulation.set("3", parse_changes(["present=0"]))
    await until(lambda: "device.vanished" in output.read_text(), 30)
    simulation.set("3", parse_changes(["present=1"]))
    await until(lambda: not incidents(state_dir), 60)
    simulation.close()
    assert "is over: the device went away and came back" in output.read_text()
