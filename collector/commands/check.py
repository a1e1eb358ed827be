"""Tells of every probe whether it works here, and if not, what mends it.

Each probe is really built, run for one round and closed. Exit status: 0 when
every probe that was asked for by flag, environment or file works, 3 when one
is impossible on this machine, 1 when one fails for another reason.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...native.errors import EagleEyeError, UnavailableError
from ...probes.needs import NEEDS
from ...probes.paths import Paths
from ...probes.registry import PROBES
from ..flags import add_flags, settings_from
from ..settings import ProbeSettings, Settings
from ..simulated import simulated_devices
from ..trial import Trial, try_probes
from .version import facts

WIDTH = 79
WORKS = ("ok", "degraded")
USAGE = "[-j] [SETTINGS]"
EXAMPLES = """\
  eagle-eye check                    every probe, what it needs and costs
  eagle-eye check --sched && echo y  whether one probe works here
  eagle-eye check -j                 one JSON object per probe
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--json", action="store_true", help="one JSON object per probe and line")
    add_flags(parser, PROBES)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, os.environ, PROBES)
    with simulated_devices(settings):
        trials = try_probes(settings, PROBES)
    missing = missing_needs(settings.paths)
    rows = [row_of(trial, settings.probes[trial.spec.name], missing) for trial in trials]
    lines = map(_json, rows) if arguments.json else _text(rows)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return exit_code(trials, settings)


def missing_needs(paths: Paths) -> dict[str, str]:
    """Of every need, "" or what is missing; asked once, for some questions cost milliseconds."""
    used = {name for spec in PROBES for name in (*spec.needs, *spec.optional)}
    return {name: NEEDS[name].missing(paths) for name in used}


def row_of(trial: Trial, chosen: ProbeSettings, missing: Mapping[str, str]) -> dict[str, Any]:
    """What is told of one probe, as its JSON line has it."""
    spec = trial.spec
    needs = [_need(name, name in spec.needs, missing[name]) for name in (*spec.needs, *spec.optional)]
    unmet = [need for need in needs if need["missing"]]
    required = [need["remedy"] for need in unmet if need["required"]]
    remedies = [*required, trial.remedy, *(need["remedy"] for need in unmet)]
    return {
        "probe": spec.name,
        "state": trial.state,
        "enabled": chosen.enabled,
        "asked": chosen.asked,
        "help": spec.help,
        "reason": trial.reason,
        "remedy": "" if trial.state == "ok" else next(filter(None, remedies), ""),
        "needs": needs,
        "cost": spec.cost,
        "took_seconds": round(trial.took_ns / 1e9, 3),
    }


def exit_code(trials: Sequence[Trial], settings: Settings) -> int:
    """Of what the user asked for by name; what only the defaults switch on may fail."""
    asked = [trial.state for trial in trials if settings.probes[trial.spec.name].asked]
    if "unavailable" in asked:
        return UnavailableError.exit_code
    return 0 if all(state in WORKS for state in asked) else EagleEyeError.exit_code


def _need(name: str, required: bool, missing: str) -> dict[str, Any]:
    need = NEEDS[name]
    remedy = need.remedy if missing else ""
    return {"name": name, "what": need.what, "required": required, "missing": missing, "remedy": remedy}


def _json(row: dict[str, Any]) -> str:
    return msgspec.json.encode(row).decode()


def _text(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _wrapped("", ", ".join(f"{name} {value}" for name, value in facts().items()))
    for row in rows:
        yield ""
        off = "" if row["enabled"] else " (switched off)"
        yield f"{row['probe']:<10} {row['state']}{off}"
        for name, text in _details(row):
            yield from _wrapped(f"  {name:<9}", text)
    yield ""
    works = sum(row["state"] in WORKS for row in rows)
    yield f"{works} of {len(rows)} probes work here"


def _details(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "tells", row["help"].rstrip(".")
    for word, required in (("needs", True), ("better", False)):
        names = ", ".join(need["name"] for need in row["needs"] if need["required"] is required)
        if names:
            yield word, names
    yield "costs", row["cost"]
    if row["reason"]:
        yield "here", row["reason"]
    for need in row["needs"]:
        if need["missing"]:
            yield "missing", f"{need['name']}: {need['missing']}"
    if row["remedy"]:
        yield "try", row["remedy"]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)
