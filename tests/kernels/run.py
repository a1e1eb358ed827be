"""Every probe on every kernel: `make test-kernels` (KERNELS="5.10 6.1" for some).

Prints one table and writes results.json beside this file, from which README's table is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import machine
import packages
import table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
GUEST_SECONDS = 300
TOOLS = ("apt-get", "dpkg-deb", "depmod", "modprobe", "cpio", "qemu-system-x86_64", machine.BUSYBOX, machine.VIRTIOFSD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", nargs="*", choices=[*packages.SERIES, []], help="kernel series (default all)")
    parser.add_argument("-v", action="store_true", help="show what the guest's console said")
    arguments = parser.parse_args()
    missing = [str(tool) for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print(f"not found: {', '.join(missing)}; make packages-kernels", file=sys.stderr)
        return 3
    if os.geteuid():
        print(
            "virtiofsd shows the guest this machine's files, which needs root: sudo make test-kernels", file=sys.stderr
        )
        return 3
    rows = [row for series in arguments.series or packages.SERIES for row in try_kernel(series, arguments.v)]
    if not arguments.series:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table.text(rows))
    return any(row["result"] == "failed" for row in rows)


def try_kernel(series: str, verbose: bool) -> list[dict[str, Any]]:
    """One row per outcome; a kernel that cannot be had is one row that says so."""
    try:
        kernel = packages.fetch(series, packages.cache_folder())
    except packages.KernelUnavailable as reason:
        return [row(series, "not tried", str(reason))]
    began = time.monotonic()
    lines, console = machine.boot(kernel, [sys.executable, "-B", str(HERE / "guest.py")], deadline_s=GUEST_SECONDS)
    print(f"Linux {kernel.release}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    said = [json.loads(line) for line in lines if line.startswith("{")]
    rows = [{"kernel": series, **each} for each in said if "probe" in each]
    if {"done": True} not in said:
        rows.append(row(series, "failed", "the guest ended early"))
        verbose = True
    if verbose:
        print(*(line for line in lines if not line.startswith("{")), console, sep="\n", file=sys.stderr)
    return rows


def row(series: str, result: str, detail: str) -> dict[str, Any]:
    return {"kernel": series, "probe": "", "case": "", "result": result, "variant": "", "detail": detail}


if __name__ == "__main__":
    sys.exit(main())
