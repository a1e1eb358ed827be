"""Finds engines' files in the shared memory of the node and of its containers, in a thread of its own.

Its own, since a look into a container may hang where the container's file systems do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from msgspec import Struct

from ..attribution import Attribution
from ..owner import NOBODY, Owner
from ..paths import Paths
from .layout import Handshake, RefusedError
from .processes import Namespaces, holders, namespace, open_shared_memory, pids_outside, shared_memory_device
from .ring import Ring
from .sglang import NAME_PREFIX as SGLANG_PREFIX
from .sglang import LoadFile
from .vllm import wire

PERIOD_S = 2.0
# Of these rounds: new containers are looked for, all processes are looked at again.
_NAMESPACES_EVERY = 2
_AFRESH_EVERY = 30
_FOLDER_ENTRIES = 4096
_FILES_PER_FOLDER = 48

# Device, inode and name: a file system may give an inode's number to the next file.
Key = tuple[int, int, str]


class Found(Struct, frozen=True, eq=False):
    """An open file of an engine. `pid` and `worker_pids` are the node's, 0 and () where they cannot be seen."""

    file: Ring | LoadFile
    key: Key
    folder: int
    pid: int = 0
    worker_pids: tuple[int, ...] = ()
    owner: Owner = NOBODY


class Finder:
    """`found` gives what is new; `fd` is readable then. `refused` says why files with the right name are none."""

    def __init__(self, paths: Paths, *, limit: int) -> None:
        self._paths = paths
        self._limit = limit
        self._attribution = Attribution(paths)
        self._namespaces = Namespaces(paths.proc)
        self._new: list[Found] = []
        self._lock = threading.Lock()
        self._known: set[Key] = set()
        self._seen: set[Key] = set()
        self._open = 0
        self._refused: dict[Key, str] = {}
        self._devices: dict[int, str] = {}
        self._rounds = 0
        self.over_limit = 0
        self.began_ns = 0
        self._stop = threading.Event()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="engine-finder", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> list[str]:
        with self._lock:
            return list(self._refused.values())

    @property
    def denied(self) -> int:
        """Processes whose containers may not be looked into."""
        return self._namespaces.denied

    def busy_ns(self, now_ns: int) -> int:
        """How long the round that goes on has taken so far; 0 between rounds."""
        began = self.began_ns
        return now_ns - began if began else 0

    def found(self) -> list[Found]:
        with self._lock:
            if not self._new:
                return []
            os.eventfd_read(self.fd)
            found, self._new = self._new, []
            return found

    def knows(self, key: Key) -> bool:
        """Whether the file was there when last looked for."""
        with self._lock:
            return key in self._known

    def forget(self, found: Found) -> None:
        """The file was closed; it is not looked at again while it has its name."""
        with self._lock:
            self._open -= 1

    def close(self) -> None:
        """Waits a moment for the thread; one that hangs in a container's file system is left behind. Safe twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(1.0)
        for found in self.found():
            discard(found)
        if not self._thread.is_alive():
            os.close(self.fd)

    def _work(self) -> None:
        while not self._stop.is_set():
            self.began_ns = time.monotonic_ns()
            with contextlib.suppress(Exception):
                self._round()
            self.began_ns = 0
            self._stop.wait(PERIOD_S)

    def _round(self) -> None:
        self._seen, self.over_limit = set(), 0
        if self._rounds % _NAMESPACES_EVERY == 0:
            self._namespaces.scan(afresh=self._rounds % _AFRESH_EVERY == 0)
        self._rounds += 1
        for opener in self._folders():
            try:
                folder = opener()
            except OSError:
                continue
            try:
                self._look_into(folder)
            finally:
                os.close(folder)
        with self._lock:
            self._known &= self._seen
            self._refused = {key: why for key, why in self._refused.items() if key in self._seen}

    def _folders(self) -> Iterator[Callable[[], int]]:
        """Each tmpfs once, the node's own first."""
        own = namespace(self._paths.proc, "self", "mnt")
        shm = self._paths.dev / "shm"
        yield lambda: os.open(shm, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        seen = {_device(str(shm))}
        devices: dict[int, str] = {}
        for inode, pid in self._namespaces.representatives():
            if inode == own:
                continue
            afresh = self._rounds % _AFRESH_EVERY == 1
            known = "" if afresh else self._devices.get(inode, "")
            device = devices[inode] = known or shared_memory_device(self._paths.proc, pid)
            if device and device not in seen:
                seen.add(device)
                yield lambda pid=pid: open_shared_memory(self._paths.proc, pid)  # type: ignore[misc]
        self._devices = devices

    def _look_into(self, folder: int) -> None:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in islice(entries, _FOLDER_ENTRIES)
                if entry.name.startswith((wire.NAME_PREFIX, SGLANG_PREFIX))
            ]
        for name in names[:_FILES_PER_FOLDER]:
            if name.endswith((".ring", ".shm")):
                with contextlib.suppress(OSError):
                    self._look_at(name, folder)

    def _look_at(self, name: str, folder: int) -> None:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        key = (status.st_dev, status.st_ino, name)
        self._seen.add(key)
        with self._lock:
            if key in self._known or key in self._refused:
                return
            if self._open >= self._limit:
                self.over_limit += 1
                return
        try:
            file = Ring(name, folder) if name.endswith(".ring") else LoadFile(name, folder)
        except (RefusedError, OSError) as error:
            with self._lock:
                self._refused[key] = f"{name[:80]}: {error}"
            return
        self._tell(file, key, folder)

    def _tell(self, file: Ring | LoadFile, key: Key, folder: int) -> None:
        with self._lock:
            self._known.add(key)
            self._open += 1
        pid, worker_pids = self._pids(file.handshake) if isinstance(file, Ring) else (self._holder(key), ())
        owner = self._attribution.of(pid) if pid else NOBODY
        found = Found(file, key, os.dup(folder), pid, worker_pids, owner)
        with self._lock:  # the descriptor is readable when there is something, and only then
            self._new.append(found)
            os.eventfd_write(self.fd, 1)

    def _pids(self, handshake: Handshake) -> tuple[int, tuple[int, ...]]:
        inside = (handshake.pid, *handshake.worker_pids)
        outside = pids_outside(self._paths.proc, handshake.pid_namespace, inside)
        workers = (outside.get(pid, 0) for pid in handshake.worker_pids)
        return outside.get(handshake.pid, 0), tuple(filter(None, workers))

    def _holder(self, key: Key) -> int:
        """The first process, this one aside, that has the file open: SGLang's writers keep theirs open."""
        mine = os.getpid()
        return next((pid for pid in holders(self._paths.proc, key[:2]) if pid != mine), 0)


def remove_file(found: Found) -> bool:
    """Removes a file whose writer is dead, if its name still means it."""
    try:
        status = os.stat(found.file.name, dir_fd=found.folder, follow_symlinks=False)
        if (status.st_dev, status.st_ino) == found.key[:2]:
            os.unlink(found.file.name, dir_fd=found.folder)
            return True
    except OSError:
        pass
    return False


def discard(found: Found) -> None:
    """Closes what a found file holds open."""
    found.file.close()
    with contextlib.suppress(OSError):
        os.close(found.folder)


def _device(path: str) -> str:
    try:
        device = os.stat(path).st_dev
    except OSError:
        return ""
    return f"{os.major(device)}:{os.minor(device)}"
