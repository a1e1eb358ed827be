"""Turns what libbpf and the kernel say into our exceptions, with the way out."""

from __future__ import annotations

import errno as codes
import os
import re
from pathlib import Path

from .errors import BpfAttachError, BpfLoadError, EagleEyeError, UnavailableError

VERIFIER_LINES = 15
OTHER_LINES = 8

STATUS = Path("/proc/thread-self/status")
BTF_PATH = Path("/sys/kernel/btf/vmlinux")
TRACEFS_PATHS = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))

# From include/uapi/linux/capability.h.
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39

CAPABILITY_REMEDY = (
    "run it with sudo, or its container with --cap-add BPF --cap-add PERFMON --cap-add SYSLOG "
    "(before Linux 5.8: --cap-add SYS_ADMIN)"
)
BTF_REMEDY = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have it since 2021"
TRACEFS_REMEDY = "mount -t tracefs tracefs /sys/kernel/tracing"
MEMLOCK_REMEDY = "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity); kernels since 5.11 need no such limit"

_VERIFIER_LOG = re.compile(r"prog '([^']*)': -- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)
_VERIFIER_NOISE = re.compile(r"(processed \d+ insns|verification time|stack depth|func#\d+ @|Live regs|max_states)")
_MISSING_BTF = re.compile(r"failed to find kernel BTF type ID of '([^']*)'")


def missing_capabilities() -> tuple[str, ...]:
    """Those of CAP_BPF and CAP_PERFMON that this thread lacks; CAP_SYS_ADMIN stands for both."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", STATUS.read_text(), re.MULTILINE)
    held = int(found[1], 16) if found else 0
    if held >> CAP_SYS_ADMIN & 1:
        return ()
    return tuple(name for name, bit in (("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)) if not held >> bit & 1)


def error_name(errno: int) -> str:
    """`ENOENT (No such file or directory)`."""
    return f"{codes.errorcode.get(errno, errno)} ({os.strerror(errno)})"


def useful_lines(log: str) -> str:
    """The end of the verifier's log where there is one, else of libbpf's own words; "" when silent."""
    log = log.replace("libbpf: ", "")
    verifier = list(_VERIFIER_LOG.finditer(log))
    if verifier:
        lines = [line for line in verifier[-1][2].splitlines() if line.strip() and not _VERIFIER_NOISE.match(line)]
        return "\n  ".join([f"\n  program '{verifier[-1][1]}':", *lines[-VERIFIER_LINES:]])
    lines = [line for line in log.splitlines() if line.strip()]
    return "\n  ".join(["", *lines[-OTHER_LINES:]]) if lines else ""


def open_failed(name: str, errno: int, log: str) -> EagleEyeError:
    """For bpf_object__open_file()."""
    return BpfLoadError(f"{name} is no readable BPF object: {error_name(errno)}{useful_lines(log)}", errno=errno)


def load_failed(name: str, errno: int, log: str) -> EagleEyeError:
    """For bpf_object__load(): what this machine lacks where that can be told, else the log."""
    text = f"{name} did not load: {error_name(errno)}"
    if errno == codes.EPERM:
        return _not_permitted(text, log) or BpfLoadError(text + useful_lines(log), errno=errno)
    if errno == codes.ESRCH and not BTF_PATH.exists():
        return UnavailableError(f"{text}: the kernel has no BTF ({BTF_PATH})", remedy=BTF_REMEDY)
    missing = _MISSING_BTF.search(log)
    if missing:
        hook = missing[1].removeprefix("btf_trace_")
        return UnavailableError(f"{text}: this kernel has no hook '{hook}'", remedy="leave this program out")
    return BpfLoadError(text + useful_lines(log), errno=errno)


def attach_failed(program: str, section: str, errno: int, log: str) -> EagleEyeError:
    """For bpf_program__attach() and its relatives."""
    text = f"program '{program}' ({section}) did not attach: {error_name(errno)}"
    lacking = _not_permitted(text, log) if errno in (codes.EPERM, codes.EACCES) else None
    if lacking:
        return lacking
    if section.startswith(("tp/", "tracepoint/")) and not any(path.exists() for path in TRACEFS_PATHS):
        return UnavailableError(f"{text}: tracefs is not mounted", remedy=TRACEFS_REMEDY)
    if errno == codes.EOPNOTSUPP:
        return BpfAttachError(f"{text}: its section does not say where to attach", errno=errno)
    return BpfAttachError(text + useful_lines(log), errno=errno)


def _not_permitted(text: str, log: str) -> UnavailableError | None:
    missing = missing_capabilities()
    if missing:
        return UnavailableError(f"{text}: {' and '.join(missing)} missing", remedy=CAPABILITY_REMEDY)
    # libbpf tries to raise the limit once per process; later it only suspects it, at every refused map.
    if "RLIMIT_MEMLOCK" in log or ("ulimit -l" in log and "failed to create" in log):
        return UnavailableError(f"{text}: the limit of locked memory is too low", remedy=MEMLOCK_REMEDY)
    return None
