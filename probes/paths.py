"""Where the kernel's file systems are: an argument, so that a container or a test can say otherwise."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class Paths(Struct, frozen=True):
    """Roots under which the node's own /proc, /sys and /dev are seen."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")

    def boot_id(self) -> str:
        """Random id of this boot, as the kernel prints it; "unknown" where /proc does not tell."""
        try:
            return (self.proc / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return "unknown"
