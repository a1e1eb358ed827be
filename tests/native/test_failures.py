"""What is made of libbpf's words, for lacks that this machine cannot be put into."""

from __future__ import annotations

import errno as codes

import pytest

from eagle_eye.native import failures
from eagle_eye.native.errors import BpfAttachError, BpfLoadError, UnavailableError

BUMP = "libbpf: Failed to bump RLIMIT_MEMLOCK (err = -1), you might need to do it explicitly!\n"
MAP_REFUSED = (
    "libbpf: map 'records': failed to create: Operation not permitted(-1)\n"
    "libbpf: permission error while running as root; try raising 'ulimit -l'? current value: 64.0 KiB\n"
)
PROGRAM_REFUSED = (
    "libbpf: prog 'on_entry': BPF program load failed: Operation not permitted\n"
    "libbpf: permission error while running as root; try raising 'ulimit -l'? current value: 8.0 MiB\n"
)


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    monkeypatch.setattr(failures, "missing_capabilities", lambda: ())


@pytest.mark.parametrize("log", [BUMP, MAP_REFUSED, BUMP + MAP_REFUSED])
def test_low_memlock_limit(log):
    failed = failures.load_failed("x.bpf.o", codes.EPERM, log)
    assert isinstance(failed, UnavailableError)
    assert failed.remedy == failures.MEMLOCK_REMEDY


def test_not_permitted_for_no_known_reason_keeps_the_log():
    failed = failures.load_failed("x.bpf.o", codes.EPERM, PROGRAM_REFUSED)
    assert isinstance(failed, BpfLoadError)
    assert "prog 'on_entry': BPF program load failed" in str(failed)
    assert failed.errno == codes.EPERM
    assert isinstance(failures.attach_failed("p", "tp_btf/x", codes.EPERM, ""), BpfAttachError)


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        ("CapEff:\t0000000000000000\n", ("CAP_BPF", "CAP_PERFMON")),
        ("CapEff:\t000001ffffffffff\n", ()),
        ("CapEff:\t0000000000200000\n", ()),
        ("CapEff:\t0000008000000000\n", ("CAP_PERFMON",)),
        ("CapEff:\t0000004000000000\n", ("CAP_BPF",)),
        ("CapBnd:\t000001ffffffffff\n", ("CAP_BPF", "CAP_PERFMON")),
    ],
)
def test_capabilities_by_their_bits(monkeypatch, tmp_path, status, missing):
    monkeypatch.undo()
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(failures, "STATUS", tmp_path / "status")
    assert failures.missing_capabilities() == missing


def test_log_keeps_the_last_verifier_block():
    block = (
        "libbpf: prog '{0}': -- BEGIN PROG LOAD LOG --\n0: (85) call {0}\nprocessed 3 insns\n-- END PROG LOAD LOG --\n"
    )
    lines = failures.useful_lines(block.format("first") + block.format("second")).splitlines()
    assert [line.strip() for line in lines if line.strip()] == ["program 'second':", "0: (85) call second"]


def test_silence_stays_silent():
    assert failures.useful_lines("") == ""
