"""The whole agent with its own NATS server, as a user starts it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import workloads
from outcome import Outcome, expect

from eagle_eye.probes.registry import PROBES

ADDRESS = "127.0.0.1:9109"
PATIENCE_S = 80
OUTPUT = Path("/tmp/eagle-eye-run")


def check() -> Outcome:
    """It gets ready, says `up` of every probe, tells of a program that starts, and ends when asked."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with running() as agent:
        began = time.monotonic()
        until(lambda: is_ready() or agent.poll() is not None, "/readyz")
        expect(agent.poll() is None, f"ended with exit code {agent.poll()}: {OUTPUT.read_text()[-1500:]}")
        ready_s = time.monotonic() - began
        until(lambda: up_probes() >= {spec.name for spec in PROBES} - {"devices", "aer"} | {"nats"}, "every probe up")
        (pid,) = workloads.run_program("/bin/true", 1)
        until(lambda: f"true ({pid}) runs /bin/true" in OUTPUT.read_text(), "the line about /bin/true")
        agent.send_signal(signal.SIGTERM)
        code = agent.wait(PATIENCE_S)
        expect(code == 0, f"exit code {code}")
    return Outcome("ok", detail=f"every probe up; ready after {ready_s:.0f} s on the emulated CPU")


@contextmanager
def running() -> Iterator[subprocess.Popen[bytes]]:
    command = [str(Path(sys.executable).parent / "eagle-eye"), "run", "--plain", "--listen", ADDRESS]
    with OUTPUT.open("wb") as output:
        agent = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.wait()


def until(fact, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        expect(time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}; {OUTPUT.read_text()[-1500:]}")
        time.sleep(0.2)


def is_ready() -> bool:
    return json.loads(page("readyz") or "{}").get("status") == "ok"


def up_probes() -> set[str]:
    return set(re.findall(r'^eagle_eye_probe_up\{probe="(\w+)"\} 1\.0$', page("metrics"), re.MULTILINE))


def page(name: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}/{name}", timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""
