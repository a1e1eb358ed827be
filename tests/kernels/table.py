"""The outcomes as a table of kernels and probes: for a terminal, or as README shows it (`table.py`)."""

from __future__ import annotations

import json
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
    """Probes by kernels, each cell the result and the variant."""
    kernels = list(dict.fromkeys(r["kernel"] for r in rows))
    probes = list(dict.fromkeys((r["probe"], r["case"]) for r in rows if r["probe"] != "features"))
    found = {(r["kernel"], r["probe"], r["case"]): r for r in rows}
    lines = ["| Probe | " + " | ".join(f"Linux {k}" for k in kernels) + " |", "|---" * (len(kernels) + 1) + "|"]
    for probe, case in sorted(probes, key=lambda each: each[1]):
        cells = [cell(found.get((kernel, probe, case))) for kernel in kernels]
        lines.append(f"| `{probe}`{', ' + case if case else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: Row | None) -> str:
    if row is None:
        return "not tried"
    return f"{row['result']} ({row['variant']})" if row["variant"] else str(row["result"])


if __name__ == "__main__":
    print(markdown(json.loads((Path(__file__).parent / "results.json").read_text())))
