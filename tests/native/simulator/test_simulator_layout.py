"""Layouts: the simulator's structs, pynvml's own, and sizes that NVIDIA documents."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pynvml
import pytest

ROOT = Path(__file__).parents[3]
STRUCTS = {
    "nvml_utilization": (pynvml.c_nvmlUtilization_t, 8),
    "nvml_memory": (pynvml.c_nvmlMemory_t, 24),
    "nvml_memory_v2": (pynvml.c_nvmlMemory_v2_t, 40),
    "nvml_pci": (pynvml.nvmlPciInfo_t, 68),
    "nvml_process": (pynvml.c_nvmlProcessInfo_v3_t, 24),
    "nvml_process_utilization": (pynvml.c_nvmlProcessUtilizationSample_t, 32),
    "nvml_process_utilization_info": (pynvml.c_nvmlProcessUtilizationInfo_v1_t, 40),
    "nvml_processes_utilization": (pynvml.c_nvmlProcessesUtilizationInfo_v1_t, 24),
    "nvml_field_value": (pynvml.c_nvmlFieldValue_t, 40),
    "nvml_event": (pynvml.c_nvmlEventData_t, 32),
    "nvml_violation": (pynvml.c_nvmlViolationTime_t, 16),
    "nvml_bar1": (pynvml.c_nvmlBAR1Memory_t, 24),
    "nvml_row_banks": (pynvml.c_nvmlRowRemapperHistogramValues, 20),
    "nvml_attributes": (pynvml.c_nvmlDeviceAttributes, 40),
    "nvml_ecc_counts": (pynvml.c_nvmlEccErrorCounts_t, 32),
    "nvml_temperature": (pynvml.c_nvmlTemperature_v1_t, 12),
    "nvml_fabric": (pynvml.c_nvmlGpuFabricInfo_v3_t, 40),
    "nvml_fabric_v1": (pynvml.c_nvmlGpuFabricInfo_t, 28),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Size and offsets of each struct as the C compiler has them."""
    sources = [ROOT / "native/nvml_abi.h", ROOT / "native/simulator/nvml_calls.h"]
    text = re.sub(r"/\*.*?\*/", "", "".join(path.read_text() for path in sources), flags=re.DOTALL)
    lines = ["#include <stdio.h>", "#include <stddef.h>", f'#include "{sources[1]}"', "int main(void) {"]
    for name in STRUCTS:
        members = re.search(rf"struct {name} \{{(.*?)\}}", text, re.DOTALL)[1]
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", members)
        lines.append(f'printf("{name} %zu", sizeof(struct {name}));')
        lines += [f'printf(" %zu", offsetof(struct {name}, {field}));' for field in fields if "padding" not in field]
        lines.append('printf("\\n");')
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text("\n".join([*lines, "}"]))
    subprocess.run(["cc", "-o", folder / "layout", folder / "layout.c"], check=True)
    told = subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout
    return {words[0]: [int(word) for word in words[1:]] for words in map(str.split, told.splitlines())}


@pytest.mark.parametrize("name", STRUCTS)
def test_sizes_and_offsets_are_those_of_pynvml_and_the_documentation(compiled, name):
    theirs, documented_bytes = STRUCTS[name]
    size, *offsets = compiled[name]
    assert size == ctypes.sizeof(theirs) == documented_bytes
    assert offsets == [getattr(theirs, field[0]).offset for field in theirs._fields_][: len(offsets)]


def test_every_exported_name_is_one_of_nvml_or_says_that_it_is_ours():
    library = ROOT / "native/simulator/lib/libnvidia-ml.so.1"
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert "eagle_eye_simulated" in names
    assert {name for name in names if not name.startswith(("nvml", "eagle_eye_simulat"))} == set()
