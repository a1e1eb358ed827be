"""The black box of a running agent: a real line in the real kernel log becomes a bundle that people and rules read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest
import zstandard

from eagle_eye.collector.recorder.store import Store

COMMAND = [sys.executable, "-m", "eagle_eye"]
KMSG = Path("/dev/kmsg")
QUIET = ("--no-sched", "--no-process", "--no-tasks", "--no-link", "--no-pressure", "--no-devices")
URL = re.compile(r"^metrics_url=(\S+)$", re.MULTILINE)
SECRET = "hf_" + "s3cr3tS3cr3tS3cr3tS3cr3t"
# An address that no other test writes about.
BDF = "00fe:3c:00"

if os.geteuid() != 0:
    pytest.skip("writing to the kernel log needs root", allow_module_level=True)


def cli(state, *words, code=0):
    done = subprocess.run(
        [*COMMAND, "forensics", *words, "--state-dir", state], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def wait_for(condition, timeout_s=40.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def agent(tmp_path):
    """`agent(*words)` starts one on the state folder of the test and waits until it works."""
    made = []

    def start(*words):
        output = tmp_path / f"output{len(made)}"
        command = [*COMMAND, "run", "--plain", *QUIET, "--nats-port", "0", "--listen", "127.0.0.1:0"]
        command += ["--state-dir", tmp_path / "state", "--forensics-before", "5s", "--forensics-after", "0s"]
        # Others may write to the same kernel log at the same time.
        command += ["--forensics-per-hour", "1000", *words]
        with output.open("wb") as file:
            made.append(subprocess.Popen(command, stdout=file, stderr=file))
        wait_for(lambda: URL.search(output.read_text()) or made[-1].poll() is not None)
        assert made[-1].poll() is None, output.read_text()
        made[-1].url = URL.search(output.read_text())[1]
        return made[-1]

    yield start
    for each in made:
        if each.poll() is None:
            each.send_signal(signal.SIGTERM)
            each.wait(20)


def bundles(state):
    rows = [json.loads(line) for line in cli(state, "list", "-j").splitlines()]
    return [row for row in rows if BDF in json.dumps(row["trigger"])]


def test_an_xid_in_the_kernel_log_becomes_a_bundle(agent, tmp_path):
    state = tmp_path / "state"
    running = agent()
    KMSG.write_text(f"<3>NVRM: Xid (PCI:{BDF}): 79, pid={running.pid}, name=python3, GPU has fallen off the bus.\n")
    KMSG.write_text(f"<4>eagle-eye-test: {BDF} started with --api-key {SECRET}\n")
    (bundle,) = wait_for(lambda: bundles(state))

    shown = cli(state, "show", bundle["id"])
    assert "GPU has fallen off the bus" in shown
    assert "incident.opened" in shown
    assert "all" in cli(state, "replay", bundle["id"])
    archive = tmp_path / "x.tar.zst"
    cli(state, "export", bundle["id"], "-o", archive)
    cli(state, "export", bundle["id"], "-o", archive, code=2)
    assert "judged as then" in cli(state, "replay", str(archive))
    with zstandard.open(archive, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        files = {member.name.rpartition("/")[2]: tar.extractfile(member).read() for member in tar}
    assert BDF.encode() in files["records.jsonl"]
    assert not [name for name, body in files.items() if SECRET.encode() in body]
    assert "reboot node" in files["report.md"].decode()
    at_once, at_the_end = json.loads(files["processes.json"])
    assert next(one for one in at_once if one["pid"] == running.pid)["threads_total"] > 3
    assert [one["pid"] for one in at_once] == [one["pid"] for one in at_the_end]
    with urllib.request.urlopen(running.url, timeout=5) as answer:
        page = answer.read().decode()
    assert re.search(r"^eagle_eye_forensics_bundles [1-9]", page, re.MULTILINE)
    assert re.search(r'^eagle_eye_recorder_records_total{kind="snapshot"} [1-9]', page, re.MULTILINE)
    assert "eagle_eye_recorder_dropped_total{" not in page


def test_a_person_asks_a_running_agent_and_a_dead_one(agent, tmp_path):
    state = tmp_path / "state"
    running = agent()
    first = cli(state, "freeze", "--reason", "by test", "-p", str(os.getpid())).split()[0]
    running.kill()
    running.wait(10)
    second = cli(state, "freeze", "--reason", "after death").split()[0]
    again = agent()
    third = cli(state, "freeze", "--reason", "by test again").split()[0]
    again.send_signal(signal.SIGTERM)
    again.wait(20)

    rows = {row["id"]: row for row in listed(state)}
    assert rows[first]["trigger"]["pids"][0] == os.getpid()
    assert rows[first]["counts"]["snapshot"] > 0
    assert rows[second]["counts"]["snapshot"] > 0
    assert "recorder.previous_run" in cli(state, "show", third)


def listed(state):
    return [json.loads(line) for line in cli(state, "list", "-j").splitlines()]


def test_a_boot_that_crashed_is_frozen_with_its_last_words(agent, tmp_path):
    state, saved = tmp_path / "state", tmp_path / "pstore"
    about = {"boot_id": "gone", "node": "n", "cluster": "c", "encoding": "json"}
    store = Store(state / "recorder", limit_bytes=2**26, keep_ns=10**15, about=about)
    event = {"id": "gone:test:1", "kind": "process.exec", "at_ns": 811 * 10**9, "wall_offset_ns": 0, "node": "n"}
    event |= {"boot_id": "gone", "entity": "host", "attributes": {"task": "sh", "pid": 3, "filename": "/bin/last"}}
    store.write({"event": [(event["at_ns"], json.dumps(event).encode())]})
    store.close()
    saved.mkdir()
    panic = "<0>[  811.200000] Kernel panic - not syncing: Fatal exception in interrupt"
    xid = f"<4>[  811.100000] NVRM: Xid (PCI:{BDF}): 79, GPU has fallen off the bus."
    (saved / "dmesg-erst-1").write_text(f"Panic#1 Part1\n{xid}\n{panic}\n")
    agent("--recorder-pstore-archive", str(saved))
    (bundle,) = wait_for(lambda: [row for row in listed(state) if row["boot_id"] == "gone"])

    assert bundle["trigger"]["reason"].endswith("Kernel panic - not syncing: Fatal exception in interrupt")
    shown = cli(state, "show", bundle["id"])
    assert "runs /bin/last" in shown
    assert shown.index("GPU has fallen off the bus") < shown.index("Kernel panic - not syncing: Fatal", 500)
    assert "nvidia.xid 79" in cli(state, "replay", bundle["id"], code=1)


def test_what_is_switched_off_leaves_nothing(agent, tmp_path):
    running = agent("--no-recorder")
    running.send_signal(signal.SIGTERM)
    running.wait(20)

    assert not (tmp_path / "state/recorder").exists()
    assert not (tmp_path / "state/forensics").exists()
