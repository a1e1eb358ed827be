"""Processes of the node as engines do not see them: their mount namespaces, and their pids from outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# A process may enter its namespace a moment after it was forked.
_LOOKS = 3
# The node's own first process is in no container, and often lets nobody look at it.
_INIT = 1
_MAX_PROCESSES = 65_536
_MAX_NAMESPACES = 1024
_PIDS_PER_NAMESPACE = 4
_MAX_DESCRIPTORS = 4096
_NSPID = re.compile(rb"^NSpid:((?:\s+\d+)+)$", re.MULTILINE)


class Namespaces:
    """One living process for each mount namespace. Looks at a process a few times when it is new, not again."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._looks: dict[int, int] = {}
        self._members: dict[int, dict[int, None]] = {}
        self._denied: set[int] = set()
        self._where: dict[int, int] = {}

    @property
    def denied(self) -> int:
        """Processes that may not be looked at."""
        return len(self._denied)

    def __len__(self) -> int:
        return len(self._members)

    def scan(self, *, afresh: bool = False) -> None:
        """Finds new processes and forgets those that ended; `afresh` looks at all again."""
        there = set(_pids(self._proc))
        self._denied = set() if afresh else self._denied & there
        self._where = {pid: inode for pid, inode in self._where.items() if pid in there}
        self._looks = {pid: looks for pid, looks in self._looks.items() if pid in there and not afresh}
        for members in self._members.values():
            for pid in [pid for pid in members if pid not in there]:
                del members[pid]
        for pid in there:
            if (looks := self._looks.get(pid, 0)) < _LOOKS:
                self._looks[pid] = looks + 1
                self._look_at(pid)
        self._members = {inode: members for inode, members in self._members.items() if members}

    def representatives(self) -> Iterator[tuple[int, int]]:
        """Inode of each namespace, and the newest known of its processes."""
        for inode, members in list(self._members.items()):
            if members:
                yield inode, next(reversed(members))

    def _look_at(self, pid: int) -> None:
        try:
            inode = _namespace(self._proc, pid, "mnt")
        except PermissionError:
            if pid != _INIT:
                self._denied.add(pid)
            return
        except OSError:  # it ended
            return
        if inode not in self._members and len(self._members) >= _MAX_NAMESPACES:
            return
        if (before := self._where.get(pid, inode)) != inode and before in self._members:
            self._members[before].pop(pid, None)
        self._where[pid] = inode
        members = self._members.setdefault(inode, {})
        members[pid] = None
        if len(members) > _PIDS_PER_NAMESPACE:
            # The oldest is kept: it is the likeliest to live on.
            del members[list(members)[1]]


def namespace(proc: Path, pid: int | str, kind: str) -> int:
    """Inode of a process's namespace; 0 when it may not be seen."""
    try:
        return _namespace(proc, pid, kind)
    except OSError:
        return 0


def _namespace(proc: Path, pid: int | str, kind: str) -> int:
    return os.stat(proc / str(pid) / "ns" / kind).st_ino


def pids_outside(proc: Path, pid_namespace: int, pids: Iterable[int]) -> dict[int, int]:
    """The node's pids of processes, by their pids in the namespace with this inode. Looks at all processes once."""
    wanted = set(pids) - {0}
    if not pid_namespace or not wanted:
        return {}
    found: dict[int, int] = {}
    for pid in _pids(proc):
        if namespace(proc, pid, "pid") == pid_namespace and (inside := _innermost(proc, pid)) in wanted:
            found[inside] = pid
            if len(found) == len(wanted):
                break
    return found


def holders(proc: Path, key: tuple[int, int], limit: int = 64) -> list[int]:
    """Processes that have the file with this device and inode open. Looks at every descriptor of the node once."""
    return [pid for pid in _pids(proc) if _holds(proc / str(pid) / "fd", key)][:limit]


def _holds(descriptors: Path, key: tuple[int, int]) -> bool:
    try:
        names = os.listdir(descriptors)[:_MAX_DESCRIPTORS]
    except OSError:
        return False
    for name in names:
        try:
            status = os.stat(descriptors / name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == key:
            return True
    return False


def shared_memory_device(proc: Path, pid: int) -> str:
    """Device of the tmpfs that a process has as /dev/shm, as `0:45`; "" for anything else.

    Another file system might answer never, as FUSE does when its daemon does not want to.
    """
    device = ""
    try:
        with (proc / str(pid) / "mountinfo").open(errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return ""
    for line in lines:
        words = line.split(" ")
        if len(words) > 6 and words[4] == "/dev/shm":  # noqa: S108 - a mount point
            kind = words[words.index("-") + 1] if "-" in words[6:] else ""
            device = words[2] if kind == "tmpfs" else ""
    return device


def open_shared_memory(proc: Path, pid: int) -> int:
    """The folder dev/shm of a process's root, opened; no link on the way is followed. Raises OSError."""
    folder = os.open(proc / str(pid) / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, mode in (("dev", os.O_PATH), ("shm", os.O_RDONLY)):
        try:
            inner = os.open(name, mode | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _pids(proc: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc) if name.isdigit()][:_MAX_PROCESSES]
    except OSError:
        return []


def _innermost(proc: Path, pid: int) -> int:
    """A process's pid in its own namespace; 0 when it has gone."""
    try:
        with (proc / str(pid) / "status").open("rb") as file:
            found = _NSPID.search(file.read(8192))
    except OSError:
        return 0
    return int(found[1].split()[-1]) if found else 0
