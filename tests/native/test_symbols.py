"""Kernel symbols: real ones of this kernel, and tables of every bad shape."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.symbols import KernelSymbols

BASE = 0xFFFFFFFF81000000
TABLE = f"""\
0000000000000000 A fixed_percpu_data
{BASE:016x} T _text
{BASE + 0x100:016x} t first_name
{BASE + 0x100:016x} T second_name
{BASE + 0x180:016x} D some_data
{BASE + 0x200:016x} W weak_function
ffffffffc0000000 t module_function\t[nvidia]
ffffffffa0000000 t bpf_prog_6deef7357e7b4530\t[bpf]
"""


@pytest.fixture
def resolve(tmp_path):
    def make(table: str = TABLE):
        (tmp_path / "kallsyms").write_text(table)
        return KernelSymbols(tmp_path).resolve

    return make


def test_names_offsets_and_modules(resolve):
    asked = [BASE + 0x11F, BASE, 0xFFFFFFFFC0000010, 0xFFFFFFFFA0000000, BASE + 0x1FF, BASE + 0x200]
    assert resolve()(asked) == [
        "first_name+0x1f",
        "_text+0x0",
        "module_function+0x10 [nvidia]",
        "bpf_prog_6deef7357e7b4530+0x0 [bpf]",
        "first_name+0xff",
        "weak_function+0x0",
    ]


def test_unknown_addresses_stay_numbers(resolve):
    assert resolve()([0, 5, BASE - 1, 2**64 - 1, BASE + (1 << 22)]) == [
        "0x0",
        "0x5",
        hex(BASE - 1),
        "0xffffffffffffffff",
        hex(BASE + (1 << 22)),
    ]


def test_hidden_addresses_are_unknown(resolve):
    hidden = "".join(f"{0:016x} T name_{number}\n" for number in range(10))
    assert resolve(hidden)([BASE, 7]) == [hex(BASE), "0x7"]


def test_no_table(tmp_path):
    assert KernelSymbols(tmp_path / "absent").resolve([BASE]) == [hex(BASE)]


def test_nothing_asked_reads_nothing(tmp_path):
    assert KernelSymbols(tmp_path / "absent").resolve([]) == []


def test_order_of_the_table_does_not_matter(resolve, monkeypatch):
    backwards = "\n".join(reversed(TABLE.splitlines())) + "\n"
    for lines in (1, 2, 3, 100):
        monkeypatch.setattr("eagle_eye.native.symbols.CHUNK_LINES", lines)
        assert resolve(backwards)([BASE + 0x210, 0xFFFFFFFFC0000001, BASE + 1]) == [
            "weak_function+0x10",
            "module_function+0x1 [nvidia]",
            "_text+0x1",
        ]


def test_known_addresses_do_not_read_again(resolve, tmp_path):
    ask = resolve()
    ask([BASE])
    (tmp_path / "kallsyms").unlink()
    assert ask([BASE, BASE]) == ["_text+0x0", "_text+0x0"]


def test_this_kernel():
    symbols = KernelSymbols(Path("/proc"))
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    known = {name: int(address, 16) for address, kind, name, *module in lines if kind == "T" and not module}
    if not any(known.values()):
        pytest.skip("the kernel hides its addresses: kernel.kptr_restrict or CAP_SYSLOG")
    names = ["schedule", "do_exit", "wake_up_process"]
    assert symbols.resolve(known[name] + 3 for name in names) == [f"{name}+0x3" for name in names]
    start = time.perf_counter()
    symbols.resolve(known[name] + 3 for name in names)
    assert time.perf_counter() - start < 0.005


@given(st.text(alphabet="0123456789abcdef tTX\t\n[]xé", max_size=300), st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_any_table_is_survived(tmp_path_factory, table, addresses):
    home = tmp_path_factory.mktemp("proc")
    (home / "kallsyms").write_text(table)
    assert len(KernelSymbols(home).resolve(addresses)) == len(addresses)
