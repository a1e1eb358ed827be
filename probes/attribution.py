"""Who a process belongs to: its container and pod. What is not known is "", never guessed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from .kubelet_logs import KubeletLogs
from .owner import NOBODY, Owner, owner_of
from .paths import Paths

_MAX_FILE_BYTES = 64 << 10
_MAX_PROCESSES = 4096
# Runtimes start a process outside and move it: what it belongs to may change once, soon after its start.
_FRESH_NS = 10_000_000_000


class Attribution:
    """Owners of processes by pid, as seen under `paths.proc`. Not safe for several threads at once.

    Remembers the latest 4096 by pid and start time, so a pid that is used again is another process.
    """

    def __init__(
        self, paths: Paths, logs: KubeletLogs | None = None, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = paths.proc
        self._logs = logs or KubeletLogs()
        self._clock_ns = clock_ns
        self._known: dict[int, tuple[int, int, Owner]] = {}

    def of(self, pid: int) -> Owner:
        """NOBODY when the process is in no container, has gone, or may not be looked at."""
        try:
            folder = os.open(self._proc / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._known.pop(pid, None)
            return NOBODY
        try:
            return self._logs.named(self._of_folder(pid, folder))
        finally:
            os.close(folder)

    def _of_folder(self, pid: int, folder: int) -> Owner:
        """Through an open folder of /proc: it stays that process's, whoever gets the pid next."""
        started, now = _start_ticks(_read(folder, "stat")), self._clock_ns()
        known = self._known.pop(pid, None)
        if known is None or known[0] != started or now - known[1] > _FRESH_NS:
            known = (started, now, owner_of(_read(folder, "cgroup").decode(errors="replace")))
        if started >= 0:
            self._remember(pid, known)
        return known[2]

    def _remember(self, pid: int, entry: tuple[int, int, Owner]) -> None:
        while len(self._known) >= _MAX_PROCESSES:
            del self._known[next(iter(self._known))]
        self._known[pid] = entry


def _start_ticks(stat: bytes) -> int:
    """Field 22 of /proc/PID/stat, clock ticks since boot; -1 when there is none. The name may hold anything."""
    with contextlib.suppress(IndexError, ValueError):
        return int(stat[stat.rindex(b")") :].split()[20])
    return -1


def _read(folder: int, name: str) -> bytes:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_FILE_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def process_alive(paths: Paths) -> Callable[[int], bool]:
    """Whether a pid of the node is there now, zombies not counted."""

    def alive(pid: int) -> bool:
        stat = _stat(paths.proc, pid)
        return stat.rpartition(b") ")[2][:1] not in (b"", b"Z", b"X")

    return alive


def _stat(proc: Path, pid: int) -> bytes:
    try:
        with (proc / str(pid) / "stat").open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
