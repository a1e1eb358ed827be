"""Known work for the kernel: each function makes something happen and says what must be seen."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
# From include/uapi/asm-generic/unistd.h and sched.h, for x86-64.
SYS_CLONE = 56
CLONE_VFORK = 0x4000


class Kill(NamedTuple):
    victim_pid: int
    sender_pid: int


class Wait(NamedTuple):
    waiter_pid: int
    hog_pid: int
    held_s: float


def enable_controllers(group: Path = CGROUPS) -> None:
    """For the cgroups below this one."""
    (group / "cgroup.subtree_control").write_text("+cpu +memory +pids")


@contextmanager
def cgroup(name: str, **limits: str) -> Iterator[Path]:
    """A cgroup of its own; `memory_max="16M"` writes memory.max. Removed when its tasks are gone."""
    folder = CGROUPS / name
    folder.mkdir()
    for limit, value in limits.items():
        (folder / limit.replace("_", ".", 1)).write_text(value)
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def start(work: Callable[[], object], *, comm: str = "", group: Path | None = None) -> int:
    """A child process that does `work` under this name and in this cgroup; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if group:
            (group / "cgroup.procs").write_text("0")
        if comm:
            Path("/proc/self/comm").write_text(comm)
        work()
    finally:
        os._exit(0)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def spin() -> None:
    while True:
        pass


def run_program(path: str, times: int) -> list[int]:
    pids = []
    for _ in range(times):
        with subprocess.Popen([path]) as child:
            pids.append(child.pid)
    return pids


def exit_with(code: int) -> int:
    pid = start(lambda: os._exit(code))
    os.waitpid(pid, 0)
    return pid


def kill_one(sender: str) -> Kill:
    """A process of this name ends another one."""
    victim = start(lambda: time.sleep(60))
    killer = start(lambda: os.kill(victim, signal.SIGKILL), comm=sender)
    os.waitpid(victim, 0)
    os.waitpid(killer, 0)
    return Kill(victim, killer)


def overuse_memory(group: Path, comm: str) -> int:
    """Ends by the kernel's out-of-memory killer."""
    pid = start(lambda: bytearray(os.urandom(1)) * (256 << 20), comm=comm, group=group)
    os.waitpid(pid, 0)
    return pid


def hold_cpu(cpu: int, hog_group: Path, waiter_group: Path, held_s: float) -> Wait:
    """`ee-hog` wakes `ee-waiter`, bound to the same CPU, and keeps that CPU at real-time priority."""
    ready, hog_start, waiter_start = os.pipe(), os.pipe(), os.pipe()

    def hog() -> None:
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        os.write(ready[1], b"h")
        os.read(hog_start[0], 1)
        os.write(waiter_start[1], b"w")
        until = time.monotonic() + held_s
        while time.monotonic() < until:
            pass

    def waiter() -> None:
        os.sched_setaffinity(0, {cpu})
        os.write(ready[1], b"w")
        os.read(waiter_start[0], 1)

    pids = start(waiter, comm="ee-waiter", group=waiter_group), start(hog, comm="ee-hog", group=hog_group)
    for _ in pids:
        os.read(ready[0], 1)
    time.sleep(0.1)
    os.write(hog_start[1], b"h")
    for pid in pids:
        os.waitpid(pid, 0)
    for fd in (*ready, *hog_start, *waiter_start):
        os.close(fd)
    return Wait(*pids, held_s)


def sleep_uninterruptibly(seconds: float, group: Path) -> int:
    """A process that waits in state D, as any parent does until its vfork child ends."""

    def wait_for_child() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(SYS_CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            time.sleep(seconds)
            os._exit(0)

    return start(wait_for_child, comm="ee-blocked", group=group)
