"""`eagle-eye explain`: any code in words, and what to do about it."""

import msgspec
import pytest

from eagle_eye.__main__ import main
from eagle_eye.probes.catalogue.lookup import FAMILIES


def explain(capsys, *words):
    status = main(["explain", *words])
    return status, capsys.readouterr()


def test_without_arguments_the_families(capsys):
    status, out = explain(capsys)
    assert status == 0
    counts = dict(line.split() for line in out.out.splitlines())
    assert set(counts) == set(FAMILIES)
    assert (counts["nvidia.xid"], counts["nvidia.sxid"]) == ("176", "420")
    assert all(int(count) for count in counts.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_code_of_a_family_can_be_explained(capsys, family):
    status, out = explain(capsys, family, "-j")
    rows = [msgspec.json.decode(line) for line in out.out.splitlines()]
    assert status == 0
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        status, out = explain(capsys, family, row["code"], "-j")
        told = msgspec.json.decode(out.out)
        assert (status, told["known"], told["code"]) == (0, True, row["code"])
        assert told["meaning"]


def test_a_code_in_words(capsys):
    status, out = explain(capsys, "xid", "79")
    lines = out.out.splitlines()
    assert status == 0
    assert lines[0] == "nvidia.xid 79  ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS"
    assert "  action    reboot node (its maker: RESTART_BM)" in lines
    assert any(line.startswith("  caused by") and "pcie.aer" in line and "SDES" in line for line in lines)


def test_the_driver_decides(capsys):
    old = explain(capsys, "nvidia.xid", "144", "--driver", "550.54.15")[1].out
    new = explain(capsys, "nvidia.xid", "144", "--driver", "570.86.15")[1].out
    assert "KEY_ROTATION" in old
    assert "NVLINK_SAW" in new


def test_a_verdict_is_explained_with_all_that_it_may_ask_for(capsys):
    lines = explain(capsys, "xid", "154")[1].out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  to ")] == ["0", "1", "2", "3", "4", "5"]
    assert "IMEX" in lines[-1]


def test_an_unknown_code_says_so_and_fails(capsys):
    status, out = explain(capsys, "nvidia.xid", "4711")
    assert status == 1
    assert "not in the catalogue" in out.out


def test_a_code_in_another_case_is_found(capsys):
    assert "SDES" in explain(capsys, "aer", "sdes")[1].out
    assert "0x80E01801" in explain(capsys, "ascend.event", "0x80e01801")[1].out


def test_an_unknown_family_is_refused_with_those_near_it(capsys):
    status, out = explain(capsys, "nvidia.xidd")
    assert status == 2
    assert "did you mean nvidia.xid" in out.err


def test_control_characters_of_arguments_do_not_reach_the_terminal(capsys):
    status, out = explain(capsys, "nvidia.xid", "7\x1b[31m9")
    assert status == 1
    assert "\x1b" not in out.out
