"""What the sched probe adds to a context switch, beside runqlat of libbpf-tools and of BCC.

Two processes on one CPU hand a byte to each other through pipes: every hand-over is one wake-up and one
switch. CPU time of both counts, and rounds take turns, so that other work on the machine meets all alike. The
kernel's own run-time statistics of the programs are a second source; they miss the way into and out of a program.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness import finish, table
from peers import BCC_PYTHON, kernel_headers

from eagle_eye.probes import sched
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource

HERE = Path(__file__).parent
CPU = max(os.sched_getaffinity(0))
ROUND_TRIPS, ROUNDS, ATTEMPTS = 25_000, 15, 3
BOUND_NS = 450
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")

LIBBPF_RUNQLAT = ("stdbuf", "-oL", "/usr/sbin/runqlat", "9999")
BCC_RUNQLAT = (BCC_PYTHON, "-u", "/usr/sbin/runqlat-bpfcc", "9999")


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def our_probe(*, use_task_storage: bool) -> Iterator[None]:
    options = {option.name: option.parse(option.default, option.name) for option in sched.SPEC.options}
    events = EventSource("sched", node="bench", cluster="bench", boot_id="bench")
    context = Context(paths=Paths(), options=options, events=events)
    probe = sched.SchedProbe(context, use_task_storage=use_task_storage)
    try:
        yield
    finally:
        probe.close()


@contextmanager
def peer(command: tuple[str, ...]) -> Iterator[None]:
    """Attached when it says so; a peer that cannot run ends the benchmark with its own words."""
    with kernel_headers():
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = child.stdout.readline() if child.stdout else ""
            if "Tracing" not in line:
                sys.exit(f"{' '.join(command)} did not start: {child.stderr.read() if child.stderr else ''}")
            time.sleep(0.2)
            yield
        finally:
            child.terminate()
            child.communicate()


HOOKS = {
    "no probe": nothing,
    "sched, task storage": partial(our_probe, use_task_storage=True),
    "sched, hash": partial(our_probe, use_task_storage=False),
    "runqlat, libbpf-tools": partial(peer, LIBBPF_RUNQLAT),
    "runqlat, BCC": partial(peer, BCC_RUNQLAT),
}


def compile_pingpong(home: Path) -> Path:
    program = home / "pingpong"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "pingpong.c"], check=True)
    return program


def ns_per_switch(pingpong: Path) -> float:
    """The best of a few attempts: what the machine's other work added is not ours to count."""
    command = [pingpong, str(CPU), str(ROUND_TRIPS)]
    attempts = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(ATTEMPTS)]
    return min(float(done.stdout) for done in attempts)


def program_stats() -> dict[int, tuple[str, int, int]]:
    """Name, run time in ns and runs of every program that is loaded, by id."""
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True).stdout
    return {
        program["id"]: (program.get("name", ""), program.get("run_time_ns", 0), program.get("run_cnt", 0))
        for program in json.loads(shown)
    }


def ns_in_programs(pingpong: Path) -> dict[str, float]:
    """ns per run of each program of our probe, by the kernel's statistics."""
    before_value = STATS.read_text()
    others = program_stats().keys()
    STATS.write_text("1")
    try:
        with our_probe(use_task_storage=True):
            ns_per_switch(pingpong)
            ours = [entry for key, entry in program_stats().items() if key not in others]
    finally:
        STATS.write_text(before_value)
    names = {"on_switch", "on_wakeup"}
    return {name: taken_ns / runs for name, taken_ns, runs in ours if name in names and runs}


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in HOOKS}
    with tempfile.TemporaryDirectory() as home:
        pingpong = compile_pingpong(Path(home))
        for _ in range(ROUNDS):
            for name, hook in HOOKS.items():
                with hook():
                    taken[name].append(ns_per_switch(pingpong))
        inside = ns_in_programs(pingpong)
    base = taken["no probe"]
    added = {name: statistics.median(a - b for a, b in zip(ns, base, strict=True)) for name, ns in taken.items()}
    least = {name: min(ns) - min(base) for name, ns in taken.items()}
    table(
        f"One context switch ({ROUNDS} rounds of {ATTEMPTS} x {2 * ROUND_TRIPS:,} switches)",
        ("", "median ns", "min ns", "adds (median)", "adds (min)"),
        [(name, statistics.median(ns), min(ns), added[name], least[name]) for name, ns in taken.items()],
    )
    table("Inside our programs, by kernel.bpf_stats_enabled", ("program", "ns per run"), list(inside.items()))
    keys = {
        "sched, task storage": "task_storage",
        "sched, hash": "hash",
        "runqlat, libbpf-tools": "runqlat_libbpf_tools",
        "runqlat, BCC": "runqlat_bcc",
    }
    finish(
        "sched",
        {
            "switch_ns": round(statistics.median(base), 1),
            **{f"{key}_added_ns": round(added[name], 1) for name, key in keys.items()},
            **{f"{key}_added_min_ns": round(least[name], 1) for name, key in keys.items()},
            **{f"{program}_run_ns": round(ns, 1) for program, ns in inside.items()},
            "bound_ns": BOUND_NS,
            "within_bound": added["sched, task storage"] <= BOUND_NS,
        },
    )


if __name__ == "__main__":
    main()
