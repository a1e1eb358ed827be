"""Lines of the host's and Ascend's families, each with what it says."""

import json
from pathlib import Path

import pytest

from eagle_eye.probes.decode.families import FAMILIES
from eagle_eye.probes.decode.grammar import decode
from eagle_eye.probes.decode.record import tokenize

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = [json.loads(line) for line in (ROOT / "tests/fixtures/decode/host_lines.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case["line"][:60])
def test_a_line_says_what_it_says(case):
    found = decode(tokenize(case["line"]).text)

    assert found is not None
    assert (found.family, found.code, found.device, found.recovery) == (
        case["family"], case["code"], case["device"], case["recovery"],
    )  # fmt: skip
    assert {name: found.fields.get(name) for name in case["fields"]} == case["fields"]


def test_each_family_has_lines():
    names = {"nic" if family.name == "nic.mlx5" else family.name for family in FAMILIES}
    tested = {"nic" if case["family"].startswith("nic.") else case["family"] for case in FIXTURES}

    assert {name for name in names if not name.startswith("nvidia.")} == tested


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("[Hardware Error]: CPU:2 (19:1:1) MC17_STATUS[Over|CE|MiscV|-|-]: 0xdc2040000000011b", "corrected_count"),
        ("[ascend] [devmm] [devmm_svm_fault 7] Vm fault failed. (devid=0; start=0x12c041200000)", "started_at"),
    ],
)
def test_what_looks_like_a_number_of_something_else_is_left_out(line, absent):
    assert absent not in decode(line).fields
