"""Every probe on several kernels: `make test-kernels` (KERNELS="5.10 sid" for others than the usual ones).

Prints one table and renews these kernels' rows in results.json beside this file, from which README's table is
taken. Exit status: 0, 1 when a probe failed, 3 when no kernel could be tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import machine
import packages
import table
from table import Row

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
GUEST_SECONDS = 300
NOT_TRIED = "not tried"
UNAVAILABLE = 3
TOOLS = ("apt-get", "dpkg-deb", "depmod", "modprobe", "cpio", "qemu-system-x86_64", machine.BUSYBOX, machine.VIRTIOFSD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "series", nargs="*", help=f"of {', '.join(packages.SERIES)} (usually {', '.join(packages.USUAL)})"
    )
    parser.add_argument("-v", action="store_true", help="show what the guest's console said")
    arguments = parser.parse_args()
    unknown = set(arguments.series) - set(packages.SERIES)
    if unknown:
        parser.error(f"no series {', '.join(unknown)}; there are {', '.join(packages.SERIES)}")
    if trouble := what_is_missing():
        print(trouble, file=sys.stderr)
        return UNAVAILABLE
    rows = [row for series in arguments.series or packages.USUAL for row in try_kernel(series, arguments.v)]
    print(table.text(rows))
    tried = [row for row in rows if row["result"] != NOT_TRIED]
    renew(RESULTS, tried)
    if not tried:
        return UNAVAILABLE
    return int(any(row["result"] == "failed" for row in tried))


def what_is_missing() -> str:
    missing = [str(tool) for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"not found: {', '.join(missing)}; run: make packages-kernels"
    if os.geteuid():
        return "virtiofsd, which shows a guest this machine's files, needs root: sudo make test-kernels"
    return ""


def renew(results: Path, rows: list[Row]) -> None:
    before: list[Row] = json.loads(results.read_text()) if results.exists() else []
    tried = {row["series"] for row in rows}
    merged = rows + [row for row in before if row["series"] not in tried]
    merged.sort(key=lambda row: list(packages.SERIES).index(row["series"]))
    results.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in merged) + "\n]\n")


def try_kernel(series: str, verbose: bool) -> list[Row]:
    """One row per outcome; a kernel that cannot be had is one row that says so."""
    try:
        kernel = packages.fetch(series, packages.cache_folder())
    except packages.KernelUnavailable as reason:
        return [row(series, "", NOT_TRIED, str(reason))]
    print(f"Linux {kernel.release} boots; a minute or two", file=sys.stderr)
    began = time.monotonic()
    lines, console = machine.boot(kernel, [sys.executable, "-B", str(HERE / "guest.py")], deadline_s=GUEST_SECONDS)
    print(f"Linux {kernel.release}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    said = [json.loads(line) for line in lines if line.startswith("{")]
    rows = [row(series, kernel.release) | each for each in said if "probe" in each]
    ended = {"done": True} in said
    if not ended:
        rows.append(row(series, kernel.release, "failed", "the guest ended early"))
    if verbose or not ended:
        print(*(line for line in lines if not line.startswith("{")), console, sep="\n", file=sys.stderr)
    return rows


def row(series: str, release: str, result: str = "", detail: str = "") -> Row:
    where = {"series": series, "kernel": ".".join(release.split(".")[:2]) or series, "release": release}
    return where | {"probe": "", "case": "", "result": result, "variant": "", "detail": detail}


if __name__ == "__main__":
    sys.exit(main())
