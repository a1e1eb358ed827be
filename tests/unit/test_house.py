"""The rules of the house that a person would otherwise have to remember."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from eagle_eye.probes.probe import Metric
from eagle_eye.probes.registry import PROBES

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("bpf", "native", "probes", "collector", "diagnosis")
LONGEST_FILE_LINES = 400
BASE_UNITS = ("_seconds", "_bytes", "_celsius", "_watts", "_joules", "_hertz", "_ratio", "_volts")
FOREIGN_UNITS = re.compile(r"_(ms|us|ns|milliseconds|kb|mb|gb|kib|mib|percent|mhz|ghz|minutes|hours)(_|$)")


def python_files():
    return [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def c_files():
    found = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.[ch]"))]
    return [path for path in found if not path.name.startswith("_")]


def every_metric() -> list[tuple[str, Metric]]:
    agent = runpy.run_path(str(ROOT / "tests/docs_tables.py"))["agent_metrics"]()
    return [*((spec.name, metric) for spec in PROBES for metric in spec.metrics), *(("agent", one) for one in agent)]


def test_links_for_type_checkers_are_the_package():
    links = {path.name: os.readlink(path) for path in (ROOT / ".src/eagle_eye").iterdir()}

    assert links == {name: f"../../{name}" for name in ("__init__.py", "__main__.py", *FLOORS)}


def test_imports_across_folders_are_relative():
    absolute = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in [*python_files(), ROOT / "__main__.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("eagle_eye"))
        or (isinstance(node, ast.Import) and any(alias.name.startswith("eagle_eye") for alias in node.names))
    ]

    assert absolute == []


def test_imports_go_down_the_floors_only():
    upward = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == len(path.relative_to(ROOT).parts) and node.module
        if (own := path.relative_to(ROOT).parts[0]) != (other := node.module.split(".")[0])
        if other in FLOORS and FLOORS.index(other) > FLOORS.index(own)
    ]

    assert upward == []


def test_only_the_command_line_prints_and_exits():
    allowed = (ROOT / "collector/commands", ROOT / "diagnosis/commands")
    guilty = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files()
        if not any(folder in path.parents for folder in allowed)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit")
    ]

    assert guilty == []


def test_tests_are_not_a_package_and_nothing_of_them_ships():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", [*python_files(), *c_files()], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    lines = len(path.read_text().splitlines())

    assert lines <= LONGEST_FILE_LINES, f"{lines} lines: two things live in this file"


def test_every_bpf_program_has_its_header_and_a_licence():
    for program in (ROOT / "bpf").glob("*.bpf.c"):
        assert program.with_name(program.name.replace(".bpf.c", ".h")).exists(), program.name
    for path in [*(ROOT / "bpf").glob("*.c"), *(ROOT / "bpf").glob("*.h")]:
        assert path.read_text().startswith("/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */"), path.name


def test_one_probe_is_one_file_one_line_and_one_test():
    for spec in PROBES:
        assert (ROOT / f"probes/{spec.name}.py").exists()
        assert list((ROOT / "tests").rglob(f"test_probe_{spec.name}.py")), f"no test of probe {spec.name}"


def test_probe_names_are_unique_and_help_is_one_sentence():
    names = [spec.name for spec in PROBES]

    assert len(set(names)) == len(names)
    for spec in PROBES:
        assert spec.help, spec.name
        assert "\n" not in spec.help
        assert spec.cost, f"{spec.name} does not say what it costs"


def our_metrics() -> list[tuple[str, Metric]]:
    """Without those whose names, labels and units are another product's: its dashboards ask for exactly them."""
    return [(probe, metric) for probe, metric in every_metric() if not metric.foreign]


@pytest.mark.parametrize(("probe", "metric"), our_metrics(), ids=lambda value: getattr(value, "name", value))
def test_every_metric_is_lawful(probe, metric):
    assert re.fullmatch(r"eagle_eye_[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not FOREIGN_UNITS.search(metric.name), "base units only"
    if metric.kind == "histogram":
        assert metric.name.endswith(BASE_UNITS)
    assert metric.help.endswith("."), "HELP is a sentence"
    for label in metric.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
        assert label not in ("job", "instance", "le", "quantile", "node")


def test_foreign_metrics_are_these():
    foreign = {metric.name for _, metric in every_metric() if metric.foreign}

    assert {name.partition("_")[0] for name in foreign} == {"hami"}
    assert len(foreign) == 4


def test_no_metric_is_declared_twice():
    names = [metric.name for _, metric in every_metric()]

    assert len(set(names)) == len(names)


def test_docs_follow_the_registry():
    command = [sys.executable, ROOT / "tests/docs_tables.py"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_kind_of_event_is_documented():
    names = "|".join(spec.name for spec in PROBES)
    sources = "".join((ROOT / f"probes/{spec.name}.py").read_text() for spec in PROBES)
    kinds = set(re.findall(rf'"((?:{names})\.[a-z_]+)"', sources))
    text = (ROOT / "probes/README.md").read_text()

    assert kinds >= {"sched.long_wait", "kmsg.lost"}
    assert [kind for kind in sorted(kinds) if f"| `{kind}` |" not in text] == []


def test_no_path_of_a_build_machine_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile("/(" + "|".join(("wor" + "k", "far" + "m", "roo" + "t/\\.py" + "env")) + ")/")
    guilty = [
        name
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file() and forbidden.search((ROOT / name).read_text(errors="replace"))
    ]

    assert guilty == []
