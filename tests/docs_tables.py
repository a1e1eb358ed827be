"""The tables in README files that follow from declarations; `--write` renews them, else a difference is an error."""

from __future__ import annotations

import csv
import pkgutil
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from eagle_eye import collector
from eagle_eye.collector.commands.schema import schema_of
from eagle_eye.collector.settings import settings_of
from eagle_eye.probes.needs import NEEDS
from eagle_eye.probes.options import Option
from eagle_eye.probes.probe import Metric
from eagle_eye.probes.registry import PROBES

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- {name}: written by make docs -->", "<!-- end of {name} -->"


def agent_metrics() -> list[Metric]:
    """Those that the agent exposes about itself: every `Metric` that a module of the collector declares."""
    names = [found.name for found in pkgutil.walk_packages(collector.__path__, "eagle_eye.collector.")]
    declared = [value for name in names for value in vars(import_module(name)).values() if isinstance(value, Metric)]
    return sorted({metric.name: metric for metric in declared}.values(), key=lambda metric: metric.name)


def table(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, "|".join(["", *["---"] * (head.count("|") - 1), ""]), *rows])


def probes_table() -> str:
    rows = []
    for spec in PROBES:
        needs = ", ".join([*spec.needs, *(f"{name} (better with)" for name in spec.optional)]) or "nothing"
        rows.append(f"| `{spec.name}` | {'on' if spec.default_on else 'off'} | {spec.help} | {needs} | {spec.cost} |")
    return table("| Probe | Default | What it tells | Needs | Expected cost |", rows)


def needs_table() -> str:
    used = {name for spec in PROBES for name in (*spec.needs, *spec.optional)}
    rows = [f"| `{need.name}` | {need.what} | {need.remedy} |" for need in NEEDS.values() if need.name in used]
    return table("| Need | What it is | What mends it |", rows)


def options_table() -> str:
    rows = [
        f"| `probes.{spec.name}.{option.name}` | {default(option)} | {option.allowed()} | {option.help} |"
        for spec in PROBES
        for option in spec.options
    ]
    return table("| Setting | Default | Allowed | What it does |", rows)


def settings_table() -> str:
    rows = [
        f"| `{one.key}` | `{one.flag}` | `{one.environment}` | {default(one.option)} | {one.option.allowed()} "
        f"| {one.option.help} |"
        for one in settings_of(())
    ]
    return table("| Key in the file | Flag | Environment | Default | Allowed | What it does |", rows)


def routing_table() -> str:
    with (ROOT / "tests/docs_routing_fields.csv").open(newline="") as file:
        said = {row["field"]: row for row in csv.DictReader(file)}
    kinds = schema_of("RoutingMessage")["$defs"]["RoutingMessage"]["properties"]
    if said.keys() != kinds.keys():
        raise SystemExit(f"tests/docs_routing_fields.csv lacks or has too much: {sorted(said.keys() ^ kinds.keys())}")
    rows = [
        f"| `{name}` | {json_type(kinds[name])} | {row['unit'] or '-'} | {row['meaning']} |"
        for name, row in said.items()
    ]
    return table("| Field | Type | Unit | What it tells |", rows)


def json_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "string"
    types = [one["type"] for one in schema.get("anyOf", [schema])]
    return " or ".join(types)


def default(option: Option) -> str:
    if option.default is None:
        return "-"
    return f"`{str(option.default).lower() if option.kind == 'boolean' else option.default}`"


def metrics_table(metrics: Iterable[Metric]) -> str:
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels) or '-'} | {one.help} |"
        for one in metrics
    ]
    return table("| Metric | Kind | Labels | What it tells |", rows)


def tables() -> dict[Path, dict[str, str]]:
    from docs_results import cost_table, kernels_table, machine_line

    return {
        ROOT / "README.md": {"machine": machine_line(), "cost": cost_table(), "kernels": kernels_table()},
        ROOT / "probes/README.md": {
            "probes": probes_table(),
            "needs": needs_table(),
            "options": options_table(),
            "metrics": metrics_table(metric for spec in PROBES for metric in spec.metrics),
        },
        ROOT / "collector/README.md": {
            "settings": settings_table(),
            "metrics": metrics_table(agent_metrics()),
            "routing": routing_table(),
        },
    }


def renewed(path: Path, wanted: dict[str, str]) -> str:
    """The file with its tables as they should be. Raises ValueError where it has no place for one."""
    text = path.read_text()
    for name, rows in wanted.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        head, tail = text.index(begin), text.index(end)
        text = f"{text[:head]}{begin}\n{rows}\n{text[tail:]}"
    return text


def main() -> int:
    stale = [(path, text) for path, wanted in tables().items() if (text := renewed(path, wanted)) != path.read_text()]
    if "--write" in sys.argv:
        for path, text in stale:
            path.write_text(text)
        return 0
    for path, _ in stale:
        print(f"{path.relative_to(ROOT)} differs from what is declared: run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
