"""How soon a line of the kernel log is an incident on NATS: at rest, and inside a flood of other faults.

The whole agent runs as its own process, with default probes; lines are written to the real /dev/kmsg. Peers that
poll say so of themselves: gpud reads the log as it comes, NVSentinel's monitor every 15 s, node-problem-detector as
it comes; none of them publishes a figure for the way to an alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import numpy as np
from harness import finish, table

FAULTS = 200
GAP_S = 0.05
FLOOD_LINES_PER_S = 20_000
PATIENCE_S = 10.0
KMSG = Path("/dev/kmsg")
# One line of a flood: a fault like the others, of another device, at every beat.
FLOOD = "<3>NVRM: Xid (PCI:0000:fe:00): 95, pid={}, name=flood, Uncontained: LTC TAG (0x2, 0x1).\n"
LINE = "<3>NVRM: Xid (PCI:{:04x}:{:02x}:00): 79, GPU has fallen off the bus.\n"


@contextlib.contextmanager
def agent(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`eagle-eye run` with a NATS server of its own; gives the process and the server's address."""
    command = [Path(sys.executable).with_name("eagle-eye"), "run", "--listen", "127.0.0.1:0", "--nats-port", "0"]
    log = folder / "log"
    with (folder / "out").open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen([*command, "--state-dir", folder / "state"], stdout=out, stderr=errors)
    try:
        yield process, address(folder / "out")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def address(out: Path) -> str:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        for word in out.read_text(errors="replace").split():
            if "nats://" in word:
                return word[word.index("nats://") :].strip(",;\"'")
        time.sleep(0.1)
    sys.exit(f"the agent did not start: {out.read_text()[:500]}")


async def scene(url: str, first: int, flood: bool) -> dict[str, float]:
    """Writes FAULTS lines, each of a device of its own, and takes the time until its incident is heard."""
    client = await nats.connect(url)
    heard: dict[str, int] = {}

    async def hear(message: Any) -> None:
        now_ns = time.monotonic_ns()
        device = json.loads(message.data)["attributes"].get("device", "")
        heard.setdefault(device, now_ns)

    await client.subscribe("eagle_eye.v1.*.*.event.incident.opened", cb=hear)
    await client.flush()
    await client.flush()
    stop = threading.Event()
    flooding = threading.Thread(target=write_flood, args=(stop,))
    if flood:
        flooding.start()
        await asyncio.sleep(1)
    written: dict[str, int] = {}
    try:
        for number in range(first, first + FAULTS):
            domain, bus = 1 + number // 200, number % 200
            written[f"{domain:04x}:{bus:02x}:00.0"] = time.monotonic_ns()
            say(LINE.format(domain, bus))
            await asyncio.sleep(GAP_S)
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends and not written.keys() <= heard.keys():
            await asyncio.sleep(0.05)
    finally:
        stop.set()
        if flood:
            flooding.join()
        await client.close()
    for device in written.keys() - heard.keys():
        print(f"not heard of {device}", file=sys.stderr)
    taken_ms = [(heard[device] - at_ns) / 1e6 for device, at_ns in written.items() if device in heard]
    p50, p99 = np.percentile(taken_ms, [50, 99]) if taken_ms else (float("nan"),) * 2
    return {"written": len(written), "heard": len(taken_ms), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lines from user space are limited otherwise, and this bench is about the reader."""
    setting = Path("/proc/sys/kernel/printk_devkmsg")
    before = setting.read_text()
    setting.write_text("on\n")
    try:
        yield
    finally:
        setting.write_text(before)


def say(line: str) -> None:
    with KMSG.open("wb", buffering=0) as log:
        log.write(line.encode())


def write_flood(stop: threading.Event) -> None:
    fd, number = os.open(KMSG, os.O_WRONLY), 0
    began = time.monotonic()
    while not stop.is_set():
        for _ in range(FLOOD_LINES_PER_S // 100):
            os.write(fd, FLOOD.format(1000 + number % 90_000).encode())
            number += 1
        time.sleep(max(0.0, began + number / FLOOD_LINES_PER_S - time.monotonic()))
    os.close(fd)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, unlimited(), agent(Path(name)) as (_, url):
        time.sleep(3)
        metrics = {
            "at_rest": asyncio.run(scene(url, 0, flood=False)),
            "in_flood": asyncio.run(scene(url, FAULTS, flood=True)),
        }
    metrics["in_flood"]["flood_lines_per_second"] = FLOOD_LINES_PER_S
    rows = [(name, *(one[key] for key in ("written", "heard", "p50_ms", "p99_ms"))) for name, one in metrics.items()]
    table("Kernel-log line to incident at a subscriber", ("scene", "written", "heard", "p50 ms", "p99 ms"), rows)
    finish("faults", metrics)


if __name__ == "__main__":
    main()
