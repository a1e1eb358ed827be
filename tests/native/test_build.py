"""What a failing build says."""

from __future__ import annotations

import pytest
from setuptools.errors import ExecError

SOURCE = '#include "common.bpf.h"\nLICENSE();\n{}\nSEC("raw_tp") int run(void *ctx) {{ return 0; }}\n'


@pytest.fixture
def compile_text(build, tmp_path):
    def make(text: str):
        source = tmp_path / "one.bpf.c"
        source.write_text(SOURCE.format(text))
        target = tmp_path / "x86_64" / "one.bpf.o"
        build.compile_bpf(source, target)
        return target

    return make


def test_object_is_built_for_both_machines(build, compile_text, tmp_path):
    built = compile_text("")
    assert built.read_bytes()[:4] == b"\x7fELF"
    assert set(build.BPF_TARGETS) == {"x86_64", "aarch64"}
    assert [path.name for path in built.parent.iterdir()] == ["one.bpf.o"]


def test_object_names_no_folder_of_the_build_machine(build, compile_text):
    assert str(build.ROOT).encode() not in compile_text("").read_bytes()


def test_missing_compiler_is_named_with_the_command_that_mends_it(build, compile_text, monkeypatch):
    monkeypatch.setattr(build, "CLANG", "clang-that-is-not-there")
    with pytest.raises(ExecError, match=r"clang-that-is-not-there was not found.*apt install clang llvm libbpf-dev"):
        compile_text("")


def test_missing_headers_are_named_likewise(build, compile_text, monkeypatch):
    monkeypatch.setattr(build, "BPF_FLAGS", [*build.BPF_FLAGS, "-nostdinc"])
    with pytest.raises(ExecError, match="apt install clang llvm libbpf-dev"):
        compile_text("")


def test_a_mistake_in_a_program_is_shown_as_clang_shows_it(compile_text, tmp_path):
    with pytest.raises(ExecError, match=r"one\.bpf\.c:3:1: error: unknown type name 'mistake'") as caught:
        compile_text("mistake here;")
    assert "apt install" not in str(caught.value)
    assert not (tmp_path / "x86_64" / "one.bpf.o").exists()


def test_warnings_are_errors(compile_text):
    with pytest.raises(ExecError, match="unused"):
        compile_text("static int unused(void) { return 0; }")
