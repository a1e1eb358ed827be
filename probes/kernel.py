"""What the probes with kernel programs share: the names of tasks and of the cgroups that tasks are in."""

from __future__ import annotations

from typing import Any

from .cgroup import CgroupTree, container_of

# enum cgroup_hierarchy of bpf/common.bpf.h.
_UNIFIED = 0
_V1 = {"cpu": 1, "memory": 2, "pids": 3}

PROGRAM_NEEDS = ("btf", "cap_bpf", "cap_perfmon", "bpf_objects")


def text(raw: bytes) -> str:
    """A kernel string: ends at its first NUL; bytes that are no UTF-8 are shown as U+FFFD."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


class Cgroups:
    """Cgroup ids of records as paths; tells the programs which hierarchy's ids are wanted."""

    def __init__(self, tree: CgroupTree) -> None:
        self.tree = tree

    def hierarchy(self, controller: str = "cpu") -> int:
        """For the constants `cgroup_hierarchy` and `memory_hierarchy` of a program."""
        uses_v1 = self.tree.uses_v1_memory if controller == "memory" else self.tree.uses_v1_cpu
        return _V1[controller] if uses_v1 else _UNIFIED

    def of(self, cgroup_id: Any, controller: str = "cpu") -> dict[str, Any]:
        """`cgroup` and, inside one, `container`; empty for a cgroup that is gone."""
        path = self.tree.path_of(int(cgroup_id), controller)
        return place(path)


def place(path: str) -> dict[str, Any]:
    """The attributes `cgroup` and `container` of an event; what is not known is left out."""
    found = {"cgroup": path, "container": container_of(path)}
    return {name: value for name, value in found.items() if value}
