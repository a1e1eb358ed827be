"""The tables in probes/README.md follow from the registry; `--write` renews them, else a difference is an error."""

from __future__ import annotations

import sys
from pathlib import Path

from eagle_eye.probes.registry import PROBES

README = Path(__file__).resolve().parents[1] / "probes/README.md"
BEGIN, END = "<!-- {name}: written by make docs -->", "<!-- end of {name} -->"


def probes_table() -> str:
    rows = ["| Probe | Default | What it tells | Needs | Expected cost |", "|---|---|---|---|---|"]
    for spec in PROBES:
        needs = ", ".join([*spec.needs, *(f"{name} (better with)" for name in spec.optional)]) or "nothing"
        rows.append(f"| `{spec.name}` | {'on' if spec.default_on else 'off'} | {spec.help} | {needs} | {spec.cost} |")
    return "\n".join(rows)


def options_table() -> str:
    rows = ["| Setting | Default | Allowed | What it does |", "|---|---|---|---|"]
    for spec in PROBES:
        for option in spec.options:
            rows.append(
                f"| `probes.{spec.name}.{option.name}` | `{option.default}` | {option.allowed()} | {option.help} |"
            )
    return "\n".join(rows)


def metrics_table() -> str:
    rows = ["| Metric | Kind | Labels | What it tells |", "|---|---|---|---|"]
    for spec in PROBES:
        for metric in spec.metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
            rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


def renewed(text: str) -> str:
    for name, table in (("probes", probes_table()), ("options", options_table()), ("metrics", metrics_table())):
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> int:
    text = README.read_text()
    if renewed(text) == text:
        return 0
    if "--write" in sys.argv:
        README.write_text(renewed(text))
        return 0
    print("probes/README.md differs from the registry: run `make docs`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
