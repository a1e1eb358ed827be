"""The outcomes as a table of kernels and probes: for a terminal, or as README shows it (`table.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def text(rows: list[Row]) -> str:
    """All outcomes, one a line."""
    cells = [(r["kernel"], r["probe"], r["case"], r["result"], r["variant"], one_line(r["detail"])) for r in rows]
    head = ("kernel", "probe", "case", "result", "variant", "detail")
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head) - 1)]
    lines = [
        [*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]] for line in (head, *cells)
    ]
    failures = [f"\n{r['kernel']} {r['probe']}:\n{r['detail']}" for r in rows if r["result"] == "failed"]
    return "\n".join(["  ".join(line).rstrip() for line in lines] + failures)


def one_line(detail: str) -> str:
    words = " ".join(detail.split())
    return words if len(words) <= 100 else words[:99] + "…"


def markdown(rows: list[Row]) -> str:
    """Probes by kernels, then by what may be missing; a cell is the result and how the probe works there."""
    kernels = distinct(row["kernel"] for row in rows)
    cases = distinct(row["case"] for row in rows if row["case"])
    head = ["Probe", *(f"Linux {kernel}" for kernel in kernels), *cases]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for probe in distinct(row["probe"] for row in rows if row["probe"] not in ("", "features")):
        own = [row for row in rows if row["probe"] == probe]
        by_kernel = (together(own, kernel=kernel, case="") for kernel in kernels)
        by_case = (together(own, case=case) for case in cases)
        lines.append(f"| {probe} | {' | '.join([*by_kernel, *by_case])} |")
    return "\n".join(lines)


def distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def together(rows: list[Row], **where: str) -> str:
    """One word where all kernels agree, else one for each."""
    found = [row for row in rows if where.items() <= row.items()]
    results = distinct(cell(row) for row in found)
    if len(results) <= 1:
        return "".join(results) or "-"
    return ", ".join(f"{row['kernel']} {cell(row)}" for row in found)


def cell(row: Row) -> str:
    return f"{row['result']} ({row['variant']})" if row["variant"] else str(row["result"])


if __name__ == "__main__":
    print(markdown(json.loads((Path(__file__).parent / "results.json").read_text())))
