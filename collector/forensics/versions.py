"""Of which versions a node is made: kernel, drivers, our own programs in the kernel."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from ... import __version__, bpf
from ...probes.paths import Paths

MODULES = ("nvidia", "nvidia_uvm", "drv_davinci_intf_host", "ascend_drv", "mlx5_core", "amdgpu", "ib_core")
MAX_TEXT = 512


def versions(paths: Paths) -> Mapping[str, str]:
    """By name; what is not there is left out."""
    uname = platform.uname()
    found = {
        "eagle_eye": __version__,
        "python": platform.python_version(),
        "kernel": uname.release,
        "kernel_build": uname.version,
        "machine": uname.machine,
    }
    for name in MODULES:
        found[f"module {name}"] = _line(paths.sys / "module" / name / "version")
    found["nvidia driver"] = _line(paths.proc / "driver/nvidia/version")
    found["kernel command line"] = _line(paths.proc / "cmdline")
    return {name: text for name, text in found.items() if text}


def hashes() -> Mapping[str, str]:
    """SHA-256 of the programs that this machine's kernel gets, by file."""
    folder = Path(bpf.__file__).parent / "obj" / platform.machine()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.o"))}


def _line(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.readline(MAX_TEXT).strip()
    except OSError:
        return ""
