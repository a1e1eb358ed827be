"""What a probe may need of a machine: how to see whether it is there, and the one step that mends it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from ..native.errors import EagleEyeError, UnavailableError
from ..native.failures import BTF_REMEDY, CAPABILITY_REMEDY
from .cgroup import CgroupTree
from .paths import Paths

# linux/capability.h
_SYS_ADMIN, _SYS_RESOURCE = 21, 24
_SYSLOG, _PERFMON, _BPF = 34, 38, 39

_MEMLOCK_BYTES = 64 * 2**20


class Need(Struct, frozen=True):
    """`missing` gives "" when the need is met, else one sentence; it never raises for what a machine may lack."""

    name: str
    what: str
    missing: Callable[[Paths], str]
    remedy: str


def _capability(bit: int, name: str) -> Callable[[Paths], str]:
    def missing(paths: Paths) -> str:
        held = effective_capabilities(paths)
        return "" if held >> bit & 1 or held >> _SYS_ADMIN & 1 else f"this process lacks {name}"

    return missing


def effective_capabilities(paths: Paths) -> int:
    """Bit set of CapEff; 0 where /proc does not tell."""
    try:
        lines = (paths.proc / "self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


def _btf_path(paths: Paths) -> Path:
    return paths.sys / "kernel/btf/vmlinux"


def _btf(paths: Paths) -> str:
    return "" if os.access(_btf_path(paths), os.R_OK) else f"the kernel has no type information: no {_btf_path(paths)}"


def _in_btf(paths: Paths, name: bytes) -> bool:
    """Whether the kernel has a type, function or variable of that name; false without BTF."""
    try:
        return b"\0" + name + b"\0" in _btf_path(paths).read_bytes()
    except OSError:
        return False


def _task_storage(paths: Paths) -> str:
    if _btf(paths):
        return "without type information nothing tells whether the kernel has task storage"
    return "" if _in_btf(paths, b"bpf_task_storage_get") else "the kernel has no task storage (since Linux 5.11)"


def _memlock(paths: Paths) -> str:
    # Linux commit 3ac1f01b43b6 ("bpf: Eliminate rlimit-based memory accounting for bpf progs") (in v5.11) and its
    # neighbours charge BPF memory to the cgroup; before them bpf_map_charge_init() held it against the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    enough = hard == resource.RLIM_INFINITY or hard >= _MEMLOCK_BYTES
    if enough or effective_capabilities(paths) >> _SYS_RESOURCE & 1 or not _in_btf(paths, b"bpf_map_charge_init"):
        return ""
    return f"this kernel holds BPF memory against the memlock limit, which is {hard} bytes and cannot be raised"


def _bpf_objects(paths: Paths) -> str:
    try:
        # A machine without libbpf or an unfinished build must not take the other rows along.
        from ..native.bpf import Object
    except ImportError as error:
        return f"the C modules are not built: {error}"
    try:
        Object.named("sched").close()
    except EagleEyeError as error:
        return error.message
    return ""


def _psi(paths: Paths) -> str:
    try:
        (paths.proc / "pressure/cpu").read_bytes()
    except OSError:
        return f"the kernel does not measure pressure: {paths.proc / 'pressure/cpu'} cannot be read"
    return ""


def _kmsg(paths: Paths) -> str:
    try:
        from ..native.kmsg import KernelLog
    except ImportError as error:
        return f"the C modules are not built: {error}"
    try:
        KernelLog(paths.dev / "kmsg", from_boot=True).close()
    except UnavailableError as error:
        return error.message
    return ""


def _tracefs(paths: Paths) -> str:
    roots = (paths.sys / "kernel/tracing", paths.sys / "kernel/debug/tracing")
    return "" if any(os.access(root / "events", os.X_OK) for root in roots) else "tracefs is not mounted"


def _host_pids(paths: Paths) -> str:
    # PROC_PID_INIT_INO of include/linux/proc_ns.h: the first pid namespace has this number on every kernel.
    try:
        first = os.readlink(paths.proc / "self/ns/pid") == f"pid:[{0xEFFFFFFC}]"
    except OSError as error:
        return f"the process namespace is not known: {error.strerror} ({error.filename})"
    return "" if first else "this process sees only the tasks of its own container"


def _cgroup(paths: Paths) -> str:
    return f"no cgroup hierarchy below {paths.sys / 'fs/cgroup'}" if CgroupTree(paths).version == "none" else ""


NEEDS: dict[str, Need] = {
    need.name: need
    for need in (
        Need(
            "btf",
            "type information of the running kernel",
            _btf,
            BTF_REMEDY,
        ),
        Need(
            "bpf_objects",
            "the BPF programs, compiled for this machine",
            _bpf_objects,
            "make build",
        ),
        Need(
            "cap_bpf",
            "CAP_BPF, to load BPF programs",
            _capability(_BPF, "CAP_BPF"),
            CAPABILITY_REMEDY,
        ),
        Need(
            "cap_perfmon",
            "CAP_PERFMON, to attach programs to kernel events",
            _capability(_PERFMON, "CAP_PERFMON"),
            CAPABILITY_REMEDY,
        ),
        Need(
            "cap_syslog",
            "CAP_SYSLOG, to read the kernel log and the addresses of kernel symbols",
            _capability(_SYSLOG, "CAP_SYSLOG"),
            CAPABILITY_REMEDY,
        ),
        Need(
            "memlock",
            "room for BPF maps under the memlock limit, before Linux 5.11",
            _memlock,
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        Need(
            "task_storage",
            "memory of BPF programs that belongs to a task",
            _task_storage,
            "boot Linux 5.11 or later; until then a hash table does the same, slower",
        ),
        Need(
            "tracefs",
            "the tracing file system, for classic tracepoints",
            _tracefs,
            "sudo mount -t tracefs tracefs /sys/kernel/tracing",
        ),
        Need(
            "kmsg",
            "a readable kernel log",
            _kmsg,
            "run it with sudo, or sudo sysctl -w kernel.dmesg_restrict=0",
        ),
        Need(
            "psi",
            "pressure stall information",
            _psi,
            "boot with psi=1 on the kernel command line",
        ),
        Need(
            "host_pids",
            "the process ids of the node, not of a container",
            _host_pids,
            "run the container with --pid=host (Kubernetes: hostPID: true)",
        ),
        Need(
            "cgroup",
            "a mounted control-group hierarchy",
            _cgroup,
            "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    )
}
