"""CPU throttling of the control groups that have a quota, at a bounded cost however many there are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import chain, islice

from msgspec import Struct

from .cgroup import CgroupTree
from .cgroup_ids import readable
from .probe import Metric, Series

THROTTLED = Metric(
    "eagle_eye_cgroup_throttled_seconds_total",
    "counter",
    "Time in which the CPU quota of the cgroup was used up, summed over CPUs.",
    ("cgroup",),
)
PERIODS = Metric(
    "eagle_eye_cgroup_periods_total", "counter", "Quota periods in which the cgroup wanted to run.", ("cgroup",)
)
THROTTLED_PERIODS = Metric(
    "eagle_eye_cgroup_throttled_periods_total",
    "counter",
    "Quota periods in which the cgroup was throttled.",
    ("cgroup",),
)
LEFT_OUT = Metric(
    "eagle_eye_cgroup_left_out", "gauge", "Cgroups with a CPU quota that are not followed, for their number."
)

_PAUSE_NS = 5_000_000_000
_FOLDERS_PER_ROUND = 10
_READS_PER_ROUND = 16
_MAX_REMEMBERED = 4096


class Throttle(Struct, frozen=True):
    """Totals of one cgroup: periods that passed, periods in which it was throttled, time it was."""

    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0

    def plus(self, other: Throttle) -> Throttle:
        return Throttle(
            self.periods + other.periods,
            self.throttled_periods + other.throttled_periods,
            self.throttled_ns + other.throttled_ns,
        )


class Throttling:
    """Follows at most `max_cgroups` cgroups. A round looks at a few folders and reads a few cpu.stat, in turns.

    A cgroup that comes back under its old name goes on from its old totals.
    """

    def __init__(self, tree: CgroupTree, max_cgroups: int) -> None:
        self._tree = tree
        self._max_cgroups = max_cgroups
        self._root = tree.root("cpu")
        self._walk = tree.walk("cpu")
        self._next_walk_ns = 0
        self._fds: dict[str, int] = {}
        self._turns: Iterator[str] = iter(())
        self._before: dict[str, Throttle] = {}
        self._now: dict[str, Throttle] = {}
        self._series: dict[str, tuple[Series, ...]] = {}
        self._left_out_now = 0
        self.left_out = 0

    def round(self, now_ns: int) -> None:
        if now_ns >= self._next_walk_ns:
            self._walk_on(now_ns)
        for _ in range(min(_READS_PER_ROUND, len(self._fds))):
            self._read_next()

    def series(self) -> Iterator[Series]:
        """Of the cgroups that are there now."""
        yield Series(LEFT_OUT, self.left_out)
        yield from chain.from_iterable(self._series.values())

    def close(self) -> None:
        for path in list(self._fds):
            self._forget(path)

    def _walk_on(self, now_ns: int) -> None:
        folders = list(islice(self._walk, _FOLDERS_PER_ROUND))
        for path in folders:
            if path not in self._fds:
                self._consider(path)
        if len(folders) < _FOLDERS_PER_ROUND:
            self._walk = self._tree.walk("cpu")
            self._next_walk_ns = now_ns + _PAUSE_NS
            self.left_out, self._left_out_now = self._left_out_now, 0

    def _consider(self, path: str) -> None:
        try:
            if _has_quota(f"{self._root}{path}"):
                self._follow(path)
        except OSError as error:
            # Of other errors the cause is that the cgroup went away meanwhile.
            self._left_out_now += error.errno in (errno.EMFILE, errno.ENFILE)

    def _follow(self, path: str) -> None:
        if len(self._fds) >= self._max_cgroups:
            self._left_out_now += 1
            return
        self._fds[path] = os.open(f"{self._root}{path}/cpu.stat", os.O_RDONLY | os.O_CLOEXEC)
        self._read(path)

    def _read_next(self) -> None:
        path = next(self._turns, None)
        if path is None:
            self._turns = iter(list(self._fds))
        elif path in self._fds:
            self._read(path)

    def _read(self, path: str) -> None:
        try:
            self._now[path] = parsed(os.pread(self._fds[path], 1024, 0))
        except (OSError, ValueError):
            self._forget(path)
        else:
            self._series[path] = _series(readable(path), self._before.get(path, Throttle()).plus(self._now[path]))

    def _forget(self, path: str) -> None:
        os.close(self._fds.pop(path))
        self._series.pop(path, None)
        if len(self._before) >= _MAX_REMEMBERED:
            del self._before[next(iter(self._before))]
        self._before[path] = self._before.pop(path, Throttle()).plus(self._now.pop(path, Throttle()))


def _series(cgroup: str, total: Throttle) -> tuple[Series, ...]:
    return (
        Series(THROTTLED, total.throttled_ns / 1e9, (cgroup,)),
        Series(THROTTLED_PERIODS, total.throttled_periods, (cgroup,)),
        Series(PERIODS, total.periods, (cgroup,)),
    )


def parsed(stat: bytes) -> Throttle:
    """Of a cpu.stat; time is `throttled_usec` in version 2, `throttled_time` (nanoseconds) in version 1."""
    fields = dict(line.split(b" ", 1) for line in stat.splitlines() if line.count(b" ") == 1)
    usec = fields.get(b"throttled_usec")
    return Throttle(
        periods=int(fields.get(b"nr_periods", 0)),
        throttled_periods=int(fields.get(b"nr_throttled", 0)),
        throttled_ns=int(fields.get(b"throttled_time", 0)) if usec is None else int(usec) * 1000,
    )


def _has_quota(folder: str) -> bool:
    for name, unlimited in (("cpu.max", b"max"), ("cpu.cfs_quota_us", b"-")):
        try:
            return not _start_of(f"{folder}/{name}").startswith(unlimited)
        except FileNotFoundError:
            continue
    return False


def _start_of(path: str) -> bytes:
    # A fifth of what pathlib takes: this is done for every cgroup of the node.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64)
    finally:
        os.close(fd)
