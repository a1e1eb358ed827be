"""Each number of the simulated GPUs, by our C call and by pynvml on the same library.

The simulator's values move, so ours must lie between pynvml's just before and just after.
"""

from __future__ import annotations

import ctypes
import math
import shutil
from typing import Any

import pynvml
import pytest

from eagle_eye.native.device import FIELD, FIELDS, LINK_FIELDS, NOT_READ, OK, OUT_OF_RANGE, UNSUPPORTED, group_mask
from eagle_eye.native.nvml import HOT_GROUPS, SLOW_GROUPS, Nvml
from eagle_eye.native.simulator import LIBRARIES, VARIABLE, Simulation

LIBRARY = LIBRARIES / "libnvidia-ml.so.1"
ALL = group_mask(HOT_GROUPS + SLOW_GROUPS)
LOST = 15

# By nvmlDeviceGetFieldValues: our field, the id, the unit.
FIELD_VALUES = {
    "memory_temperature_celsius": (82, 1), "power_watts": (186, 1e-3), "power_average_watts": (185, 1e-3),
    "energy_joules": (83, 1e-3), "throttle_power_cap_seconds": (74, 1e-9), "throttle_thermal_seconds": (75, 1e-9),
    "throttle_sync_boost_seconds": (76, 1e-9), "throttle_board_limit_seconds": (77, 1e-9),
    "throttle_low_utilization_seconds": (78, 1e-9), "throttle_reliability_seconds": (79, 1e-9),
    "throttle_sw_thermal_seconds": (269, 1e-9), "throttle_hw_thermal_seconds": (270, 1e-9),
    "throttle_hw_power_brake_seconds": (271, 1e-9), "pcie_tx_bytes": (197, 1), "pcie_rx_bytes": (198, 1),
    "pcie_replays": (94, 1), "pcie_correctable_errors": (173, 1), "pcie_non_fatal_errors": (179, 1),
    "pcie_fatal_errors": (180, 1), "pcie_recoveries": (169, 1), "power_limit_watts": (190, 1e-3),
    "recovery_action": (230, 1), "retired_pages_pending_single_bit": (92, 1),
    "retired_pages_pending_double_bit": (93, 1),
}  # fmt: skip


def memory(gpu: Any) -> Any:
    return pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)


# By a function of pynvml's own.
FUNCTIONS = {
    "utilization_ratio": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    "memory_utilization_ratio": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).memory / 100,
    "encoder_ratio": lambda gpu: pynvml.nvmlDeviceGetEncoderUtilization(gpu)[0] / 100,
    "decoder_ratio": lambda gpu: pynvml.nvmlDeviceGetDecoderUtilization(gpu)[0] / 100,
    "jpeg_ratio": lambda gpu: pynvml.nvmlDeviceGetJpgUtilization(gpu)[0] / 100,
    "optical_flow_ratio": lambda gpu: pynvml.nvmlDeviceGetOfaUtilization(gpu)[0] / 100,
    "memory_total_bytes": lambda gpu: memory(gpu).total,
    "memory_used_bytes": lambda gpu: memory(gpu).used,
    "memory_free_bytes": lambda gpu: memory(gpu).free,
    "memory_reserved_bytes": lambda gpu: memory(gpu).reserved,
    "temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, 0),
    "shutdown_temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperatureThreshold(gpu, 0),
    "slowdown_temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperatureThreshold(gpu, 1),
    "memory_max_temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperatureThreshold(gpu, 2),
    "clock_graphics_hertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 0) * 1e6,
    "clock_sm_hertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 1) * 1e6,
    "clock_memory_hertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 2) * 1e6,
    "clock_video_hertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 3) * 1e6,
    "clock_event_reasons": lambda gpu: pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
    "performance_state": lambda gpu: pynvml.nvmlDeviceGetPerformanceState(gpu),
    "pcie_link_generation": lambda gpu: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
    "pcie_link_width": lambda gpu: pynvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
    "fan_ratio": lambda gpu: pynvml.nvmlDeviceGetFanSpeed(gpu) / 100,
    "remapped_rows_correctable": lambda gpu: pynvml.nvmlDeviceGetRemappedRows(gpu)[0],
    "remapped_rows_uncorrectable": lambda gpu: pynvml.nvmlDeviceGetRemappedRows(gpu)[1],
    "remapped_rows_pending": lambda gpu: pynvml.nvmlDeviceGetRemappedRows(gpu)[2],
    "remapped_rows_failed": lambda gpu: pynvml.nvmlDeviceGetRemappedRows(gpu)[3],
    "retired_pages_single_bit": lambda gpu: len(pynvml.nvmlDeviceGetRetiredPages(gpu, 0)),
    "retired_pages_double_bit": lambda gpu: len(pynvml.nvmlDeviceGetRetiredPages(gpu, 1)),
}
PLACES = ("l1", "l2", "memory", "register", "texture", "shared", "cbu", "sram")


def ecc_functions() -> dict[str, Any]:
    found = {}
    for kind, kind_name in enumerate(("corrected", "uncorrected")):
        for lifetime, lifetime_name in enumerate(("volatile", "aggregate")):
            name = f"ecc_{kind_name}_{lifetime_name}"
            found[f"{name}_total"] = lambda gpu, k=kind, t=lifetime: pynvml.nvmlDeviceGetTotalEccErrors(gpu, k, t)
            for number, place in enumerate(PLACES):
                found[f"{name}_{place}"] = lambda gpu, k=kind, t=lifetime, p=number: (
                    pynvml.nvmlDeviceGetMemoryErrorCounter(gpu, k, t, p)
                )
    return found


def field_value(gpu: Any, number: int, scope: int = 0) -> float:
    found = pynvml.nvmlDeviceGetFieldValues(gpu, [(number, scope)])[0]
    if found.nvmlReturn:
        raise pynvml.NVMLError(found.nvmlReturn)
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    return float(getattr(found.value, members[found.valueType]))


THEIRS = {
    **FUNCTIONS,
    **ecc_functions(),
    **{
        name: lambda gpu, n=number, u=unit: field_value(gpu, n) * u
        for name, (number, unit) in FIELD_VALUES.items()
    },
}  # fmt: skip


def ask(peer: Any, *arguments: Any) -> float:
    """NaN where pynvml raises."""
    try:
        return float(peer(*arguments))
    except pynvml.NVMLError:
        return math.nan


@pytest.fixture(params=["h100x8", "a100-mig"])
def simulation(request, monkeypatch):
    if not LIBRARY.exists():
        pytest.skip("the simulator is not built: make build")
    with Simulation(request.param) as simulation:
        monkeypatch.setenv(VARIABLE, str(simulation.path))
        yield simulation


@pytest.fixture
def library(tmp_path):
    """A copy: a loaded library keeps the first state file that it saw."""
    return shutil.copy(LIBRARY, tmp_path / LIBRARY.name)


@pytest.fixture
def ours(simulation, library):
    with Nvml(library) as nvml:
        nvml.init()
        for slot in range(nvml.count()):
            nvml.watch_index(slot, slot)
        yield nvml


@pytest.fixture
def theirs(simulation, library, monkeypatch):
    """pynvml's handles on the same library."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    pynvml.nvmlInit()
    yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    pynvml.nvmlShutdown()


def agree(name: str, ours: float, before: float, after: float) -> None:
    if math.isnan(before) or math.isnan(after):
        assert math.isnan(ours), f"{name}: {ours}, but pynvml is refused"
        return
    low, high = min(before, after), max(before, after)
    slack = 1e-9 * abs(high)
    assert low - slack <= ours <= high + slack, f"{name}: {ours} is not between {before} and {after}"


def test_the_simulator_says_what_it_is(ours):
    assert ours.simulated
    assert ours.missing == ()


def test_every_number_is_pynvmls(board, simulation, ours, theirs):
    simulation.set("all", ecc_corrected_volatile_dram=7, ecc_corrected_aggregate_l2=11, pcie_replays=5)
    ours.sample(board, ALL)
    assert set(board_fields(board)) == set(THEIRS) | {"fabric_state", "fabric_status", "fabric_health_mask"}
    for slot, gpu in enumerate(theirs):
        before = {name: ask(peer, gpu) for name, peer in THEIRS.items()}
        ours.sample(board, ALL, slots=1 << slot)
        sample = {name: board.value(slot, name)[0] for name in THEIRS}
        for name, peer in THEIRS.items():
            agree(f"device {slot} {name}", sample[name], before[name], ask(peer, gpu))


def board_fields(board) -> list[str]:
    return [name for name in FIELDS if board.value(0, name)[1] != NOT_READ]


LINKS = {
    "state": lambda gpu, link: pynvml.nvmlDeviceGetNvLinkState(gpu, link),
    "tx_bytes": lambda gpu, link: field_value(gpu, 202, link),
    "rx_bytes": lambda gpu, link: field_value(gpu, 204, link),
    "crc_errors": lambda gpu, link: pynvml.nvmlDeviceGetNvLinkErrorCounter(gpu, link, 2),
    "crc_data_errors": lambda gpu, link: pynvml.nvmlDeviceGetNvLinkErrorCounter(gpu, link, 3),
    "replays": lambda gpu, link: pynvml.nvmlDeviceGetNvLinkErrorCounter(gpu, link, 0),
}
OLDER = {
    "tx_bytes": lambda gpu, link: field_value(gpu, 138, link) * 1024,
    "rx_bytes": lambda gpu, link: field_value(gpu, 139, link) * 1024,
}


def peer_link(name: str, gpu: Any, link: int) -> float:
    value = ask(LINKS[name], gpu, link)
    return ask(OLDER[name], gpu, link) if math.isnan(value) and name in OLDER else value


def test_every_number_of_a_link_is_pynvmls(board, simulation, ours, theirs):
    simulation.set("all", {"link.1.crc_flit_errors": 500, "link.2.up": 0, "link.3.replay_errors": 9})
    for _ in range(2):
        ours.sample(board, ALL)
    links = int(board.read(1)["links"][0])
    assert links > 0
    for link in range(links):
        for name in LINKS:
            before = peer_link(name, theirs[0], link)
            ours.sample(board, ALL, slots=1)
            value = float(board.read(1)[0]["link_value"][link, LINK_FIELDS.index(name)])
            agree(f"link {link} {name}", value, before, peer_link(name, theirs[0], link))


def test_a_device_that_falls_off_the_bus_and_comes_back(board, simulation, ours):
    simulation.set(1, lost=1)
    assert ours.sample(board, ALL) == 1
    samples = board.read(2)
    assert samples["error"].tolist() == [0, LOST]
    assert samples["status"][1][FIELD["power_watts"]] == LOST
    simulation.set(1, lost=0)
    assert ours.sample(board, ALL) == 0
    assert board.value(1, "power_watts")[1] == OK


GROUP_FIELDS = {
    "utilization": "utilization_ratio", "codec": "encoder_ratio", "memory": "memory_used_bytes",
    "temperature": "temperature_celsius", "power": "energy_joules", "clocks": "clock_sm_hertz",
    "throttle": "throttle_thermal_seconds", "pcie": "pcie_tx_bytes", "ecc": "ecc_corrected_volatile_total",
    "ecc_locations": "ecc_corrected_volatile_memory", "remapped_rows": "remapped_rows_pending",
    "limits": "shutdown_temperature_celsius", "pcie_errors": "pcie_correctable_errors",
}  # fmt: skip


@pytest.mark.parametrize("simulation", ["h100x8"], indirect=True)
@pytest.mark.parametrize("group", GROUP_FIELDS)
@pytest.mark.parametrize("code", [3, 4, 10, 999])
def test_an_error_of_one_group_stays_in_it(board, simulation, ours, group, code):
    simulation.set(0, {f"call.{group}.code": code})
    ours.sample(board, ALL)
    failed = {name for name in GROUP_FIELDS.values() if board.value(0, name)[1] != OK}
    assert failed == {GROUP_FIELDS[group]}
    assert board.value(0, GROUP_FIELDS[group])[1] == (UNSUPPORTED if code == 3 else code)
    assert board.value(1, GROUP_FIELDS[group])[1] == OK


def test_a_slow_group_is_seen_in_its_own_time(board, simulation, ours):
    simulation.set(0, {"call.clocks.delay": "60ms"})
    ours.sample(board, ALL)
    assert board.call_times("clocks").sum_ns > 60_000_000
    assert board.call_times("power").sum_ns < 60_000_000


def test_values_that_cannot_be_are_no_readings(board, simulation, ours):
    simulation.set(0, temperature_celsius=4000)
    ours.sample(board, ALL)
    assert board.value(0, "temperature_celsius")[1] == OUT_OF_RANGE
