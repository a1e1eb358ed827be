"""Two ways to look at every task once: by an iterator program in the kernel, or by reading /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..native.symbols import KernelSymbols
from .cgroup import CgroupTree
from .kernel import Cgroups, place, text
from .needs import NEEDS
from .paths import Paths

STATES = ("R", "S", "D", "T", "t", "X", "Z", "P", "I")

# Records of one sweep; at 312 bytes each, 10 MiB.
_MAX_BLOCKED = 32768


class Sweep(Protocol):
    """`at_ns` is when the last look was; `truncated` counts blocked tasks that did not fit."""

    at_ns: int
    degraded: str

    @property
    def truncated(self) -> int: ...

    def read(self, now_ns: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Tasks by state in the order of STATES; and one record (pid, tgid, start_ns, switches, …) of each
        task that sleeps uninterruptibly, valid until the next read. `start_ns` only tells tasks apart."""
        ...

    def names(self, task: Any) -> dict[str, Any]:
        """Attributes `task`, `cgroup` and `container` of a record of the last read, as far as they are known."""
        ...

    def stack(self, task: Any) -> list[str]:
        """Its kernel stack, innermost frame first; empty when the kernel does not tell."""
        ...

    def is_frozen(self, task: Any) -> bool:
        """Whether its version 1 freezer cgroup is frozen; version 2 shows frozen tasks as sleeping."""
        ...

    def exists(self, tgid: int, pid: int) -> bool: ...

    def close(self) -> None: ...


class KernelSweep:
    def __init__(self, paths: Paths, *, capacity_records: int = _MAX_BLOCKED) -> None:
        from ..native.bpf import Iterator, Object, record_dtype

        self._paths = paths
        self._symbols = KernelSymbols(paths.proc)
        self._cgroups = Cgroups(CgroupTree(paths))
        self._object = Object.named("tasks")
        self._object.set_constants(cgroup_hierarchy=self._cgroups.hierarchy())
        self._object.load()
        self._counts = self._object.map("counts").view(record_dtype("task_counts"))
        self._iterator = Iterator(self._object.attach("sweep"), record_dtype("task_blocked"), capacity_records)
        self.at_ns = 0
        # Iterators walk the tasks of the reader's own process namespace.
        self.degraded = NEEDS["host_pids"].missing(paths)

    @property
    def truncated(self) -> int:
        return self._iterator.truncated

    def read(self, now_ns: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        self.at_ns = now_ns
        before = self._counts["by_state"][0].copy()
        blocked = self._iterator.read()
        return self._counts["by_state"][0] - before, blocked

    def names(self, task: Any) -> dict[str, Any]:
        return {"task": text(task["comm"]), **self._cgroups.of(task["cgroup_id"])}

    def stack(self, task: Any) -> list[str]:
        return self._symbols.resolve(task["stack"][: task["frames"]].tolist())

    def is_frozen(self, task: Any) -> bool:
        return _is_frozen(self._cgroups.tree, _task(self._paths, task["tgid"], task["pid"]))

    def exists(self, tgid: int, pid: int) -> bool:
        return _task(self._paths, tgid, pid).exists()

    def close(self) -> None:
        self._object.close()


class ProcSweep:
    """For want of the program: 20 to 30 µs per task, so that it rests 20 times as long as it worked."""

    FIELDS = np.dtype(
        [("pid", "u4"), ("tgid", "u4"), ("start_ns", "u8"), ("switches", "u8"), ("comm", "S64")]
    )  # fmt: skip
    _REST = 20

    def __init__(self, paths: Paths, *, why: str) -> None:
        self._paths = paths
        self._tree = CgroupTree(paths)
        self._last = np.zeros(len(STATES), np.uint64), np.zeros(0, self.FIELDS)
        self._not_before_ns = 0
        self.at_ns = 0
        self.truncated = 0
        self.degraded = f"Tasks are read from /proc, at most 5 % of the time: {why}."

    def read(self, now_ns: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        if now_ns >= self._not_before_ns:
            self.at_ns, start_ns = now_ns, time.monotonic_ns()
            self._last = self._sweep()
            self._not_before_ns = now_ns + self._REST * (time.monotonic_ns() - start_ns)
        return self._last

    def names(self, task: Any) -> dict[str, Any]:
        paths = _cgroups_of(_task(self._paths, task["tgid"], task["pid"]))
        return {"task": text(task["comm"]), **place(paths.get("cpu") or paths.get("", ""))}

    def stack(self, task: Any) -> list[str]:
        lines = _read(_task(self._paths, task["tgid"], task["pid"]) / "stack").decode(errors="replace").splitlines()
        return [re.sub(r"^\[<[^>]*>\] |/0x[0-9a-f]+", "", line) for line in lines]

    def is_frozen(self, task: Any) -> bool:
        return _is_frozen(self._tree, _task(self._paths, task["tgid"], task["pid"]))

    def exists(self, tgid: int, pid: int) -> bool:
        return _task(self._paths, tgid, pid).exists()

    def close(self) -> None:
        pass

    def _sweep(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        counts = np.zeros(len(STATES), np.uint64)
        blocked: list[Any] = []
        for folder, stat in self._stats():
            # The name may hold spaces and brackets: the state follows the last one.
            head, _, fields = stat.rpartition(b") ")
            state = fields[:1].decode()
            if state not in STATES:
                continue
            counts[STATES.index(state)] += 1
            if state == "D" and len(blocked) < _MAX_BLOCKED:
                blocked.append(self._record(folder, head, fields))
        return counts, np.array(blocked, self.FIELDS)

    def _stats(self) -> Iterator[tuple[Path, bytes]]:
        for process in _numbers(self._paths.proc):
            tasks = self._paths.proc / process / "task"
            for pid in _numbers(tasks):
                stat = _read(tasks / pid / "stat")
                if stat:
                    yield tasks / pid, stat

    def _record(self, folder: Path, head: bytes, fields: bytes) -> tuple[int, int, int, int, bytes]:
        switches = re.findall(rb"ctxt_switches:\s+(\d+)", _read(folder / "status"))
        start_ticks = int(fields.split()[19])
        comm = head.partition(b"(")[2]
        return int(folder.name), int(folder.parts[-3]), start_ticks, sum(map(int, switches)), comm


def _task(paths: Paths, tgid: int, pid: int) -> Path:
    return paths.proc / f"{tgid}/task/{pid}"


def _cgroups_of(task: Path) -> dict[str, str]:
    """Path by controller; that of the unified hierarchy under ""."""
    lines = _read(task / "cgroup").decode(errors="replace").splitlines()
    rows = [line.split(":", 2) for line in lines]
    return {name: row[2] for row in rows if len(row) == 3 for name in row[1].split(",")}


def _is_frozen(tree: CgroupTree, task: Path) -> bool:
    path, root = _cgroups_of(task).get("freezer"), tree.root("freezer")
    return bool(path and root) and _read(Path(f"{root}{path}/freezer.state")).startswith(b"FR")


def _numbers(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return iter(())
    return (name for name in names if name.isdigit())


def _read(file: Path) -> bytes:
    """Empty when the task is gone or hidden."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
