"""What every benchmark does alike: facts of the machine, a table, one JSON object as the last line."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eagle_eye.native.bpf import libbpf_version

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """Where and when a benchmark ran; `load` is the one-minute average at the moment of the call."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libbpf": libbpf_version(),
        "load": round(os.getloadavg()[0], 2),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows, numbers to the right."""
    shown = Table(title=title, title_justify="left")
    for index, name in enumerate(head):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*(f"{cell:,.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=100).print(shown)


def finish(bench: str, metrics: Mapping[str, object]) -> None:
    """Keeps the result and prints it as the last line."""
    line = json.dumps({"bench": bench, "machine": machine(), "metrics": dict(metrics)})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{bench}.json").write_text(line + "\n")
    print(line, flush=True)
