"""What /proc tells of processes, each within a deadline: a process that hangs may hang whoever asks about it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MAX_PROCESSES = 24
MAX_THREADS = 64
MAX_TEXT = 8192
MAX_LINKS = 50_000
DEADLINE_S = 1.0
HOLDERS_DEADLINE_S = 2.0

# The last one asks for the memory map of the process, whose lock a process in the kernel may hold for ever.
_FILES = ("comm", "wchan", "stack", "syscall", "status", "sched", "limits", "cgroup", "oom_score", "io", "cmdline")
_THREAD_FILES = ("comm", "wchan", "stack")
_DEVICE = re.compile(r"(?:nvidia|davinci)\d{1,4}")


def facts_of(proc: Path, pids: Iterable[int]) -> list[dict[str, Any]]:
    """Facts of the first processes and their threads, by the names of files; what was not told in time is named."""
    return [_within_deadline(proc, pid) for pid in list(dict.fromkeys(pids))[:MAX_PROCESSES]]


def _within_deadline(proc: Path, pid: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"pid": pid, "at_ns": time.monotonic_ns()}
    reading: list[str] = []
    if _in_time(lambda: _collect(proc / str(pid), facts, reading), DEADLINE_S):
        return facts
    # The thread may still add to what it was given.
    return {**facts, "not_told_in_time": reading[-1] if reading else "stat"}


def _in_time(work: Callable[[], None], deadline_s: float) -> bool:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(deadline_s)
    return not thread.is_alive()


def _collect(folder: Path, facts: dict[str, Any], reading: list[str]) -> None:
    facts["exists"] = folder.is_dir()
    if not facts["exists"]:
        return
    threads = _names(folder / "task")
    facts["threads_total"] = len(threads)
    facts["threads"] = [
        {"tid": int(name), "state": _state(folder / "task" / name), **_texts(folder / "task" / name, _THREAD_FILES)}
        for name in threads[:MAX_THREADS]
    ]
    facts["state"] = _state(folder)
    for name in _FILES:
        reading.append(name)
        facts.update(_texts(folder, (name,)))
    if "cmdline" in facts:
        facts["cmdline"] = facts["cmdline"].rstrip("\0").split("\0")


def _texts(folder: Path, names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                found[name] = file.read(MAX_TEXT).decode("utf-8", "replace").rstrip("\n")
        except OSError as error:
            found[name] = f"({error.strerror})"
    return found


def _state(folder: Path) -> str:
    stat = _texts(folder, ("stat",))["stat"]
    return stat.rpartition(")")[2].strip()[:1]


def _names(folder: Path) -> list[str]:
    try:
        return sorted((name for name in os.listdir(folder) if name.isdigit()), key=int)
    except OSError:
        return []


def device_holders(proc: Path) -> list[int]:
    """Processes that have a device's own file open; those seen within the deadline."""
    found: list[int] = []
    _in_time(lambda: _look_for_holders(proc, found), HOLDERS_DEADLINE_S)
    return list(found)


def _look_for_holders(proc: Path, found: list[int]) -> None:
    left = MAX_LINKS
    for name in _names(proc):
        for fd in _names(proc / name / "fd"):
            left -= 1
            try:
                target = os.readlink(proc / name / "fd" / fd)
            except OSError:
                continue
            if target.startswith("/dev/") and _DEVICE.fullmatch(target.removeprefix("/dev/")):
                found.append(int(name))
                break
        if left <= 0:
            return
