"""Machines that lack something: a child process is put into the lack and must be told the way out."""

from __future__ import annotations

import os
import shutil

import pytest

from eagle_eye.native import failures

SAY = """
from pathlib import Path
from eagle_eye.native.bpf import Object
from eagle_eye.native.errors import EagleEyeError
try:
    {step}
    print("ok")
except EagleEyeError as why:
    print(type(why).__name__, why.exit_code, why, "|", why.remedy)
"""
NO_CAPABILITIES = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")


@pytest.fixture(autouse=True)
def as_root():
    if os.geteuid() != 0 or failures.missing_capabilities():
        pytest.skip("needs root, to take capabilities and mounts away")
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("needs setpriv and unshare of util-linux")


def step(path, *more: str) -> str:
    return SAY.format(step="; ".join([f"one = Object(Path({str(path)!r}))", *more]))


def hide(*paths: str) -> tuple[str, ...]:
    """A private view of the file system where these folders are empty."""
    binds = "; ".join(f"[ ! -d {path} ] || mount -t tmpfs none {path}" for path in paths)
    return ("unshare", "--mount", "sh", "-c", f'{binds}; exec "$@"', "sh")


def test_no_capabilities(compiled, in_child):
    said = in_child(step(compiled("rings"), "one.load()"), *NO_CAPABILITIES)
    assert said.startswith("UnavailableError 3 rings.bpf.o did not load: EPERM")
    assert "CAP_BPF and CAP_PERFMON missing" in said
    assert "run it with sudo" in said


def test_only_one_capability(compiled, in_child):
    prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+bpf")
    said = in_child(step(compiled("hooks"), "one.load()"), *prefix)
    assert "CAP_PERFMON missing" in said
    assert "CAP_BPF" not in said.split("|")[0]


def test_capabilities_without_root(compiled, in_child, tmp_path_factory):
    """CAP_BPF and CAP_PERFMON are enough: no uid 0, no CAP_SYS_ADMIN, no CAP_SYS_RESOURCE."""
    prefix = ("setpriv", "--bounding-set=-all,+bpf,+perfmon")
    steps = ('one.leave_out("on_tp")', "one.load()", 'one.attach("on_tp_btf")', 'one.attach("on_task")')
    assert in_child(step(compiled("hooks"), *steps), *prefix) == "ok"


def test_perf_event_without_capabilities(compiled, in_child):
    drop = (
        "import ctypes; libc = ctypes.CDLL(None)",
        "libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())",
        'one.attach_perf_event("on_perf_event", cpu=0, frequency_hz=99)',
    )
    said = in_child(step(compiled("hooks"), 'one.leave_out("on_tp")', "one.load()", *drop))
    assert said.startswith("UnavailableError 3 program 'on_perf_event' (perf_event) did not attach: EACCES")
    assert "CAP_BPF and CAP_PERFMON missing" in said


def test_no_btf(compiled, in_child):
    said = in_child(step(compiled("hooks"), "one.load()"), *hide("/sys/kernel/btf"))
    assert said.startswith("UnavailableError 3 hooks.bpf.o did not load")
    assert "the kernel has no BTF (/sys/kernel/btf/vmlinux)" in said
    assert "CONFIG_DEBUG_INFO_BTF" in said


def test_no_btf_is_no_matter_without_relocations(compiled, in_child):
    assert in_child(step(compiled("rings"), "one.load()"), *hide("/sys/kernel/btf")) == "ok"


def test_no_tracefs(compiled, in_child):
    attach = step(compiled("hooks"), "one.load()", 'one.attach("on_tp")')
    said = in_child(attach, *hide("/sys/kernel/tracing", "/sys/kernel/debug"))
    assert said.startswith("UnavailableError 3 program 'on_tp' (tp/raw_syscalls/sys_enter) did not attach")
    assert said.endswith(f"tracefs is not mounted | {failures.TRACEFS_REMEDY}")


def test_tracefs_mounted_as_the_remedy_says(compiled, in_child):
    prefix = ("unshare", "--mount", "sh", "-c", f'{failures.TRACEFS_REMEDY} 2>/dev/null; exec "$@"', "sh")
    counted = (
        "import os; one.set_constants(watched_tgid=os.getpid())",
        "one.load()",
        'one.attach("on_tp")',
        "[os.getppid() for _ in range(23)]",
        'hits = int.from_bytes(one.map(".bss").get(bytes(4))[16:24], "little")',
        "assert hits >= 23, hits",
    )
    assert in_child(step(compiled("hooks"), *counted), *prefix) == "ok"


def test_unknown_tracepoint_with_tracefs(compiled, in_child):
    prefix = ("unshare", "--mount", "sh", "-c", f'{failures.TRACEFS_REMEDY} 2>/dev/null; exec "$@"', "sh")
    steps = ('one.leave_out("on_missing_tp_btf")', "one.load()", 'one.attach("on_missing_tp")')
    said = in_child(step(compiled("missing_hook"), *steps), *prefix)
    assert said.startswith(
        "BpfAttachError 1 program 'on_missing_tp' (tp/eagle_eye/no_such_hook) did not attach: ENOENT"
    )


def test_memlock_cannot_be_raised(compiled, in_child):
    """Kernels since 5.11 do not count BPF memory against the limit; a low one must not matter there."""
    prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+bpf,+perfmon", "prlimit", "--memlock=0:0")
    assert in_child(step(compiled("rings"), "one.load()"), *prefix) == "ok"
