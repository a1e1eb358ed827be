"""The file through which HAMi's libvgpu.so shares a container's limits and use, one per container, in its C layout.

Layouts: HAMi-core src/multiprocess/multiprocess_memory_limit.h (versions 1.0 to 1.2, and 0 before there was one),
as HAMi's own monitor reads them (pkg/monitor/nvidia). A container may write anything into its file, at any time.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

_MAGIC = 19920718
_DEVICES = 16
_SLOTS = 1024
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,90}")
# More than any device has; what lies above is no reading.
_MAX_BYTES = 1 << 44


class _Layout(Struct, frozen=True):
    header: np.dtype[Any]
    slot: np.dtype[Any]
    tail: np.dtype[Any]

    @property
    def size(self) -> int:
        return self.tail_at + self.tail.itemsize

    @property
    def tail_at(self) -> int:
        return self.header.itemsize + _SLOTS * self.slot.itemsize


def _layout(*, versioned: bool) -> _Layout:
    spare = 3 if versioned else 0
    version = [("major", "i4"), ("minor", "i4")] if versioned else []
    header = [
        ("magic", "i4"), *version, ("sm_init", "i4"), ("owner_pid", "u8"), ("semaphore", "u8", 4),
        ("devices", "u8"), ("uuids", "S96", _DEVICES), ("limit_bytes", "u8", _DEVICES), ("sm_limit", "u8", _DEVICES),
    ]  # fmt: skip
    memory = [("context", "u8"), ("module", "u8"), ("buffer", "u8"), ("offset", "u8"), ("total", "u8")]
    busy = [("decoder", "u8"), ("encoder", "u8"), ("sm", "u8")]
    slot = [
        ("pid", "i4"), ("host_pid", "i4"), ("used", _aligned([*memory, ("spare", "u8", spare)]), _DEVICES),
        ("monitor_used", "u8", _DEVICES), ("busy_percent", _aligned([*busy, ("spare", "u8", spare)]), _DEVICES),
        ("status", "i4"), ("spare", "u8", spare),
    ]  # fmt: skip
    tail = [("slots", "i4"), ("switch", "i4"), ("recent_kernel", "i4"), ("priority", "i4")]
    more: list[Any] = [("last_kernel_s", "i8"), ("spare", "u8", 4)] if versioned else []
    return _Layout(_aligned(header), _aligned(slot), _aligned([*tail, *more]))


def _aligned(fields: list[Any]) -> np.dtype[Any]:
    return np.dtype(fields, align=True)


_OLD, _VERSION_1 = _layout(versioned=False), _layout(versioned=True)


class Share(Struct, frozen=True):
    """What a container may use and uses of one device. Limits are None where there is none, as is what was implausible.

    `utilization_ratio` is of the SMs, 1 for the whole device.
    """

    uuid: str
    memory_used_bytes: int | None
    memory_limit_bytes: int | None
    utilization_ratio: float | None
    utilization_limit_ratio: float | None


class Usage(Struct, frozen=True):
    """One region. `dead` processes left their numbers behind; these are not in `shares`."""

    version: str
    processes: int
    dead: int
    shares: tuple[Share, ...]


def read(path: Path, alive: Callable[[int], bool] | None = None) -> Usage:
    """The region in a file. `alive` says whether a pid of the node runs: only for who sees the node's processes.

    Reads rather than maps: who shortens a mapped file kills its reader. Raises OSError, and ValueError for a file
    that is no region or of a version that is not known.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _Region(fd).usage(alive)
    finally:
        os.close(fd)


class _Region:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        start = np.frombuffer(os.pread(fd, 12, 0).ljust(12, b"\0"), "i4")
        if start[0] != _MAGIC:
            raise ValueError("not a HAMi region, or not initialized yet")
        self._layout, self._version = _known_layout(status.st_size, int(start[1]), int(start[2]))

    def usage(self, alive: Callable[[int], bool] | None) -> Usage:
        header = self._array(self._layout.header, 0, 1)[0]
        tail = self._array(self._layout.tail, self._layout.tail_at, 1)[0]
        slots = self._array(self._layout.slot, self._layout.header.itemsize, min(_SLOTS, max(0, int(tail["slots"]))))
        running = [bool(each["status"]) and _runs(int(each["host_pid"]), alive) for each in slots]
        live = slots[np.array(running, dtype=bool)]
        devices = min(_DEVICES, int(header["devices"]))
        shares = (_share(header, live, index) for index in range(devices))
        return Usage(self._version, len(live), len(slots) - len(live), tuple(share for share in shares if share))

    def _array(self, dtype: np.dtype[Any], at: int, count: int) -> np.ndarray[Any, Any]:
        data = os.pread(self._fd, dtype.itemsize * count, at)
        if len(data) < dtype.itemsize * count:
            raise ValueError("the file was shortened")
        return np.frombuffer(data, dtype)


def _runs(host_pid: int, alive: Callable[[int], bool] | None) -> bool:
    """libvgpu.so may not know its pid on the node (0): such a process counts as running."""
    return alive is None or host_pid <= 0 or alive(host_pid)


def _known_layout(size: int, major: int, minor: int) -> tuple[_Layout, str]:
    """libvgpu.so writes one byte past the structure. Sizes tell layouts apart that bear the same version."""
    if size - _OLD.size in (0, 1):
        return _OLD, "0"
    if size - _VERSION_1.size in (0, 1) and major == 1 and 0 <= minor <= 2:
        return _VERSION_1, f"{major}.{minor}"
    raise ValueError(f"unknown layout: {size} bytes, version {major}.{minor}")


def _share(header: Any, live: np.ndarray[Any, Any], index: int) -> Share | None:
    uuid = header["uuids"][index].decode(errors="replace")
    if not _UUID.fullmatch(uuid):
        return None
    sm_limit = int(header["sm_limit"][index])
    busy = _sum(live["busy_percent"]["sm"][:, index], most=100)
    return Share(
        uuid,
        memory_used_bytes=_sum(live["used"]["total"][:, index], most=_MAX_BYTES),
        memory_limit_bytes=_plausible(int(header["limit_bytes"][index])),
        utilization_ratio=None if busy is None else min(1.0, busy / 100),
        utilization_limit_ratio=sm_limit / 100 if 0 < sm_limit < 100 else None,
    )


def _sum(values: np.ndarray[Any, Any], *, most: int) -> int | None:
    return None if (values > most).any() else int(values.sum())


def _plausible(limit_bytes: int) -> int | None:
    return limit_bytes if 0 < limit_bytes <= _MAX_BYTES else None
