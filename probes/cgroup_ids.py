"""Paths of control groups by the ids that BPF programs see."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_MAX_NAMES = 8192
_MAX_DEPTH = 32
_RESCAN_SECONDS = 5.0
_FILEID_KERNFS = 0xFE


class CgroupIds:
    """Ids to paths in one hierarchy.

    An id is the kernel's kernfs id, which is the inode number of the cgroup's folder; before Linux 5.5 only its
    lower half is. The kernel opens a folder by id (since 5.5, with CAP_DAC_READ_SEARCH), which also finds one
    that is seconds old; else the tree is searched, at most every `_RESCAN_SECONDS`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[int, str] = {}
        self._searched = -_RESCAN_SECONDS
        self._by_handle = _opens_by_handle(root)

    def path_of(self, cgroup_id: int) -> str:
        """Readable path, "" when the id is not, or no longer, there."""
        path = self._known.get(cgroup_id) or self._look_up(cgroup_id)
        if path:
            if len(self._known) >= _MAX_NAMES:
                self._known.clear()
            self._known[cgroup_id] = path
        return path

    def _look_up(self, cgroup_id: int) -> str:
        if self._by_handle:
            return _path_by_handle(self._root, cgroup_id)
        self._search()
        return self._known.get(cgroup_id) or self._known.get(cgroup_id & 0xFFFFFFFF, "")

    def _search(self) -> None:
        if time.monotonic() - self._searched < _RESCAN_SECONDS:
            return
        self._known = {}
        for path in walk(self._root):
            if len(self._known) >= _MAX_NAMES:
                break
            try:
                self._known[os.stat(self._root / path[1:]).st_ino] = readable(path)
            except OSError:
                continue
        self._searched = time.monotonic()


def _opens_by_handle(root: Path) -> bool:
    try:
        return _path_by_handle(root, os.stat(root).st_ino) == "/"
    except OSError:
        return False


def _path_by_handle(root: Path, cgroup_id: int) -> str:
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fd = _open_by_handle(at, cgroup_id)
        if fd < 0:
            return ""
        try:
            return readable(_relative(os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/self/fd/{at}")))
        finally:
            os.close(fd)
    finally:
        os.close(at)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _open_by_handle(at: int, cgroup_id: int) -> int:
    """A descriptor, or -1. struct file_handle is bytes, type, then the id (fcntl.h, linux/exportfs.h)."""
    handle = struct.pack("=IiQ", 8, _FILEID_KERNFS, cgroup_id & 0xFFFFFFFFFFFFFFFF)
    return int(_libc().open_by_handle_at(at, handle, os.O_PATH | os.O_CLOEXEC))


def _relative(folder: str, root: str) -> str:
    if folder.endswith(" (deleted)") or not (folder + "/").startswith(root.rstrip("/") + "/"):
        return ""
    return "/" + folder[len(root) :].strip("/")


def readable(path: str) -> str:
    """A user may name a cgroup with any bytes; those that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def walk(root: Path) -> Iterator[str]:
    """Paths of all cgroups below `root`, itself first. Lazy: a step reads one folder."""
    pending = ["/"]
    while pending:
        path = pending.pop()
        yield path
        if path.count("/") < _MAX_DEPTH:
            pending += _children(root, path)


def _children(root: Path, path: str) -> list[str]:
    folder = f"{root}{path}"
    try:
        # "." and the entry in the folder above: nothing is below.
        if os.stat(folder).st_nlink == 2:
            return []
        with os.scandir(folder) as entries:
            return [f"{path.rstrip('/')}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
