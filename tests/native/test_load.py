"""Opening, constants, loading: what works, and what is said when it does not."""

from __future__ import annotations

import numpy as np
import pytest

from eagle_eye.native import bpf, failures
from eagle_eye.native.bpf import Object
from eagle_eye.native.errors import BpfAttachError, BpfError, BpfLoadError, BpfMapError, UnavailableError


def test_constants_of_every_width_reach_the_program(opened, run_program):
    maps = opened("maps")
    maps.set_constants(narrow=255, negative=-5, wide=2**64 - 1, flag=True)
    maps.load()
    run_program(maps, "report")
    seen = maps.map(".bss").view(np.dtype([("seen", "<u8", 4)]))["seen"][0]
    assert seen.tolist() == [255, 2**64 - 5, 2**64 - 1, 1 + ord("t")]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("narrow", 256, "256 does not fit 'narrow' (unsigned, 8 bits)"),
        ("narrow", -1, "-1 does not fit 'narrow' (unsigned, 8 bits)"),
        ("negative", 2**31, "does not fit 'negative' (signed, 32 bits)"),
        ("wide", 2**64, "does not fit 'wide' (unsigned, 64 bits)"),
        ("flag", 2, "'flag' is true or false, not 2"),
        ("text", 1, "has no integer constant 'text'"),
        ("absent", 1, "has no integer constant 'absent'"),
        ("seen", 1, "has no integer constant 'seen'"),
    ],
)
def test_a_constant_that_cannot_be_is_named(opened, name, value, said):
    with pytest.raises(BpfLoadError, match=r"maps\.bpf\.o") as caught:
        opened("maps").set_constants(**{name: value})
    assert said in str(caught.value)


def test_constants_are_set_before_load_only(opened):
    maps = opened("maps")
    maps.load()
    with pytest.raises(BpfLoadError, match="can no longer be set"):
        maps.set_constants(narrow=2)
    with pytest.raises(BpfLoadError, match="can no longer be left out"):
        maps.leave_out("report")
    with pytest.raises(BpfMapError, match="cannot resize 'hash': EBUSY"):
        maps.resize("hash", 32)


def test_resize_is_what_the_kernel_made(opened):
    maps = opened("maps")
    maps.resize("mmapable", 7)
    maps.load()
    assert maps.map("mmapable").max_entries == 7
    assert len(maps.map("mmapable").view(np.dtype("<u4,<u4,<u4"))) == 7


def test_verifier_lines_are_in_the_error_and_nowhere_else(opened, capfd):
    with pytest.raises(BpfLoadError) as caught:
        opened("refused").load()
    said = str(caught.value)
    assert "refused.bpf.o did not load: EACCES" in said
    assert "program 'unchecked'" in said
    assert "invalid mem access 'map_value_or_null'" in said
    assert "libbpf:" not in said
    assert len(said.splitlines()) <= failures.VERIFIER_LINES + 2
    assert capfd.readouterr() == ("", "")


def test_a_program_left_out_is_not_loaded(opened):
    refused = opened("refused")
    refused.leave_out("unchecked")
    refused.load()
    with pytest.raises(BpfAttachError, match=r"program 'unchecked' of refused\.bpf\.o is not loaded"):
        refused.attach("unchecked")


def test_a_map_left_out_is_not_made(opened):
    maps = opened("maps")
    maps.leave_out("hash")
    maps.load()
    with pytest.raises(BpfMapError, match="'hash' exists only after load"):
        maps.map("hash")


def test_load_twice_is_refused(opened):
    maps = opened("maps")
    maps.load()
    with pytest.raises(BpfLoadError):
        maps.load()


def test_unknown_names_are_answered_with_the_known_ones(opened):
    maps = opened("maps")
    maps.load()
    with pytest.raises(BpfMapError, match=r"maps.bpf.o has no map 'absent'"):
        maps.map("absent")
    with pytest.raises(BpfAttachError, match=r"has no program 'absent'; it has report"):
        maps.attach("absent")
    with pytest.raises(BpfMapError, match="no map 'absent'"):
        maps.leave_out("absent")
    with pytest.raises(BpfMapError, match="no map 'absent'"):
        maps.resize("absent", 1)


def test_a_hook_that_this_kernel_lacks_is_named(opened):
    with pytest.raises(UnavailableError, match="no hook 'eagle_eye_no_such_hook'") as caught:
        opened("missing_hook").load()
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no object at all", bytes(4096)])
def test_a_file_that_is_no_object(tmp_path, content, capfd):
    path = tmp_path / "broken.bpf.o"
    path.write_bytes(content)
    with pytest.raises(BpfLoadError, match="is no readable BPF object"):
        Object(path)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BpfLoadError, match="ENOENT"):
        Object(tmp_path / "absent.bpf.o")


def test_an_object_that_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(bpf, "OBJECTS", tmp_path)
    with pytest.raises(UnavailableError, match="sched is not built") as caught:
        Object.named("sched")
    assert caught.value.remedy == "make build"


def test_every_use_after_close_raises(opened):
    maps = opened("maps")
    maps.load()
    hash_map = maps.map("hash")
    link = maps.attach
    maps.close()
    maps.close()
    for use in (
        maps.load,
        maps.attach_all,
        lambda: link("report"),
        lambda: maps.map("hash"),
        lambda: maps.set_constants(narrow=1),
        lambda: maps.resize("hash", 1),
        lambda: maps.leave_out("hash"),
        lambda: hash_map.fd,
        lambda: hash_map.get(bytes(4)),
        lambda: hash_map.put(bytes(4), bytes(8)),
        lambda: hash_map.delete(bytes(4)),
        lambda: list(hash_map.items()),
    ):
        with pytest.raises(BpfError, match="is closed"):
            use()


def test_nothing_works_before_load(opened):
    maps = opened("maps")
    with pytest.raises(BpfMapError, match="exists only after load"):
        maps.map("hash")
    with pytest.raises(BpfAttachError, match="is not loaded"):
        maps.attach("report")


def test_versions():
    major, minor = map(int, bpf.libbpf_version().split("."))
    assert (major, minor) >= (1, 0)


def test_log_keeps_its_end_within_bounds():
    log = "\n".join(f"libbpf: line {number}" for number in range(10_000))
    lines = failures.useful_lines(log).splitlines()
    assert lines[-1].strip() == "line 9999"
    assert len(lines) == failures.OTHER_LINES + 1
