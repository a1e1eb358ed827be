"""Every object is built for every machine, loads here, and holds what its header says."""

import json
import platform
import re
import struct
import subprocess
from pathlib import Path

import pytest

from eagle_eye.native.bpf import OBJECTS, Object, possible_cpus, record_dtype

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name.removesuffix(".bpf.c") for path in (ROOT / "bpf").glob("*.bpf.c"))
EM_BPF = 247


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", NAMES)
def test_objects_are_built_for_both_machines(name, machine):
    header = (OBJECTS / machine / f"{name}.bpf.o").read_bytes()[:20]

    assert header[:4] == b"\x7fELF"
    assert struct.unpack("<H", header[18:20])[0] == EM_BPF


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", NAMES)
def test_objects_load_unchanged(kernel_allows, name, machine):
    """A program without architecture's registers is the same for both: this kernel takes either."""
    if machine != platform.machine() and "pt_regs" in (ROOT / f"bpf/{name}.bpf.c").read_text():
        pytest.skip("reads registers of the other machine")
    with Object(OBJECTS / machine / f"{name}.bpf.o") as program:
        program.load()


@pytest.mark.parametrize(
    ("name", "program_map", "dtype"),
    [
        ("sched", "stats", "sched_stats"),
        ("process", "stats", "process_stats"),
        ("tasks", "counts", "task_counts"),
        ("tasks", "scratch", "task_blocked"),
    ],
)
def test_map_values_are_the_structs_of_the_header(kernel_allows, name, program_map, dtype):
    with Object.named(name) as program:
        program.load()
        assert program.map(program_map).entry_bytes == record_dtype(dtype).itemsize


def test_per_cpu_entries_share_no_cache_line(kernel_allows):
    for name, dtype in (("sched", "sched_stats"), ("process", "process_stats")):
        with Object.named(name) as program:
            program.resize("stats", possible_cpus())
            program.load()
            address = program.map("stats").view(record_dtype(dtype)).ctypes.data
            assert address % 64 == record_dtype(dtype).itemsize % 64 == 0


def test_nothing_stays_behind(kernel_allows, eventually):
    with Object.named("sched") as program:
        program.load()
        program.attach_all()
        infos = [path.read_text() for path in Path("/proc/self/fdinfo").iterdir() if path.exists()]
        ids = {int(found[1]) for text in infos for found in re.finditer(r"^prog_id:\s*(\d+)", text, re.MULTILINE)}
        assert ids <= loaded_ids()
        assert len(ids) >= 3

    eventually(lambda: not ids & loaded_ids())


def loaded_ids() -> set[int]:
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True).stdout
    return {program["id"] for program in json.loads(shown)}
