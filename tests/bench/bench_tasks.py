"""What one sweep over all tasks costs, beside reading /proc in Python and in C. CPU time of the reader alone."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import finish, table

from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import EventSource
from eagle_eye.probes.task_sweeps import KernelSweep, ProcSweep
from eagle_eye.probes.tasks import SPEC, TasksProbe

HERE = Path(__file__).parent
THREADS = (2_000, 10_000)
ROUNDS, SLOW_ROUNDS = 51, 5
BOUND_NS = 700


def compiled(home: Path, name: str) -> Path:
    subprocess.run(["gcc", "-O2", "-pthread", "-o", home / name, HERE / f"{name}.c"], check=True)
    return home / name


@contextmanager
def sleeping(program: Path, count: int) -> Iterator[None]:
    """That many more threads while it lasts."""
    child = subprocess.Popen([program, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if child.stdout is None or child.stdout.readline() != "ready\n":
        raise SystemExit(f"this machine does not allow {count} threads")
    try:
        yield
    finally:
        child.communicate("")


def ns_per_task(sweep: Callable[[], int], rounds: int) -> tuple[float, float]:
    """Median and least, for one task; `sweep` tells how many there were."""
    taken = []
    for _ in range(rounds):
        start_ns = time.thread_time_ns()
        tasks = sweep()
        taken.append((time.thread_time_ns() - start_ns) / tasks)
    return statistics.median(taken), min(taken)


def whole_probe() -> tuple[TasksProbe, Callable[[], int]]:
    events = EventSource("tasks", node="bench", cluster="bench", boot_id="bench")
    probe = TasksProbe(KernelSweep(Paths()), events, stuck_after_ns=5_000_000_000)
    states = {SPEC.metrics[0].name}

    def sample() -> int:
        series = probe.sample(time.monotonic_ns()).series
        return sum(int(one.value) for one in series if one.metric.name in states)

    return probe, sample


def in_c(program: Path) -> tuple[float, float]:
    runs = [subprocess.run([program, "1"], capture_output=True, text=True, check=True) for _ in range(SLOW_ROUNDS)]
    taken = [float(ns) / float(tasks) for ns, tasks in (run.stdout.split() for run in runs)]
    return statistics.median(taken), min(taken)


def measure(count: int, threads: Path, proc_sweep: Path) -> dict[str, tuple[float, float]]:
    kernel, proc = KernelSweep(Paths()), ProcSweep(Paths(), why="benchmark")
    probe, sample = whole_probe()
    with sleeping(threads, count):
        taken = {
            "sweep by program": ns_per_task(lambda: int(kernel.read(0)[0].sum()), ROUNDS),
            "whole probe": ns_per_task(sample, ROUNDS),
            "/proc in C": in_c(proc_sweep),
            "/proc in Python": ns_per_task(lambda: int(proc._sweep()[0].sum()), SLOW_ROUNDS),
        }
    probe.close()
    kernel.close()
    return taken


def main() -> None:
    metrics: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as home:
        threads, proc_sweep = compiled(Path(home), "threads"), compiled(Path(home), "proc_sweep")
        for count in THREADS:
            taken = measure(count, threads, proc_sweep)
            table(
                f"{count:,} threads more: CPU ns per task",
                ("", "median", "least", "times the program's sweep"),
                [(name, *ns, ns[0] / taken["sweep by program"][0]) for name, ns in taken.items()],
            )
            for name, key in (
                ("sweep by program", "sweep"),
                ("whole probe", "probe"),
                ("/proc in C", "proc_c"),
                ("/proc in Python", "proc_python"),
            ):
                metrics[f"{key}_{count}_ns_per_task"] = round(taken[name][0], 1)
            metrics[f"within_bound_{count}"] = taken["whole probe"][0] <= BOUND_NS
    finish("tasks", {**metrics, "bound_ns_per_task": BOUND_NS})


if __name__ == "__main__":
    main()
