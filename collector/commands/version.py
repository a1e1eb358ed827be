"""What `eagle-eye --version` says: the versions that decide what works here."""

from __future__ import annotations

import os
import platform
from pathlib import Path

BTF = Path("/sys/kernel/btf/vmlinux")


def facts(btf: Path = BTF) -> dict[str, str]:
    """Kernel release, BTF with its size, libbpf and Python, each as text."""
    return {
        "kernel": os.uname().release,
        "BTF": _btf(btf),
        "libbpf": libbpf_version() or "no",
        "python": platform.python_version(),
    }


def _btf(path: Path) -> str:
    try:
        return f"yes ({path.stat().st_size / 2**20:.1f} MiB)"
    except OSError:
        return "no"


def libbpf_version() -> str:
    """Version of the libbpf in use; "" where Eagle Eye was built without it."""
    # Straight from the C border: the loader on top of it would import numpy, ten times the cost of `--version`.
    try:
        from ...native._bpf import ffi, lib
    except ImportError:
        return ""
    return bytes(ffi.string(lib.libbpf_version_string())).decode().removeprefix("v")
