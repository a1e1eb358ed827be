"""What the whole agent costs at rest, beside node_exporter scraped as often.

Agent: default probes, one NATS server (not counted), one scrape of /metrics every 15 s.
CPU is user and kernel time of the process from /proc/PID/stat; memory is VmRSS, and VmHWM for the peak.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from harness import finish, table

from eagle_eye.collector.nats_server import find_binary
from eagle_eye.collector.self_cost import read_usage

COMMAND = Path(sys.executable).parent / "eagle-eye"
WARM_UP_S = 5.0
SCRAPE_S = 15.0
BOUND_CPU_RATIO = 0.01
BOUND_RESIDENT_BYTES = 90e6


def start(stack: ExitStack, *command: object) -> tuple[subprocess.Popen[str], list[str]]:
    """A child that ends with the benchmark, and the lines that it has printed so far."""
    words = [str(word) for word in command]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stack.callback(child.wait, 20)
    stack.callback(child.terminate)
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(child.stdout or ()), daemon=True).start()
    return child, lines


def find(lines: list[str], pattern: str, deadline_s: float = 20.0) -> str:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        for line in list(lines):
            if found := re.search(pattern, line):
                return found[1]
        time.sleep(0.05)
    raise SystemExit(f"not printed within {deadline_s:g} s: {pattern}\n{''.join(lines)}")


def measure(pid: int, url: str, seconds: float, scrape_s: float) -> dict[str, float]:
    """CPU as share of one core, and memory, over `seconds` while `url` is scraped every `scrape_s`."""
    time.sleep(WARM_UP_S)
    scrape(url)
    before, started = read_usage(Path("/proc"), pid), time.monotonic()
    while (left_s := started + seconds - time.monotonic()) > 0:
        time.sleep(min(left_s, scrape_s))
        scrape(url)
    after, took_s = read_usage(Path("/proc"), pid), time.monotonic() - started
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return {
        "cpu_ratio": round((after.cpu_seconds - before.cpu_seconds) / took_s, 5),
        "resident_bytes": after.resident_bytes,
        "peak_resident_bytes": int(peak[1]) * 1024 if peak else 0,
        "threads": after.threads,
    }


def scrape(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:
        answer.read()


def measure_agent(interval: str, seconds: float) -> dict[str, float]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, lines = start(stack, find_binary(), "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", folder / "nats")
        address = find(lines, r"Listening for client connections on (\S+)")
        agent, lines = start(
            stack, COMMAND, "agent", "--nats", f"nats://{address}", "--listen", "127.0.0.1:0",
            "--state-dir", folder / "state", "--interval", interval, "--log-format", "logfmt",
        )  # fmt: skip
        return measure(agent.pid, find(lines, r"metrics_url=(\S+)"), seconds, SCRAPE_S)


def measure_node_exporter(seconds: float) -> dict[str, float] | None:
    command = shutil.which("prometheus-node-exporter")
    if command is None:
        print("prometheus-node-exporter is not installed: apt install prometheus-node-exporter", file=sys.stderr)
        return None
    with ExitStack() as stack:
        exporter, lines = start(stack, command, "--web.listen-address=127.0.0.1:0", "--no-collector.systemd")
        port = find(lines, r"127\.0\.0\.1:(\d+)")
        return measure(exporter.pid, f"http://127.0.0.1:{port}/metrics", seconds, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    results = {
        "agent, 500 ms": measure_agent("500ms", seconds),
        "agent, 100 ms": measure_agent("100ms", seconds),
    }
    peer = measure_node_exporter(seconds)
    if peer is not None:
        results["node_exporter, scraped every 500 ms"] = peer
    rows = [
        (name, 100 * one["cpu_ratio"], one["resident_bytes"] / 1e6, one["peak_resident_bytes"] / 1e6, one["threads"])
        for name, one in results.items()
    ]
    title = f"Cost at rest over {seconds:g} s (bounds at 500 ms: 1 % of a core, 90 MB)"
    table(title, ("what", "% of a core", "resident MB", "peak MB", "threads"), rows)
    rest = results["agent, 500 ms"]
    kept = rest["cpu_ratio"] <= BOUND_CPU_RATIO and rest["resident_bytes"] <= BOUND_RESIDENT_BYTES
    named = {name.replace(",", "").replace(" ", "_"): one for name, one in results.items()}
    finish("agent", {**named, "bounds_kept": kept})


if __name__ == "__main__":
    main()
