"""Readings of Ascend NPUs: each field, from the simulated library through dlopen onto a board."""

from __future__ import annotations

import math
import threading
import time

import pytest

from eagle_eye.native.dcmi import FUNCTIONS, HOT_GROUPS, SECOND_GROUPS, TURN_GROUPS, Dcmi
from eagle_eye.native.dcmi_types import numa_node
from eagle_eye.native.device import ABSENT, FIELD, GROUP, LINK_FIELDS, NOT_READ, OK, UNSUPPORTED, Board, group_mask
from eagle_eye.native.errors import DeviceError, UnavailableError
from eagle_eye.native.simulator.block import LIBRARIES, quantities
from eagle_eye.native.simulator.simulation import VARIABLE, Simulation

GIB = 1 << 30
OF_ALL_UNITS = "utilization_ratio"  # without it the library lacks the one call that tells all units
ONCE = group_mask((*HOT_GROUPS, *SECOND_GROUPS))


@pytest.fixture
def machine(monkeypatch):
    with Simulation("ascend910bx8") as simulation:
        monkeypatch.setenv(VARIABLE, str(simulation.path))
        yield simulation


@pytest.fixture
def npus(machine):
    with Dcmi(LIBRARIES / "libdcmi.so") as dcmi:
        dcmi.init()
        dcmi.watch(0, 0)
        yield dcmi


@pytest.fixture
def board():
    board = Board.create()
    yield board
    board.close()


def unmeasured(machine, *names):
    with machine._block.lock(), machine._block.edit(0) as device:
        for name in names:
            device.value[quantities()[name]].base = math.nan


@pytest.mark.parametrize(
    ("setting", "value", "field", "expected"),
    [
        ("power_watts", 287.3, "power_watts", 287.3),
        ("temperature_celsius", 61, "temperature_celsius", 61),
        ("memory_temperature_celsius", 66, "memory_temperature_celsius", 66),
        ("memory_total_bytes", 64 * GIB, "memory_total_bytes", 64 * GIB),
        ("memory_used_bytes", 20 * GIB, "memory_used_bytes", 20 * GIB),
        ("memory_bandwidth_ratio", 0.57, "memory_bandwidth_ratio", 0.57),
        ("clock_memory_hertz", 1.6e9, "clock_memory_hertz", 1.6e9),
        ("utilization_ratio", 0.93, "utilization_ratio", 0.93),
        ("aicore_ratio", 0.88, "aicore_ratio", 0.88),
        ("vector_ratio", 0.41, "vector_ratio", 0.41),
        ("cube_ratio", 0.72, "cube_ratio", 0.72),
        ("clock_aicore_hertz", 1.2e9, "clock_aicore_hertz", 1.2e9),
        ("clock_aicore_max_hertz", 1.8e9, "clock_aicore_max_hertz", 1.8e9),
        ("clock_vector_hertz", 1.1e9, "clock_vector_hertz", 1.1e9),
        ("clock_control_cpu_hertz", 2e9, "clock_control_cpu_hertz", 2e9),
        ("clock_ddr_hertz", 1.3e9, "clock_ddr_hertz", 1.3e9),
        ("voltage_volts", 0.57, "voltage_volts", 0.57),
        ("health", 3, "health", 3),
        ("error_codes", "0x80E01801,0x81078603", "error_codes", 2),
        ("ecc_corrected_volatile_dram", 5, "ecc_corrected_volatile_memory", 5),
        ("ecc_uncorrected_volatile_dram", 6, "ecc_uncorrected_volatile_memory", 6),
        ("ecc_corrected_aggregate_dram", 7, "ecc_corrected_aggregate_memory", 7),
        ("ecc_uncorrected_aggregate_dram", 8, "ecc_uncorrected_aggregate_memory", 8),
        ("ecc_corrected_volatile_sram", 9, "ecc_corrected_volatile_sram", 9),
        ("ecc_uncorrected_aggregate_sram", 4, "ecc_uncorrected_aggregate_sram", 4),
        ("retired_pages_corrected", 2, "retired_pages_single_bit", 2),
        ("retired_pages_uncorrected", 3, "retired_pages_double_bit", 3),
        ("pcie_replays", 12, "pcie_replays", 12),
        ("pcie_correctable_errors", 13, "pcie_correctable_errors", 13),
        ("pcie_nonfatal_errors", 14, "pcie_non_fatal_errors", 14),
        ("network_health", 3, "network_health", 3),
        ("roce_tx_packets", 101, "roce_tx_packets", 101),
        ("roce_rx_packets", 102, "roce_rx_packets", 102),
        ("roce_tx_errors", 103, "roce_tx_errors", 103),
        ("roce_rx_errors", 104, "roce_rx_errors", 104),
        ("roce_tx_pfc_packets", 107, "roce_tx_pfc_packets", 107),
        ("roce_rx_pfc_packets", 108, "roce_rx_pfc_packets", 108),
        ("roce_retries", 109, "roce_retries", 109),
        ("sio_tx_errors", 11, "sio_tx_errors", 11),
        ("sio_rx_errors", 12, "sio_rx_errors", 12),
    ],
)
def test_each_field_in_base_units(machine, npus, board, setting, value, field, expected):
    machine.set(0, {setting: value, **still(setting)})
    npus.sample(board, ONCE)
    reading, status = board.value(0, field)
    assert status == OK
    assert reading == pytest.approx(expected, rel=1e-12)


def still(setting):
    return {} if setting == "error_codes" else {f"{setting}.wobble": 0}


def test_counters_of_bytes(machine, npus, board):
    machine.set(0, {"roce_tx_bytes.rate": 0, "roce_tx_bytes": 1e12, "roce_rx_bytes.rate": 0, "roce_rx_bytes": 2e12})
    npus.sample(board, ONCE)
    assert board.value(0, "roce_tx_bytes") == (1e12, OK)
    assert board.value(0, "roce_rx_bytes") == (2e12, OK)


def test_ddr_where_there_is_some(machine, npus, board):
    npus.sample(board, ONCE)
    assert board.value(0, "ddr_total_bytes")[1] == ABSENT
    machine.set(0, {"ddr_total_bytes": 16 * GIB, "ddr_used_bytes": 3 * GIB})
    npus.sample(board, ONCE)
    assert board.value(0, "ddr_total_bytes") == (16 * GIB, OK)
    assert board.value(0, "ddr_used_bytes") == (3 * GIB, OK)


def test_what_dcmi_cannot_say_is_absent_never_zero(npus, board):
    npus.sample(board, ONCE)
    for field in ("energy_joules", "optical_present", "retired_pages_pending_single_bit", "ecc_corrected_volatile_ddr"):
        value, status = board.value(0, field)
        assert math.isnan(value)
        assert status in (UNSUPPORTED, NOT_READ, ABSENT)


def test_disabled_ecc_counts_nothing(machine, npus, board):
    machine.set(0, ecc_mode=0)
    npus.sample(board, ONCE)
    assert board.value(0, "ecc_corrected_volatile_memory")[1] == ABSENT


def test_no_isolated_pages_of_single_bit_errors_means_that_nothing_counts_them(npus, board):
    npus.sample(board, ONCE)
    assert board.value(0, "retired_pages_single_bit")[1] == ABSENT
    assert board.value(0, "retired_pages_double_bit") == (0, OK)


@pytest.mark.parametrize("sentinel", [0x7FFD, 0x7FFF])
def test_a_sensor_that_failed_has_no_temperature(machine, npus, board, sentinel):
    machine.set(0, {"temperature_celsius": sentinel, "temperature_celsius.wobble": 0})
    npus.sample(board, ONCE)
    value, status = board.value(0, "temperature_celsius")
    assert math.isnan(value)
    assert status == ABSENT


def test_cold_is_no_error(machine, npus, board):
    machine.set(0, {"temperature_celsius": -20, "temperature_celsius.wobble": 0})
    npus.sample(board, ONCE)
    assert board.value(0, "temperature_celsius") == (-20, OK)


def link_value(board, link, field):
    sample = board.pointer.samples[0]
    place = LINK_FIELDS.index(field)
    return sample.link_value[link][place], sample.link_status[link][place]


def test_hccs_links(machine, npus, board):
    machine.set(0, {"link.2.crc_flit_errors": 40, "link.2.replay_errors": 41, "link.3.up": 0, "links": 7})
    machine.set(0, {"link.2.tx_packets.rate": 0, "link.2.tx_packets": 7e12})
    npus.sample(board, ONCE)
    assert link_value(board, 2, "crc_errors") == (40, OK)
    assert link_value(board, 2, "replays") == (41, OK)
    assert link_value(board, 2, "tx_packets") == (7e12, OK)
    assert link_value(board, 2, "state") == (1, OK)
    assert link_value(board, 3, "state") == (0, OK)
    assert link_value(board, 7, "crc_errors")[1] == ABSENT


def turns(dcmi, board, groups, count):
    for _ in range(count):
        dcmi.sample(board, group_mask(groups))


def test_one_device_and_one_group_have_their_turn(npus, board):
    npus.watch(1, 1)
    turns(npus, board, TURN_GROUPS, 1)
    assert sorted(read_at(board, slot, group) for slot in (0, 1) for group in TURN_GROUPS).count(0) == 3
    turns(npus, board, TURN_GROUPS, 3)
    assert 0 not in [read_at(board, slot, group) for slot in (0, 1) for group in TURN_GROUPS]


def read_at(board, slot, group):
    return board.pointer.samples[slot].group_at_ns[GROUP[group]]


def test_a_slow_call_takes_what_it_takes_on_hardware(npus, board):
    turns(npus, board, ["utilization_by_unit"], 1)
    assert board.pointer.samples[0].took_ns >= 36e6
    assert board.call_times("utilization_by_unit").calls == 1


def test_units_that_only_the_slow_call_tells(npus, board):
    npus.sample(board, ONCE)
    turns(npus, board, ["utilization_by_unit"], 2)
    for field in ("aicpu_ratio", "control_cpu_ratio"):
        assert board.value(0, field)[1] == OK
    assert board.call_times("utilization_by_unit").sum_ns < 3 * 36e6  # nothing that one hot call tells


def test_without_the_call_for_all_units_each_is_asked_for(machine, npus, board):
    unmeasured(machine, OF_ALL_UNITS, "vector_ratio")
    for _ in range(6):
        npus.sample(board, group_mask((*HOT_GROUPS, "utilization_by_unit")))
    assert board.value(0, "aicore_ratio")[1] == OK
    assert board.value(0, "cube_ratio")[1] == OK


def test_success_with_0_or_100_of_a_unit_that_is_not_measured_is_no_reading(machine, npus, board):
    unmeasured(machine, OF_ALL_UNITS, "vector_ratio")  # read as 100 and 0, with success
    turns(npus, board, ["utilization_by_unit"], 6)
    assert board.value(0, "utilization_ratio")[1] == ABSENT
    assert board.value(0, "vector_ratio")[1] == ABSENT


def test_a_unit_that_moved_is_measured_also_at_0(machine, npus, board):
    unmeasured(machine, OF_ALL_UNITS)
    turns(npus, board, ["utilization_by_unit"], 6)
    machine.set(0, {"vector_ratio": 0, "vector_ratio.wobble": 0})
    turns(npus, board, ["utilization_by_unit"], 6)
    assert board.value(0, "vector_ratio") == (0, OK)


def test_bandwidth(machine, npus, board):
    machine.set(0, {"pcie_tx_bytes.rate": 3e9, "pcie_rx_bytes.rate": 5e9, "link.1.tx_bytes.rate": 2.5e9})
    npus.sample(board, ONCE)
    turns(npus, board, ["bandwidth"], 1)
    assert board.value(0, "pcie_tx_bytes_per_second") == (3e9, OK)
    assert board.value(0, "pcie_rx_bytes_per_second") == (5e9, OK)
    assert link_value(board, 1, "tx_bytes_per_second") == (2.5e9, OK)
    assert link_value(board, 7, "tx_bytes_per_second")[1] == ABSENT


def test_a_lost_device_is_gone_and_its_values_with_it(machine, npus, board):
    npus.watch(1, 1)
    npus.sample(board, ONCE)
    machine.set(0, lost=1)
    assert npus.sample(board, ONCE) == 1
    assert board.pointer.samples[0].error == -8008
    assert math.isnan(board.value(0, "power_watts")[0])
    assert board.pointer.samples[1].error == 0
    with pytest.raises(DeviceError, match="not there"):
        npus.identity(0)


def test_health_all_ones_means_that_there_is_no_device(machine, npus, board):
    machine.set(0, health=0xFFFFFFFF)
    assert npus.sample(board, ONCE) == 1
    assert board.pointer.samples[0].error == -8008
    assert board.value(0, "health")[1] == ABSENT


GROUP_FIELDS = {
    "utilization": "aicore_ratio",
    "memory": "memory_used_bytes",
    "temperature": "temperature_celsius",
    "power": "power_watts",
    "clocks": "clock_aicore_hertz",
    "health": "health",
    "ecc": "ecc_corrected_volatile_memory",
    "pcie_errors": "pcie_replays",
    "network": "network_health",
    "ddr": "ddr_total_bytes",
}


@pytest.mark.parametrize("group", GROUP_FIELDS)
@pytest.mark.parametrize("code", [-8001, -8002, -8005, -8006, -8009, -8012, -8013, -8017, -8020])
def test_each_return_code_is_the_status_of_its_group_alone(machine, npus, board, group, code):
    machine.set(0, {f"call.{group}.code": code})
    npus.sample(board, ONCE)
    value, status = board.value(0, GROUP_FIELDS[group])
    assert math.isnan(value)
    assert status == code
    machine.set(0, {f"call.{group}.code": 0, "ddr_total_bytes": GIB})
    npus.sample(board, ONCE)
    assert board.value(0, GROUP_FIELDS[group])[1] == OK
    assert board.pointer.samples[0].error == 0


def test_not_supported_is_unsupported(machine, npus, board):
    machine.set(0, {"call.power.code": -8255})
    npus.sample(board, ONCE)
    assert board.value(0, "power_watts")[1] == UNSUPPORTED


def test_a_call_that_hangs_is_named_and_holds_up_no_thread_of_python(machine, npus, board):
    machine.set(0, {"call.power.hang": 1})
    sampler = threading.Thread(target=npus.sample, args=(board, ONCE))
    sampler.start()
    until = time.monotonic() + 10
    while (call := board.in_flight(0)) is None or call.group != "power":
        assert time.monotonic() < until
    assert (call.slot, FUNCTIONS[call.function]) == (0, "dcmi_get_device_power_info")
    assert sampler.is_alive()
    machine.set(0, {"call.power.hang": 0})
    sampler.join(10)
    assert not sampler.is_alive()
    assert board.in_flight(0) is None
    assert board.value(0, "power_watts")[1] == OK


def test_identity(machine, npus):
    machine.set(0, {"pci_bus": 0xC1, "pci_domain": 1})
    with machine._block.lock(), machine._block.edit(0) as device:
        device.identity.serial = b"21\x1b[31m0"
    identity = npus.identity(0)
    assert identity.name == "Ascend 910B3"
    assert identity.pci_address == "0001:c1:00.0"
    assert identity.uuid == "5E1EC7ED-03000000-40000000-80000000-00000000"
    assert identity.serial == "21 [31m0"
    assert identity.firmware == "7.5.0.1.129"
    assert identity.version == "V1"
    assert identity.aicores == 20
    assert identity.boot_status == 3
    assert identity.cpus == "0-23"


def test_processes_faults_instances_topology(machine, npus):
    machine.set(0, {"process.4242.memory_bytes": 10 * GIB, "error_codes": "0x80E01801"})
    machine.set(0, {"instance.0.name": "vir05_1c_16g", "instance.0.gpu_instance": 100, "instance.0.slices": 5})
    machine.set(0, {"instance.0.memory_total_bytes": 16 * GIB, "instance.0.utilization_ratio": 0.5})
    assert [(p.pid, p.memory_bytes) for p in npus.processes(0)] == [(4242, 10 * GIB)]
    assert npus.fault_codes(0) == (0x80E01801,)
    (vnpu,) = npus.instances(0)
    assert (vnpu.id, vnpu.name, vnpu.aicores) == (100, "vir05_1c_16g", 5)
    assert (vnpu.memory_bytes, vnpu.utilization_ratio) == (16 * GIB, 0.5)
    assert npus.topology(0, 0) == "self"
    assert npus.topology(0, 1) == "hccs"
    assert npus.topology(0, 99) == ""


def test_lists_fail_with_words(machine, npus):
    machine.set(0, {"call.processes.code": -8013})
    with pytest.raises(UnavailableError, match="in a container") as failed:
        npus.processes(0)
    assert "outside the container" in failed.value.remedy
    with pytest.raises(DeviceError, match="does not know this device"):
        npus.fault_codes(63)


def test_devices_come_and_go(machine, npus, board):
    assert (npus.count(), npus.reported_count()) == (8, 8)
    machine.set(7, present=0)
    assert (npus.find(), npus.reported_count()) == (7, 7)
    machine.set("node", reported_count=8)
    assert npus.reported_count() == 8
    with pytest.raises(DeviceError, match="cannot be watched"):
        npus.watch(1, 7)
    machine.set(7, present=1)
    assert npus.find() == 8


def test_a_watched_device_stays_the_same_when_others_leave(machine, npus, board):
    npus.watch(5, 5)
    machine.set(0, present=0)
    npus.find()
    machine.set(5, {"power_watts": 123.4, "power_watts.wobble": 0})
    npus.sample(board, ONCE)
    assert board.value(5, "power_watts") == (123.4, OK)


def test_numa_node_of_a_cpu_list(tmp_path):
    for node, cpus in ((0, "0-23,96-119"), (1, "24-47,120-143")):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    assert numa_node("24-47", tmp_path) == 1
    assert numa_node("0-23,96-119", tmp_path) == 0
    assert numa_node("0-47", tmp_path) is None
    assert numa_node("", tmp_path) is None
    assert numa_node("99999999-0", tmp_path) is None


def test_field_names_are_those_of_the_board():
    assert set(GROUP_FIELDS.values()) <= set(FIELD)
