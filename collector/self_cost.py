"""What the agent costs: CPU, memory, threads and descriptors of its own process and of its helpers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ..probes.probe import Metric, Series
from .exporter import Source

CPU = Metric(
    "eagle_eye_self_cpu_seconds_total",
    "counter",
    "CPU time in user and kernel mode; process is agent, or a helper that the agent started.",
    ("process",),
)
RESIDENT = Metric("eagle_eye_self_resident_bytes", "gauge", "Memory resident in RAM.", ("process",))
THREADS = Metric("eagle_eye_self_threads", "gauge", "Threads.", ("process",))
OPEN_FDS = Metric("eagle_eye_self_open_fds", "gauge", "Open file descriptors.", ("process",))
START_TIME = Metric("eagle_eye_self_start_time_seconds", "gauge", "Unix time when the process started.", ("process",))

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(Struct, frozen=True):
    """One reading of one process; CPU time has the resolution of the kernel's tick, 10 ms."""

    cpu_seconds: float
    resident_bytes: int
    threads: int
    open_fds: int
    started_seconds: float


def read_usage(proc: Path, pid: int | str) -> Usage:
    """Usage of a process, from its stat file (proc(5)). Raises OSError when it is gone."""
    folder = proc / str(pid)
    # The name, second field, may hold blanks and brackets itself; the rest is counted from its end.
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        threads=int(fields[17]),
        open_fds=len(os.listdir(folder / "fd")),
        started_seconds=int(fields[19]) / _TICKS_PER_SECOND,
    )


def self_cost(proc: Path = Path("/proc"), helpers: Callable[[], Mapping[str, int]] = dict) -> Source:
    """The source of the agent's own cost; `helpers` gives the pids of its children by name (`nats_server`)."""
    booted_seconds = _booted_seconds(proc)

    def collect() -> Iterator[Series]:
        processes: dict[str, int | str] = {"agent": "self", **helpers()}
        for process, pid in processes.items():
            try:
                usage = read_usage(proc, pid)
            except (OSError, ValueError, IndexError):
                continue
            yield from _series(process, usage, booted_seconds)

    return Source("self_cost", (CPU, RESIDENT, THREADS, OPEN_FDS, START_TIME), collect)


def _series(process: str, usage: Usage, booted_seconds: int) -> Iterator[Series]:
    labels = (process,)
    yield Series(CPU, usage.cpu_seconds, labels)
    yield Series(RESIDENT, usage.resident_bytes, labels)
    yield Series(THREADS, usage.threads, labels)
    yield Series(OPEN_FDS, usage.open_fds, labels)
    if booted_seconds:
        yield Series(START_TIME, booted_seconds + usage.started_seconds, labels)


def _booted_seconds(proc: Path) -> int:
    """Unix time of the boot; 0 where /proc/stat does not tell."""
    try:
        lines = (proc / "stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
