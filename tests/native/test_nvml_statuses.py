"""Older drivers, devices that cannot tell, that are lost, that answer what cannot be."""

from __future__ import annotations

import math

import pytest

from eagle_eye.native import nvml as module
from eagle_eye.native.device import ABSENT, GROUP, LINK_FIELDS, OK, OUT_OF_RANGE, UNSUPPORTED, group_mask
from eagle_eye.native.nvml import HOT_GROUPS, SLOW_GROUPS

ALL = group_mask(HOT_GROUPS + SLOW_GROUPS)
DOUBLE, U32, U64, S32 = 0, 1, 3, 5
ALL_ONES_32, ALL_ONES_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def link_value(board, link: int, field: str) -> tuple[float, int]:
    sample, number = board.read(1)[0], LINK_FIELDS.index(field)
    return float(sample["link_value"][link, number]), int(sample["link_status"][link, number])


# ---- older drivers, other devices ----


def test_links_before_nvlink_5_count_kibibytes(stub, nvml, board):
    stub.field(91, 1, type=U32)
    for number in (202, 204, 215):
        stub.field(number, 0, status=3)
    stub.field(138, 7)
    stub.field(139, 8)
    stub.field(162, 9)
    for _ in range(2):
        nvml.sample(board, group_mask(["links", "link_errors"]))
    assert link_value(board, 0, "tx_bytes") == (7 * 1024, OK)
    assert link_value(board, 0, "rx_bytes") == (8 * 1024, OK)
    assert link_value(board, 0, "recoveries") == (9, OK)


def test_one_failure_of_the_newer_counter_does_not_bring_in_the_older(stub, nvml, board):
    stub.field(91, 1, type=U32)
    stub.field(202, 5_000_000)
    stub.field(138, 7)
    nvml.sample(board, group_mask(["links"]))
    stub.field(202, 0, status=999)
    for _ in range(2):
        nvml.sample(board, group_mask(["links"]))
    assert link_value(board, 0, "tx_bytes")[1] == 999


def test_links_of_the_oldest_drivers_are_counted_and_read_by_calls(stub, nvml, board):
    for number in range(512):
        stub.field(number, 0, status=3)
    stub.answer("link_state").value = 1
    stub.answer("link_error").value = 100
    for _ in range(2):
        nvml.sample(board, group_mask(["links", "link_errors"]))
    assert board.read(1)["links"][0] == 36
    assert link_value(board, 0, "state") == (1, OK)
    assert link_value(board, 1, "crc_errors") == (112, OK)
    assert link_value(board, 1, "replays") == (110, OK)
    assert link_value(board, 1, "recoveries") == (111, OK)
    assert link_value(board, 0, "symbol_errors")[1] == UNSUPPORTED


def test_power_is_asked_for_where_there_is_no_field_for_it(stub, nvml, board):
    stub.field(186, 0, status=3)
    stub.answer("power").value = 350_000
    for _ in range(2):
        nvml.sample(board, group_mask(["power"]))
    assert board.value(0, "power_watts") == (350, OK)
    assert stub.answer("power").calls == 2


def test_memory_of_an_older_driver(stub, nvml, board):
    stub.memory.total, stub.memory.reserved, stub.memory.free, stub.memory.used = 1000, 100, 300, 600
    stub.answer("memory_v2").code = 25
    nvml.sample(board, group_mask(["memory"]))
    assert board.value(0, "memory_used_bytes") == (700, OK)
    assert board.value(0, "memory_reserved_bytes")[1] == ABSENT


def test_fabric_of_an_older_driver(stub, nvml, board):
    stub.set("fabric_version", 0x02000024)
    stub.fabric.state, stub.fabric.health_mask = 3, 7
    nvml.sample(board, group_mask(["fabric"]))
    assert board.value(0, "fabric_health_mask") == (7, OK)


def test_fabric_of_a_driver_without_versions(stub, nvml, board):
    stub.set("fabric_version", 0)
    stub.fabric.state, stub.fabric.status, stub.fabric.health_mask = 3, 5, 7
    nvml.sample(board, group_mask(["fabric"]))
    assert board.value(0, "fabric_state") == (3, OK)
    assert board.value(0, "fabric_status") == (5, OK)
    assert board.value(0, "fabric_health_mask")[1] == ABSENT
    assert stub.answer("fabric_v1").calls == 1


def test_what_a_device_cannot_tell_is_not_asked_again(stub, nvml, board):
    stub.answer("fan").code = 3
    for _ in range(5):
        nvml.sample(board, group_mask(["fan"]))
    assert board.value(0, "fan_ratio")[1] == UNSUPPORTED
    assert stub.answer("fan").calls == 1


def test_a_library_that_refuses_a_batch_for_one_unknown_id_still_tells_the_rest(stub, nvml, board):
    stub.set("refuse_field", 270)
    stub.field(74, 5)
    for _ in range(3):
        nvml.sample(board, group_mask(["throttle"]))
    assert board.value(0, "throttle_power_cap_seconds") == (pytest.approx(5e-9), OK)
    assert board.value(0, "throttle_hw_thermal_seconds")[1] == UNSUPPORTED
    assert stub.get("batches") == 3


# ---- what is no reading ----


@pytest.mark.parametrize("code", sorted(set(module._RETURNS) - {1, 3, 13, 15, 16, 18}))
def test_each_return_code_is_the_status_of_its_value(stub, nvml, board, code):
    stub.answer("fan").code = code
    stub.field(186, 5, status=code)
    nvml.sample(board, group_mask(["fan", "power"]))
    value, status = board.value(0, "fan_ratio")
    assert (math.isnan(value), status) == (True, code)
    assert board.value(0, "power_watts")[1] == (code if code != 2 else OK)
    assert board.value(0, "energy_joules")[1] == OK


@pytest.mark.parametrize("code", [1, 15, 16, 18])
def test_a_device_that_is_gone_is_asked_nothing_more(stub, nvml, board, code):
    stub.answer("utilization").code = code
    nvml.watch(1, "GPU-b")
    assert nvml.sample(board, ALL) == 2
    assert board.read(1)["error"][0] == code
    assert stub.answer("clock").calls == 0
    assert stub.answer("utilization").calls == 2
    assert board.value(0, "clock_sm_hertz")[1] == code
    stub.answer("utilization").code = 0
    assert nvml.sample(board, ALL) == 0
    assert board.read(1)["error"][0] == 0
    assert board.value(0, "clock_sm_hertz")[1] == OK


def test_a_device_that_is_lost_between_two_fields(stub, nvml, board):
    stub.field(186, 5, status=15)
    assert nvml.sample(board, group_mask(["power", "clocks"])) == 1
    assert board.value(0, "clock_sm_hertz")[1] == 15


@pytest.mark.parametrize(
    ("bits", "type"), [(ALL_ONES_32, U32), (ALL_ONES_64, U64), (ALL_ONES_64, 2), (ALL_ONES_32, S32), (ALL_ONES_64, 4),
                       (0xFFFF, 6), (0x7FF8000000000000, DOUBLE), (1, 7), (1, 0xFFFFFFFF)],
)  # fmt: skip
def test_a_sentinel_is_absent_whatever_its_type(stub, nvml, board, bits, type):
    stub.field(83, bits, type=type)
    nvml.sample(board, group_mask(["power"]))
    value, status = board.value(0, "energy_joules")
    assert math.isnan(value)
    assert status == ABSENT


@pytest.mark.parametrize(
    ("bits", "type", "joules"),
    [(7000, U32, 7), (1 << 40, 2, (1 << 40) / 1000), (7000, 4, 7), (7000, S32, 7), (7000, 6, 7),
     (0x40BB580000000000, DOUBLE, 7)],
)  # fmt: skip
def test_values_of_every_type(stub, nvml, board, bits, type, joules):
    stub.field(83, bits, type=type)
    nvml.sample(board, group_mask(["power"]))
    assert board.value(0, "energy_joules") == (joules, OK)


@pytest.mark.parametrize(
    ("name", "raw", "field", "status"),
    [
        ("utilization", 300, "utilization_ratio", OUT_OF_RANGE),
        ("utilization", ALL_ONES_32, "utilization_ratio", ABSENT),
        ("temperature_v1", 5000, "temperature_celsius", OUT_OF_RANGE),
        ("clock", ALL_ONES_32, "clock_graphics_hertz", ABSENT),
        ("clock", 4_000_000_000, "clock_graphics_hertz", OUT_OF_RANGE),
        ("performance_state", 32, "performance_state", ABSENT),
        ("performance_state", 16, "performance_state", OUT_OF_RANGE),
        ("event_reasons", ALL_ONES_64, "clock_event_reasons", ABSENT),
        ("fan", 1000, "fan_ratio", OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_is_no_reading(stub, nvml, board, name, raw, field, status):
    stub.answer(name).value = raw
    nvml.sample(board, ALL)
    value, found = board.value(0, field)
    assert (math.isnan(value), found) == (True, status)


def test_more_memory_in_use_than_there_is(stub, nvml, board):
    stub.memory.total, stub.memory.used = 1000, 1001
    nvml.sample(board, group_mask(["memory"]))
    assert board.value(0, "memory_used_bytes")[1] == OUT_OF_RANGE


def test_a_number_of_links_that_cannot_be_is_cut(stub, nvml, board):
    stub.field(91, 5000, type=U32)
    nvml.sample(board, group_mask(["links", "link_errors"]))
    assert board.read(1)["links"][0] == 36


def test_a_group_that_was_not_asked_for_keeps_its_values(stub, nvml, board):
    stub.answer("fan").value = 50
    nvml.sample(board, group_mask(["fan"]))
    first = board.read(1)["group_at_ns"][0].copy()
    nvml.sample(board, group_mask(["clocks"]))
    now = board.read(1)["group_at_ns"][0]
    assert board.value(0, "fan_ratio") == (0.5, OK)
    assert now[GROUP["fan"]] == first[GROUP["fan"]]
    assert now[GROUP["clocks"]] > 0
    assert now[GROUP["memory"]] == 0
