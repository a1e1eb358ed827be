"""How short the node is of CPU, memory and I/O: pressure stall times, load, memory, throttled cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .cgroup import CgroupTree
from .options import Option
from .probe import Context, Metric, Sample, Series, Spec
from .throttling import LEFT_OUT, PERIODS, THROTTLED, THROTTLED_PERIODS, Throttling

WAITING = Metric(
    "eagle_eye_pressure_waiting_seconds_total",
    "counter",
    "Time in which some, or all (full), non-idle tasks waited for the resource.",
    ("resource", "kind"),
)
LOAD = Metric("eagle_eye_load_average", "gauge", "Runnable and uninterruptible tasks, averaged.", ("window",))
_RESOURCES = ("cpu", "memory", "io", "irq")
_WINDOWS = ("1m", "5m", "15m")


def _memory(name: str, help_: str) -> Metric:
    return Metric(f"eagle_eye_memory_{name}_bytes", "gauge", help_)


# Keys as in /proc/meminfo.
MEMORY = {
    b"MemTotal": _memory("size", "Usable memory of the node."),
    b"MemFree": _memory("free", "Memory that nothing uses."),
    b"MemAvailable": _memory("available", "Memory that new work can have without swapping, as the kernel estimates."),
    b"Cached": _memory("page_cache", "Page cache, shared memory included."),
    b"AnonPages": _memory("anonymous", "Memory of processes that no file backs."),
    b"Shmem": _memory("shared", "tmpfs and shared memory."),
    b"Dirty": _memory("dirty", "Page cache that waits to be written."),
    b"Writeback": _memory("writeback", "Page cache that is being written."),
    b"SUnreclaim": _memory("unreclaimable_slab", "Kernel objects that cannot be reclaimed."),
    b"Mlocked": _memory("locked", "Memory locked by mlock()."),
    b"SwapTotal": _memory("swap_size", "Swap space."),
    b"SwapFree": _memory("swap_free", "Swap space that is not used."),
}


class KeptFile:
    """A file of the kernel, opened once and read anew each time."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        return os.pread(self.fd, 8192, 0)

    def close(self) -> None:
        os.close(self.fd)


class PressureProbe:
    def __init__(self, proc: Path, throttling: Throttling) -> None:
        self._pressure = {name: file for name in _RESOURCES if (file := _readable(proc / "pressure" / name))}
        self._load = _readable(proc / "loadavg")
        self._meminfo = _readable(proc / "meminfo")
        self._throttling = throttling

    def sample(self, now_ns: int) -> Sample:
        self._throttling.round(now_ns)
        series = [*self._waiting(), *self._load_average(), *self._memory(), *self._throttling.series()]
        return Sample(series, degraded=self._degraded())

    def wake_fds(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        self._throttling.close()
        for file in (*self._pressure.values(), self._load, self._meminfo):
            if file:
                file.close()

    def _waiting(self) -> Iterator[Series]:
        for resource, file in self._pressure.items():
            for line in file.read().splitlines():
                kind, _, total_us = line.partition(b" ")[0], *line.rpartition(b"total=")[1:]
                yield Series(WAITING, int(total_us) / 1e6, (resource, kind.decode()))

    def _load_average(self) -> Iterator[Series]:
        if self._load:
            for window, load in zip(_WINDOWS, self._load.read().split(), strict=False):
                yield Series(LOAD, float(load), (window,))

    def _memory(self) -> Iterator[Series]:
        for line in self._meminfo.read().splitlines() if self._meminfo else ():
            key, _, kib = line.partition(b":")
            if key in MEMORY:
                yield Series(MEMORY[key], int(kib.split()[0]) * 1024)

    def _degraded(self) -> str:
        if not self._pressure:
            return "no pressure stall times: the kernel lacks CONFIG_PSI, or needs psi=1 on its command line"
        if self._throttling.left_out:
            return f"{self._throttling.left_out} cgroups with a CPU quota are not followed; see pressure.max_cgroups"
        return ""


def _readable(path: Path) -> KeptFile | None:
    """None as well where the file opens but its reading is refused, as of PSI that is switched off."""
    try:
        file = KeptFile(path)
    except OSError:
        return None
    try:
        file.read()
    except OSError:
        file.close()
        return None
    return file


def build(context: Context) -> PressureProbe:
    throttling = Throttling(CgroupTree(context.paths), context.options["max_cgroups"])
    return PressureProbe(context.paths.proc, throttling)


SPEC = Spec(
    name="pressure",
    help="Pressure stall times, load, memory, and the cgroups that their CPU quota holds back.",
    build=build,
    metrics=(WAITING, LOAD, *MEMORY.values(), THROTTLED, THROTTLED_PERIODS, PERIODS, LEFT_OUT),
    optional=("psi", "cgroup"),
    options=(
        Option("max_cgroups", "integer", 256, "most cgroups with a CPU quota to follow", minimum=0, maximum=4096),
    ),
    cost="0.2 ms per round",
)
