"""Names, containers and memory figures of control groups, versions 1, 2 and both at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from .cgroup_ids import CgroupIds, walk
from .paths import Paths

Version = Literal["v1", "v2", "hybrid", "none"]

_CONTAINER = re.compile(r"(?:.*[-:])?([0-9a-f]{64})(?:\.scope)?")
# From this on the version 1 memory controller means "no limit": LONG_MAX, rounded down to a page.
_V1_NO_LIMIT_BYTES = 2**63 - 2**16


def container_of(path: str) -> str:
    """The 64-digit id of the innermost container that a cgroup path names, "" where there is none.

    Knows docker, containerd, CRI-O and podman, under the systemd and the cgroupfs driver.
    """
    for name in reversed(path.split("/")):
        found = _CONTAINER.fullmatch(name)
        if found and "conmon" not in name:
            return found[1]
    return ""


class CgroupTree:
    """The control groups below `paths.sys`. A path is as in /proc/PID/cgroup: "/", "/kubepods/burstable/…"."""

    def __init__(self, paths: Paths) -> None:
        self._base = paths.sys / "fs/cgroup"
        self._unified = self._unified_root()
        self._names: dict[Path, CgroupIds] = {}

    @property
    def version(self) -> Version:
        """`hybrid`: version 1 controllers, and version 2 mounted beside them."""
        v1 = any(self._v1_root(name) for name in ("cpu", "memory", "pids"))
        if self._unified:
            return "hybrid" if v1 else "v2"
        return "v1" if v1 else "none"

    @property
    def uses_v1_cpu(self) -> bool:
        return self._v1_root("cpu") is not None

    @property
    def uses_v1_memory(self) -> bool:
        return self._v1_root("memory") is not None

    def root(self, controller: str) -> Path | None:
        """Where the hierarchy is mounted that has `controller` ("cpu", "memory", …)."""
        return self._v1_root(controller) or self._unified

    def path_of(self, cgroup_id: int, controller: str = "cpu") -> str:
        """Path of the cgroup with that id in the hierarchy of `controller`, "" when it is not, or no longer, there."""
        root = self.root(controller)
        if root is None:
            return ""
        if root not in self._names:
            self._names[root] = CgroupIds(root)
        return self._names[root].path_of(cgroup_id)

    def memory_limit_bytes(self, path: str) -> int | None:
        """The least limit of the cgroup and those above it; None when there is none, or the cgroup is gone."""
        own = Path("/", path)
        limits = [self._memory(str(each), "memory.max", "memory.limit_in_bytes") for each in (own, *own.parents)]
        return min((limit for limit in limits if limit is not None and limit < _V1_NO_LIMIT_BYTES), default=None)

    def memory_usage_bytes(self, path: str) -> int | None:
        """What the cgroup and those below it use now; None when it is gone."""
        return self._memory(path, "memory.current", "memory.usage_in_bytes")

    def walk(self, controller: str) -> Iterator[str]:
        """Paths of all cgroups that have `controller`, the root first. Lazy: a step reads one folder."""
        root = self.root(controller)
        return walk(root) if root else iter(())

    def _memory(self, path: str, v2_file: str, v1_file: str) -> int | None:
        root = self.root("memory")
        if root is None:
            return None
        return _number(root / path.lstrip("/") / (v1_file if self.uses_v1_memory else v2_file))

    def _unified_root(self) -> Path | None:
        candidates = (self._base, self._base / "unified")
        return next((path for path in candidates if (path / "cgroup.controllers").exists()), None)

    def _v1_root(self, controller: str) -> Path | None:
        if self._unified == self._base:
            return None  # a folder of this name is a cgroup that somebody called so
        # Distributions mount cpu and cpuacct together and link the single names to it; some leave the link out.
        candidates = (self._base / controller, self._base / "cpu,cpuacct")
        for path in candidates if controller in ("cpu", "cpuacct") else candidates[:1]:
            if (path / "cgroup.procs").exists():
                return path
        return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
