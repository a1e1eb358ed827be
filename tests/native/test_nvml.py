"""Every value of NVML, from the vendor's answer to the board."""

from __future__ import annotations

import threading
import time

import pynvml
import pytest

from eagle_eye.native import nvml as module
from eagle_eye.native.device import (
    ABSENT,
    FIELD,
    FIELDS,
    GROUPS,
    LINK_FIELDS,
    NOT_READ,
    OK,
    UNSUPPORTED,
    group_mask,
)
from eagle_eye.native.nvml import HOT_GROUPS, SLOW_GROUPS, Nvml

U32 = 1

# Field values: id, the board's field, its unit, its call group.
FIELD_VALUES = [
    (82, "memory_temperature_celsius", 1, "temperature"),
    (186, "power_watts", 1e-3, "power"),
    (185, "power_average_watts", 1e-3, "power"),
    (83, "energy_joules", 1e-3, "power"),
    (74, "throttle_power_cap_seconds", 1e-9, "throttle"),
    (75, "throttle_thermal_seconds", 1e-9, "throttle"),
    (76, "throttle_sync_boost_seconds", 1e-9, "throttle"),
    (77, "throttle_board_limit_seconds", 1e-9, "throttle"),
    (78, "throttle_low_utilization_seconds", 1e-9, "throttle"),
    (79, "throttle_reliability_seconds", 1e-9, "throttle"),
    (269, "throttle_sw_thermal_seconds", 1e-9, "throttle"),
    (270, "throttle_hw_thermal_seconds", 1e-9, "throttle"),
    (271, "throttle_hw_power_brake_seconds", 1e-9, "throttle"),
    (197, "pcie_tx_bytes", 1, "pcie"),
    (198, "pcie_rx_bytes", 1, "pcie"),
    (94, "pcie_replays", 1, "pcie"),
    (173, "pcie_correctable_errors", 1, "pcie_errors"),
    (179, "pcie_non_fatal_errors", 1, "pcie_errors"),
    (180, "pcie_fatal_errors", 1, "pcie_errors"),
    (169, "pcie_recoveries", 1, "pcie_errors"),
    (3, "ecc_corrected_volatile_total", 1, "ecc"),
    (4, "ecc_uncorrected_volatile_total", 1, "ecc"),
    (5, "ecc_corrected_aggregate_total", 1, "ecc"),
    (6, "ecc_uncorrected_aggregate_total", 1, "ecc"),
    (142, "remapped_rows_correctable", 1, "remapped_rows"),
    (143, "remapped_rows_uncorrectable", 1, "remapped_rows"),
    (29, "retired_pages_single_bit", 1, "retired_pages"),
    (30, "retired_pages_double_bit", 1, "retired_pages"),
    (92, "retired_pages_pending_single_bit", 1, "retired_pages"),
    (93, "retired_pages_pending_double_bit", 1, "retired_pages"),
    (190, "power_limit_watts", 1e-3, "limits"),
    (230, "recovery_action", 1, "health"),
]

# Calls of their own: the stub's name, its value, the board's field, the reading, the call group.
CALLS = [
    ("utilization", 87, "utilization_ratio", 0.87, "utilization"),
    ("utilization", 42 << 32, "memory_utilization_ratio", 0.42, "utilization"),
    ("encoder", 3, "encoder_ratio", 0.03, "codec"),
    ("decoder", 4, "decoder_ratio", 0.04, "codec"),
    ("jpeg", 5, "jpeg_ratio", 0.05, "codec"),
    ("optical_flow", 6, "optical_flow_ratio", 0.06, "codec"),
    ("temperature_v1", 71, "temperature_celsius", 71, "temperature"),
    ("clock", 1980, "clock_graphics_hertz", 1980e6, "clocks"),
    ("clock", 1880, "clock_sm_hertz", 1980e6, "clocks"),
    ("clock", 2419, "clock_memory_hertz", 2619e6, "clocks"),
    ("clock", 1245, "clock_video_hertz", 1545e6, "clocks"),
    ("event_reasons", 0x24, "clock_event_reasons", 0x24, "clocks"),
    ("performance_state", 2, "performance_state", 2, "clocks"),
    ("pcie_generation", 5, "pcie_link_generation", 5, "pcie_errors"),
    ("pcie_width", 16, "pcie_link_width", 16, "pcie_errors"),
    ("fan", 55, "fan_ratio", 0.55, "fan"),
    ("threshold", 90, "shutdown_temperature_celsius", 90, "limits"),
    ("threshold", 86, "slowdown_temperature_celsius", 87, "limits"),
    ("threshold", 93, "memory_max_temperature_celsius", 95, "limits"),
]

LINK_FIELD_VALUES = [
    (202, "tx_bytes", 1), (204, "rx_bytes", 1), (201, "tx_packets", 1), (203, "rx_packets", 1),
    (163, "crc_errors", 1), (161, "replays", 1), (215, "recoveries", 1), (213, "recoveries_successful", 1),
    (214, "recoveries_failed", 1), (206, "malformed_packet_errors", 1), (207, "buffer_overrun_errors", 1),
    (208, "rx_errors", 1), (209, "rx_remote_errors", 1), (210, "rx_general_errors", 1), (211, "integrity_errors", 1),
    (212, "tx_discards", 1), (219, "effective_errors", 1), (221, "symbol_errors", 1),
]  # fmt: skip


def link_value(board, link: int, field: str) -> tuple[float, int]:
    sample, number = board.read(1)[0], LINK_FIELDS.index(field)
    return float(sample["link_value"][link, number]), int(sample["link_status"][link, number])


# ---- each value ----


@pytest.mark.parametrize(("number", "field", "unit", "group"), FIELD_VALUES)
def test_a_field_value_arrives_in_base_units(stub, nvml, board, number, field, unit, group):
    stub.field(number, 123)
    assert nvml.sample(board, group_mask([group])) == 0
    assert board.value(0, field) == (pytest.approx(123 * unit), OK)


@pytest.mark.parametrize(("name", "raw", "field", "reading", "group"), CALLS)
def test_an_answer_arrives_in_base_units(stub, nvml, board, name, raw, field, reading, group):
    stub.answer(name).value = raw
    nvml.sample(board, group_mask([group]))
    assert board.value(0, field) == (pytest.approx(reading), OK)


def test_memory_is_told_with_what_is_reserved(stub, nvml, board):
    stub.memory.total, stub.memory.reserved, stub.memory.free, stub.memory.used = 1000, 100, 300, 600
    nvml.sample(board, group_mask(["memory"]))
    assert [board.value(0, f"memory_{name}_bytes") for name in ("total", "reserved", "free", "used")] == [
        (1000, OK), (100, OK), (300, OK), (600, OK),
    ]  # fmt: skip


@pytest.mark.parametrize("flag", ["pending", "failed"])
def test_row_remapping_flags(stub, nvml, board, flag):
    stub.field({"pending": 144, "failed": 145}[flag], 1, type=U32)
    nvml.sample(board, group_mask(["remapped_rows"]))
    assert board.value(0, f"remapped_rows_{flag}") == (1, OK)


def test_ecc_errors_by_kind_lifetime_and_location(stub, nvml, board):
    stub.answer("ecc").value = 5
    nvml.sample(board, group_mask(["ecc_locations"]))
    places = ("l1", "l2", "memory", "register", "texture", "shared", "cbu", "sram")
    for kind, kind_name in enumerate(("corrected", "uncorrected")):
        for lifetime, lifetime_name in enumerate(("volatile", "aggregate")):
            for place, name in enumerate(places):
                found = board.value(0, f"ecc_{kind_name}_{lifetime_name}_{name}")
                assert found == (5 + kind * 1000 + lifetime * 100 + place, OK)


def test_fabric(stub, nvml, board):
    stub.fabric.state, stub.fabric.status, stub.fabric.health_mask = 3, 999, 0x51
    nvml.sample(board, group_mask(["fabric"]))
    assert board.value(0, "fabric_state") == (3, OK)
    assert board.value(0, "fabric_status") == (999, OK)
    assert board.value(0, "fabric_health_mask") == (0x51, OK)


def test_a_fabric_probe_under_way_has_no_status(stub, nvml, board):
    stub.fabric.state, stub.fabric.status = 2, 0
    nvml.sample(board, group_mask(["fabric"]))
    assert board.value(0, "fabric_state") == (2, OK)
    assert board.value(0, "fabric_status")[1] == ABSENT


def test_a_device_without_fabric_has_no_state(stub, nvml, board):
    nvml.sample(board, group_mask(["fabric"]))
    assert board.value(0, "fabric_state")[1] == UNSUPPORTED


@pytest.mark.parametrize(("number", "field", "unit"), LINK_FIELD_VALUES)
def test_links_arrive_one_by_one(stub, nvml, board, number, field, unit):
    stub.field(91, 18, type=U32)
    stub.field(number, 1000)
    nvml.sample(board, group_mask(["links", "link_errors"]))
    assert board.read(1)["links"][0] == 18
    assert [link_value(board, link, field) for link in (0, 17)] == [(1000, OK), (1017, OK)]
    assert link_value(board, 18, field)[1] == NOT_READ


@pytest.mark.parametrize(("raw", "up"), [(0, 0), (1, 1), (2, 1), (3, 0)])
def test_a_link_is_up_when_it_can_carry_data(stub, nvml, board, raw, up):
    stub.field(91, 1, type=U32)
    stub.field(165, raw, type=U32)
    nvml.sample(board, group_mask(["links"]))
    assert link_value(board, 0, "state") == (up, OK)


@pytest.mark.parametrize(
    ("field", "kind"), [("crc_data_errors", 3), ("ecc_data_errors", 4)], ids=["crc data", "ecc data"]
)
def test_link_errors_that_only_a_call_tells(stub, nvml, board, field, kind):
    stub.field(91, 2, type=U32)
    stub.answer("link_error").value = 100
    nvml.sample(board, group_mask(["link_errors"]))
    assert [link_value(board, link, field) for link in (0, 1)] == [(100 + kind, OK), (110 + kind, OK)]


def test_every_field_of_nvml_is_in_one_of_the_two_sets_of_groups():
    told = {field for _, field, _, _ in FIELD_VALUES} | {call[2] for call in CALLS}
    assert {group for *_, group in FIELD_VALUES} | {call[-1] for call in CALLS} <= set(HOT_GROUPS + SLOW_GROUPS)
    assert told <= set(FIELDS)
    assert set(HOT_GROUPS).isdisjoint(SLOW_GROUPS)


# ---- times, calls in flight ----


def test_a_call_is_marked_while_it_runs_and_its_time_is_counted(stub, nvml, board):
    stub.set("sleep_us", 200_000)
    started_ns = time.monotonic_ns()
    thread = threading.Thread(target=nvml.sample, args=(board, group_mask(["utilization"])))
    thread.start()
    time.sleep(0.1)
    call = board.in_flight(0)
    thread.join()
    assert call is not None
    assert (call.group, call.slot) == ("utilization", 0)
    assert module.FUNCTIONS[call.function] == "nvmlDeviceGetUtilizationRates"
    assert call.thread == thread.native_id
    assert started_ns <= call.started_ns <= started_ns + 100_000_000
    assert board.in_flight(0) is None
    times = board.call_times("utilization")
    assert times.calls == sum(times.buckets) == 1
    assert times.buckets[27] + times.buckets[28] == 1
    assert 200_000_000 <= times.sum_ns < 600_000_000


def test_at_and_took_are_of_the_monotonic_clock(stub, nvml, board):
    stub.set("sleep_us", 10_000)
    before_ns = time.monotonic_ns()
    nvml.sample(board, group_mask(["utilization"]))
    sample = board.read(1)[0]
    assert before_ns <= sample["at_ns"] <= time.monotonic_ns() - 10_000_000
    assert sample["took_ns"] >= 10_000_000
    assert sample["samples"] == board.beat == 1


def test_only_watched_slots_of_the_mask_are_sampled(stub, nvml, board):
    nvml.watch_index(5, 1)
    nvml.sample(board, group_mask(["clocks"]), slots=1 << 5 | 1 << 6)
    assert board.read()["samples"].nonzero()[0].tolist() == [5]
    nvml.forget(5)
    assert nvml.watched == 1
    nvml.sample(board, group_mask(["clocks"]))
    assert board.read()["samples"][[0, 5]].tolist() == [1, 1]


def test_our_words_for_return_codes_cover_pynvmls():
    known = {code for name, code in vars(pynvml).items() if name.startswith("NVML_ERROR_") and isinstance(code, int)}
    assert {4, 9, 12, 13, 15, 16, 18, 999} <= known & set(module._RETURNS)
    assert all(module.return_text(code) for code in known)


def test_names_of_groups_are_words():
    assert set(HOT_GROUPS + SLOW_GROUPS) <= set(GROUPS)
    assert len(FIELD) == len(FIELDS)


def test_a_second_library_has_devices_of_its_own(stub, nvml, nvml_stub, board, tmp_path):
    other = nvml_stub.Stub(nvml_stub.compile_stub(tmp_path / "other.so"))
    other.answer("fan").value = 20
    with Nvml(other.path) as second:
        second.init()
        second.watch(1, "GPU-a")
        second.sample(board, group_mask(["fan"]))
        nvml.sample(board, group_mask(["fan"]))
    assert board.value(1, "fan_ratio") == (pytest.approx(0.2), OK)
    assert board.value(0, "fan_ratio") == (0, OK)
