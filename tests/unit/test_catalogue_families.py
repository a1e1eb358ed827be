"""Every code that a parser of kernel logs can give is in the catalogue."""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path

import pytest

from eagle_eye.probes import decode
from eagle_eye.probes.catalogue.lookup import look_up
from eagle_eye.probes.decode.families import FAMILIES
from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.decode.grammar import decode_lines

FOLDER = Path(decode.__file__).parent
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SAMPLES = SHARED / "kmsg_samples.jsonl"
# Made of a severity, so that no parser writes them in full.
COMPOSED = {"cpu.memory.mce_edac": {f"mce_{severity}" for severity in ("corrected", "uncorrected", "fatal")}}


def shapes():
    with (FOLDER / "shapes.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {(row["family"], row["code"]) for row in rows if row["code"]}


def module_of(family):
    tree = next(
        path for path in sorted(FOLDER.glob("*.py")) if f'NAME = "{family}"' in path.read_text(encoding="utf-8")
    )
    return ast.parse(tree.read_text(encoding="utf-8"))


def constants(family):
    """Codes that a family's module writes as constants: second argument of a Decoded, and values of its tables."""
    found = set()
    for node in ast.walk(module_of(family)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Decoded" and len(node.args) > 1:
            other = isinstance(node.args[0], ast.Constant) and node.args[0].value != family
            found |= set() if other else {one.value for one in parts(node.args[1]) if isinstance(one, ast.Constant)}
        if isinstance(node, ast.Assign) and str(getattr(node.targets[0], "id", "")).endswith("_CODES"):
            values = node.value.values if isinstance(node.value, ast.Dict) else []
            found |= {one.value for one in values if isinstance(one, ast.Constant)}
    return {code for code in found if isinstance(code, str) and code}


def parts(node):
    """What an expression may be: of `a if b else c` and `a or b` each."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    return node.values if isinstance(node, ast.BoolOp) else [node]


@pytest.mark.parametrize(("family", "code"), sorted(shapes()))
def test_a_code_of_the_shapes_is_known(family, code):
    entry = look_up(Decoded(family, code))
    assert entry is not None
    assert entry.known, f"{family} {code} is not in the catalogue"


@pytest.mark.parametrize(
    "family", ["nvidia.fallen", "nvidia.init_assert", "cpu.memory.mce_edac", "mm.oom", "sched.hang", "storage"]
)
def test_the_codes_that_a_parser_writes_are_known(family):
    codes = constants(family) | COMPOSED.get(family, set())
    assert codes
    unknown = {code for code in codes if not look_up(Decoded(family, code)).known}
    assert not unknown


def test_every_family_is_looked_up():
    for family in FAMILIES:
        entry = look_up(Decoded(family.name, "no_such_code"))
        assert (entry is None) == (family.name == "nvidia.identity")
        assert entry is None or not entry.known


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample lines are not here")
def test_every_fault_of_the_sample_lines_is_known():
    lines = [json.loads(line)["line"] for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    known = 0
    for found in decode_lines(lines):
        if found is None or not found.decoded.code:
            continue
        entry = look_up(found.decoded)
        assert entry is not None, found
        assert entry.known, found.decoded
        known += 1
    assert known > 100
