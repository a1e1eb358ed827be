"""Libraries that are missing, wrong or old; layouts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eagle_eye.native import nvml as module
from eagle_eye.native.device import FIELDS, NOT_READ, OK, UNSUPPORTED, Board, group_mask
from eagle_eye.native.errors import DeviceError, UnavailableError
from eagle_eye.native.nvml import FUNCTIONS, HOT_GROUPS, SLOW_GROUPS, Nvml

ALL = group_mask(HOT_GROUPS + SLOW_GROUPS)
ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "native"

# ---- not there, not it ----


def test_the_module_needs_no_library():
    code = "import eagle_eye.native.nvml as n; assert n.FUNCTIONS; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "libnvidia-ml" not in done.stdout
    assert "numpy" not in done.stdout


def test_a_missing_library_is_unavailable_and_says_how_to_get_it(tmp_path):
    with pytest.raises(UnavailableError, match=r"nowhere\.so: cannot open shared object file") as caught:
        Nvml(tmp_path / "nowhere.so")
    assert "NVIDIA driver" in caught.value.remedy


def test_another_library_is_no_nvml():
    with pytest.raises(UnavailableError, match=r"libm\.so\.6 is no NVML") as caught:
        Nvml("libm.so.6")
    assert "libnvidia-ml.so.1" in caught.value.remedy


def test_a_text_file_is_no_library(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        Nvml(tmp_path / "text.so")


@pytest.mark.parametrize("code", sorted(module._RETURNS))
def test_each_error_of_init_has_words_and_the_machines_own_a_remedy(stub, code):
    stub.answer("init").code = code
    nvml = Nvml(stub.path)
    with pytest.raises((UnavailableError, DeviceError), match=f"NVML {code}") as caught:
        nvml.init()
    if isinstance(caught.value, UnavailableError):
        assert caught.value.remedy
    else:
        assert caught.value.code == code
    with pytest.raises(DeviceError, match="first"):
        nvml.count()
    nvml.close()


@pytest.mark.parametrize(
    ("code", "words", "remedy"),
    [
        (9, "driver is not loaded", "modprobe nvidia"),
        (4, "permission", "/dev/nvidiactl"),
        (18, "different versions", "reboot"),
        (15, "lost", "reboot"),
        (16, "reset", "nvidia-smi --gpu-reset"),
    ],
)
def test_what_operators_meet_most_names_the_way_out(code, words, remedy):
    error = module.failure("NVML did not start", code)
    assert words in error.message
    assert remedy in error.remedy


def test_a_return_code_of_the_future_is_told_by_its_number(stub, nvml, board):
    stub.answer("fan").code = 4711
    nvml.sample(board, group_mask(["fan"]))
    assert board.value(0, "fan_ratio")[1] == 4711
    assert "4711" in module.return_text(4711)
    assert "4711" in module.failure("this", 4711).message


def test_errors_of_single_devices(stub, nvml):
    with pytest.raises(DeviceError, match="GPU-x cannot be watched") as caught:
        nvml.watch(1, "GPU-x")
    assert caught.value.code == 2
    with pytest.raises(DeviceError, match="nonsense"):
        nvml.watch(1, "nonsense")
    with pytest.raises(DeviceError, match="index 99"):
        nvml.watch_index(1, 99)
    stub.answer("handle").code = 15
    with pytest.raises(DeviceError, match="lost") as caught:
        nvml.watch(1, "GPU-b")
    assert caught.value.code == 15
    stub.answer("count").code = 999
    with pytest.raises(DeviceError, match="counted"):
        nvml.count()
    assert nvml.watched == 1


def test_slots_have_bounds(nvml):
    for call in (nvml.forget, lambda slot: nvml.watch(slot, "GPU-a"), lambda slot: nvml.watch_index(slot, 0)):
        for slot in (-1, 64):
            with pytest.raises(ValueError, match="slots are 0 to 63"):
                call(slot)


def test_a_closed_library_says_so(stub, board):
    nvml = Nvml(stub.path)
    nvml.init()
    nvml.init()
    nvml.close()
    nvml.close()
    assert (stub.answer("init").calls, stub.answer("shutdown").calls) == (1, 1)
    with pytest.raises(DeviceError):
        nvml.sample(board, ALL)
    with pytest.raises(DeviceError, match="closed"):
        _ = nvml.missing


def test_a_closed_board_takes_no_samples(nvml):
    board = Board.create()
    board.close()
    with pytest.raises(ValueError, match="closed"):
        nvml.sample(board, ALL)


def test_no_gpu_is_no_error(stub):
    stub.answer("count").value = 0
    with Nvml(stub.path) as nvml:
        nvml.init()
        assert nvml.count() == 0


# ---- older libraries ----

REQUIRED = {"nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"}
OPTIONAL = [name for name in FUNCTIONS if name and name not in REQUIRED and name != "nvmlInit_v2"]


@pytest.fixture(scope="module")
def oldest(nvml_stub, tmp_path_factory):
    """With nothing but what every NVML has."""
    newer = [*OPTIONAL, "nvmlInitWithFlags", "nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"]
    newer.append("nvmlDeviceGetCurrentClocksThrottleReasons")
    return nvml_stub.compile_stub(tmp_path_factory.mktemp("old") / "libnvidia-ml.so.1", without=newer)


def test_the_oldest_library_works_and_everything_it_lacks_is_unsupported(nvml_stub, oldest, board):
    nvml_stub.Stub(oldest)
    with Nvml(oldest) as nvml:
        nvml.init()
        nvml.watch_index(0, 0)
        assert set(OPTIONAL) == set(nvml.missing) - {"nvmlInitWithFlags"}
        with pytest.raises(DeviceError, match="lacks the function"):
            nvml.watch(1, "GPU-a")
        assert nvml.sample(board, ALL) == 0
    assert {board.value(0, field)[1] for field in FIELDS} == {UNSUPPORTED, NOT_READ}


MISSING = {
    "nvmlDeviceGetFieldValues": "energy_joules",
    "nvmlDeviceGetUtilizationRates": "utilization_ratio",
    "nvmlDeviceGetOfaUtilization": "optical_flow_ratio",
    "nvmlDeviceGetFanSpeed": "fan_ratio",
    "nvmlDeviceGetMemoryErrorCounter": "ecc_corrected_volatile_l1",
}


@pytest.mark.parametrize("symbol", MISSING)
def test_a_missing_symbol_costs_its_own_fields_only(nvml_stub, tmp_path, board, symbol):
    path = nvml_stub.compile_stub(tmp_path / "libnvidia-ml.so.1", without=[symbol])
    nvml_stub.Stub(path)
    with Nvml(path) as nvml:
        nvml.init()
        nvml.watch(0, "GPU-a")
        assert nvml.missing == (symbol,)
        nvml.sample(board, ALL)
    assert board.value(0, MISSING[symbol])[1] == UNSUPPORTED
    assert board.value(0, "clock_sm_hertz")[1] == OK


OLDER = {
    "nvmlDeviceGetTemperatureV": ("temperature", 66, "temperature_celsius", 66),
    "nvmlDeviceGetCurrentClocksEventReasons": ("event_reasons", 4, "clock_event_reasons", 4),
    "nvmlDeviceGetCount_v2": ("fan", 10, "fan_ratio", 0.1),
    "nvmlDeviceGetHandleByIndex_v2": ("fan", 10, "fan_ratio", 0.1),
    "nvmlInitWithFlags": ("fan", 10, "fan_ratio", 0.1),
}


@pytest.mark.parametrize("symbol", OLDER)
def test_an_older_symbol_takes_the_newer_ones_place(nvml_stub, tmp_path, board, symbol):
    name, raw, field, reading = OLDER[symbol]
    stub = nvml_stub.Stub(nvml_stub.compile_stub(tmp_path / "libnvidia-ml.so.1", without=[symbol]))
    stub.answer(name).value = raw
    with Nvml(stub.path) as nvml:
        nvml.init()
        nvml.watch_index(0, 0)
        nvml.sample(board, ALL)
        assert nvml.count() == 2
    assert board.value(0, field) == (pytest.approx(reading), OK)


def test_memory_of_the_first_version_only(nvml_stub, tmp_path, board):
    path = nvml_stub.compile_stub(tmp_path / "libnvidia-ml.so.1", without=["nvmlDeviceGetMemoryInfo_v2"])
    stub = nvml_stub.Stub(path)
    stub.memory.total, stub.memory.used = 100, 60
    with Nvml(path) as nvml:
        nvml.init()
        nvml.watch(0, "GPU-a")
        nvml.sample(board, ALL)
    assert board.value(0, "memory_used_bytes") == (60, OK)


# ---- layouts ----

DOCUMENTED = {
    "field_value": 40, "utilization": 8, "memory": 24, "memory_v2": 40, "temperature": 12, "fabric": 40,
    "fabric_v1": 28, "pci": 68, "process": 24, "process_utilization": 32, "sampled_value": 16, "event": 32,
    "violation": 16,
}  # fmt: skip
OFFSETS = [
    ("field_value", "scope", 4), ("field_value", "timestamp_us", 8), ("field_value", "latency_us", 16),
    ("field_value", "type", 24), ("field_value", "status", 28), ("field_value", "value", 32),
    ("process", "used_bytes", 8), ("memory_v2", "used_bytes", 32),
]  # fmt: skip


def compiles(source: str, tmp_path: Path, *flags: str) -> None:
    (tmp_path / "layout.c").write_text(source)
    command = ["cc", "-std=gnu11", "-Werror", "-fsyntax-only", f"-I{NATIVE}", *flags, tmp_path / "layout.c"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_structs_have_the_documented_layout(tmp_path):
    lines = ['#include "nvml_abi.h"', "#include <stddef.h>"]
    lines += [f'_Static_assert(sizeof(struct nvml_{name}) == {size}, "{name}");' for name, size in DOCUMENTED.items()]
    lines += [f'_Static_assert(offsetof(struct nvml_{name}, {field}) == {at}, "");' for name, field, at in OFFSETS]
    compiles("\n".join(lines), tmp_path)


SAME = {
    "nvmlFieldValue_t": "field_value", "nvmlUtilization_t": "utilization", "nvmlMemory_t": "memory",
    "nvmlMemory_v2_t": "memory_v2", "nvmlGpuFabricInfo_v3_t": "fabric", "nvmlPciInfo_t": "pci",
    "nvmlProcessInfo_t": "process", "nvmlProcessUtilizationSample_t": "process_utilization",
    "nvmlSample_t": "sampled_value", "nvmlEventData_t": "event", "nvmlViolationTime_t": "violation",
    "nvmlTemperature_v1_t": "temperature", "nvmlGpuFabricInfo_t": "fabric_v1",
}  # fmt: skip
EQUAL = {
    "nvmlMemory_v2": "NVML_MEMORY_V2", "nvmlGpuFabricInfo_v2": "NVML_FABRIC_V2",
    "nvmlGpuFabricInfo_v3": "NVML_FABRIC_V3", "nvmlTemperature_v1": "NVML_TEMPERATURE_V1",
    "NVML_NVLINK_MAX_LINKS": "NVML_LINKS_MAX", "NVML_ERROR_GPU_IS_LOST": "NVML_RETURN_GPU_IS_LOST",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "NVML_RETURN_LIBRARY_MISMATCH",
    "NVML_ERROR_UNKNOWN": "NVML_RETURN_UNKNOWN", "NVML_ERROR_RESET_REQUIRED": "NVML_RETURN_RESET_REQUIRED",
    "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "NVML_FIELD_ENERGY", "NVML_FI_DEV_MEMORY_TEMP":
    "NVML_FIELD_MEMORY_TEMPERATURE", "NVML_FI_DEV_POWER_INSTANT": "NVML_FIELD_POWER_INSTANT",
    "NVML_FI_DEV_POWER_CURRENT_LIMIT": "NVML_FIELD_POWER_LIMIT", "NVML_FI_DEV_PCIE_COUNT_TX_BYTES":
    "NVML_FIELD_PCIE_TX_BYTES", "NVML_FI_DEV_NVLINK_GET_STATE": "NVML_FIELD_LINK_STATE",
    "NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS": "NVML_FIELD_LINK_SYMBOL_ERRORS",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": "NVML_FIELD_VIOLATION_HW_POWER_BRAKE",
    "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": "NVML_FIELD_RECOVERY_ACTION",
    "NVML_PSTATE_UNKNOWN": "NVML_PERFORMANCE_UNKNOWN", "NVML_CLOCK_VIDEO": "NVML_DOMAIN_VIDEO",
    "NVML_MEMORY_LOCATION_SRAM": "NVML_ECC_SRAM", "NVML_NVLINK_ERROR_DL_ECC_DATA": "NVML_LINK_ECC_DATA",
    "NVML_TEMPERATURE_THRESHOLD_MEM_MAX": "NVML_THRESHOLD_MEMORY_MAX", "NVML_GPU_FABRIC_STATE_COMPLETED":
    "NVML_FABRIC_COMPLETED", "NVML_VALUE_TYPE_UNSIGNED_SHORT": "NVML_TYPE_U16",
}  # fmt: skip


def test_layouts_and_numbers_are_those_of_nvidias_header_where_it_is_installed(tmp_path):
    headers = [*Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/include/nvml.h"),
               *Path("/usr/local").glob("cuda*/include/nvml.h"), Path("/usr/include/nvml.h")]  # fmt: skip
    found = next((path for path in headers if path.exists()), None)
    if found is None:
        pytest.skip("no nvml.h: pip install nvidia-nvml-dev")
    lines = ["#include <nvml.h>", '#include "nvml_abi.h"']
    lines += [f'_Static_assert(sizeof({a}) == sizeof(struct nvml_{b}), "{a}");' for a, b in SAME.items()]
    lines += [f'_Static_assert((int)({a}) == (int)({b}), "{a}");' for a, b in EQUAL.items()]
    compiles("\n".join(lines), tmp_path, f"-I{found.parent}")
