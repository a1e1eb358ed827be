"""Unmodified pynvml on the simulated NVML: identity, readings, processes, partitions, topology."""

from __future__ import annotations

import os
import time

import pytest


def test_everything_says_that_it_is_simulated(h100x8, ask):
    names = ask(
        h100x8,
        """
import ctypes
library = ctypes.CDLL("libnvidia-ml.so.1")
tell([nvml.nvmlDeviceGetName(gpu(0)), nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetNVMLVersion(),
      ctypes.c_int.in_dll(library, "eagle_eye_simulated").value])
""",
    )
    assert names[:2] == ["NVIDIA H100 80GB HBM3 (simulated)", "550.127.05 (simulated)"]
    assert names[2].endswith("(simulated)")
    assert names[3] == 1


def test_a_longer_name_than_the_buffer_is_refused_and_not_cut(h100x8, ask):
    lines = """
library = ctypes.CDLL("libnvidia-ml.so.1")
room = ctypes.create_string_buffer(64)
tell([library.nvmlDeviceGetName(gpu(0), room, 33), library.nvmlDeviceGetName(gpu(0), room, 34), room.value])
"""
    assert ask(h100x8, lines) == [7, 0, "NVIDIA H100 80GB HBM3 (simulated)"]


def test_devices_are_found_by_index_uuid_serial_and_pci_address(h100x8, ask):
    same = ask(
        h100x8,
        """
one = gpu(5)
pci = nvml.nvmlDeviceGetPciInfo(one)
others = [nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(one)),
          nvml.nvmlDeviceGetHandleBySerial(nvml.nvmlDeviceGetSerial(one)),
          nvml.nvmlDeviceGetHandleByPciBusId(pci.busId)]
tell([nvml.nvmlDeviceGetCount(), pci.busId, [nvml.nvmlDeviceGetIndex(other) for other in others],
      error(nvml.nvmlDeviceGetHandleByUUID, b"GPU-none"), error(gpu, 8)])
""",
    )
    assert same == [8, "00000000:C3:00.0", [5, 5, 5], 6, 2]


def test_set_values_are_what_callers_read_at_once(h100x8, begin):
    lines = """
for line in sys.stdin:
    one = gpu(3)
    use, memory = nvml.nvmlDeviceGetUtilizationRates(one), nvml.nvmlDeviceGetMemoryInfo(one, nvml.nvmlMemory_v2)
    tell({"gpu": use.gpu, "memory": use.memory, "used": memory.used, "free": memory.free,
          "celsius": nvml.nvmlDeviceGetTemperature(one, 0), "mw": nvml.nvmlDeviceGetPowerUsage(one),
          "sm": nvml.nvmlDeviceGetClockInfo(one, nvml.NVML_CLOCK_SM), "state": nvml.nvmlDeviceGetPerformanceState(one),
          "reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(one)})
"""
    with begin(h100x8, lines) as child:
        child.say()
        child.told()
        h100x8.set(3, utilization_ratio="12%", memory_utilization_ratio=0.34, memory_used_bytes="3GiB")
        h100x8.set(3, temperature_celsius=88, power_watts=123.4, clock_sm_hertz="1.2GHz", performance_state=2)
        h100x8.set(3, clock_event_reasons=0x40)
        child.say()
        found = child.told()
    assert found == {
        **{"gpu": 12, "memory": 34, "used": 3 << 30, "free": (81559 - 551 - 3072) << 20, "celsius": 88},
        **{"mw": 123400, "sm": 1200, "state": 2, "reasons": 64},
    }


FIELDS = {
    "ecc_corrected_volatile_dram": (11, 1),
    "ecc_uncorrected_aggregate_l2": (21, 1),
    "throttle_hw_thermal_seconds": (270, 1e9),
    "memory_temperature_celsius": (82, 1),
    "pcie_replays": (94, 1),
    "pcie_tx_bytes": (197, 1),
    "remapped_rows_pending": (144, 1),
    "remapped_rows_failed": (145, 1),
    "power_watts": (186, 1000),
    "recovery_action": (230, 1),
}


def test_field_values_are_the_quantities_in_the_units_of_nvml(h100x8, ask):
    wanted = {name: 3 + place for place, name in enumerate(FIELDS)}
    h100x8.set(0, {f"{name}": value for name, value in wanted.items()})
    h100x8.set(0, {"pcie_tx_bytes.rate": 0})
    ids = [field for field, _ in FIELDS.values()]
    lines = "tell([[v.nvmlReturn, v.value.uiVal if v.valueType == 1 else v.value.ullVal] for v in\n"
    lines += f"      nvml.nvmlDeviceGetFieldValues(gpu(0), {ids})])"
    found = ask(h100x8, lines)
    for (name, (_, scale)), (status, value) in zip(FIELDS.items(), found, strict=True):
        assert status == 0, name
        assert value == pytest.approx(wanted[name] * scale, rel=1e-6, abs=1e9 * 0.5 if "bytes" in name else 0), name


def test_links_are_read_one_by_one_and_all_together(h100x8, ask):
    h100x8.set(2, {"link.all.crc_flit_errors": 2, "link.4.crc_flit_errors": 40, "link.4.up": 0})
    assert ask(
        h100x8,
        """
one = gpu(2)
def crc(link): return nvml.nvmlDeviceGetFieldValues(one, [(163, link)])[0]
tell([crc(4).value.ullVal, crc(5).value.ullVal, crc(0xffffffff).value.ullVal, crc(18).nvmlReturn,
      nvml.nvmlDeviceGetNvLinkState(one, 4), nvml.nvmlDeviceGetNvLinkState(one, 5),
      nvml.nvmlDeviceGetNvLinkVersion(one, 5),
      error(nvml.nvmlDeviceGetNvLinkState, one, 18), error(nvml.nvmlDeviceGetNvLinkState, one, 36)])
""",
    ) == [40, 2, 17 * 2 + 40, 3, 0, 1, 4, 3, 2]


def test_rows_pages_and_ecc(h100x8, ask):
    h100x8.set(1, remapped_rows_correctable=1, remapped_rows_uncorrectable=2, remapped_rows_pending=1, row_banks_low=7)
    h100x8.set(1, ecc_corrected_volatile_dram=5, ecc_corrected_volatile_l2=6)
    h100x8.set(1, retired_pages_uncorrected=3)
    assert ask(
        h100x8,
        """
one, banks = gpu(1), nvml.nvmlDeviceGetRowRemapperHistogram(gpu(1))
tell([nvml.nvmlDeviceGetRemappedRows(one), banks.low, banks.max, nvml.nvmlDeviceGetTotalEccErrors(one, 0, 0),
      nvml.nvmlDeviceGetMemoryErrorCounter(one, 0, 0, 2), len(nvml.nvmlDeviceGetRetiredPages(one, 1)),
      error(nvml.nvmlDeviceGetRetiredPages, one, 0)])
""",
    ) == [[1, 2, 1, 0], 7, 2560, 11, 5, 3, 3]


def test_energy_is_the_integral_of_power_and_counters_only_rise(h100x8, begin):
    h100x8.set(0, power_watts=200)
    lines = """
for line in sys.stdin:
    tell([time.monotonic(), nvml.nvmlDeviceGetTotalEnergyConsumption(gpu(0)) / 1000,
          nvml.nvmlDeviceGetFieldValues(gpu(0), [198])[0].value.ullVal])
"""
    with begin(h100x8, lines) as child:
        readings = []
        for watts in (200, 700, 100):
            child.say()
            readings.append(child.told())
            h100x8.set(0, power_watts=watts)
            time.sleep(0.3)
        child.say()
        readings.append(child.told())
    for watts, before, after in zip((200, 700, 100), readings, readings[1:], strict=False):
        seconds = after[0] - before[0]
        # The power changed between two readings: what came before the change was at the power of before.
        assert 0 < after[1] - before[1] <= 700 * seconds + 1
        if seconds < 1:
            assert after[1] - before[1] == pytest.approx(watts * seconds, rel=0.25, abs=8)
        assert after[2] > before[2]


def test_throttled_time_counts_while_the_reason_is_set(h100x8, begin):
    lines = """
for line in sys.stdin:
    tell(nvml.nvmlDeviceGetViolationStatus(gpu(0), nvml.NVML_PERF_POLICY_THERMAL).violationTime)
"""
    with begin(h100x8, lines) as child:
        child.say()
        assert child.told() == 0
        h100x8.set(0, clock_event_reasons=0x40)
        time.sleep(0.2)
        h100x8.set(0, clock_event_reasons=0)
        child.say()
        first = child.told()
        child.say()
        assert first >= 200_000_000
        assert child.told() == first


def test_processes_and_their_share(h100x8, ask):
    pid = os.getpid()
    h100x8.set(0, {f"process.{pid}.memory_bytes": "5GiB", f"process.{pid}.utilization_ratio": 0.5})
    h100x8.set(0, {"process.77.graphics": 1, "memory_used_bytes": 0})
    found = ask(
        h100x8,
        """
one = gpu(0)
compute, graphics = nvml.nvmlDeviceGetComputeRunningProcesses(one), nvml.nvmlDeviceGetGraphicsRunningProcesses(one)
shares = nvml.nvmlDeviceGetProcessUtilization(one, 0)
newest = max(share.timeStamp for share in shares)
tell([[p.pid for p in graphics], [[p.pid, p.usedGpuMemory] for p in compute],
      nvml.nvmlDeviceGetMemoryInfo(one, nvml.nvmlMemory_v2).used,
      [[s.pid, s.smUtil] for s in shares], error(nvml.nvmlDeviceGetProcessUtilization, one, newest + 10**9),
      nvml.nvmlSystemGetProcessName(compute[0].pid), len(nvml.nvmlDeviceGetProcessesUtilizationInfo(one, 0))])
""",
    )
    assert found[:5] == [[77], [[pid, 5 << 30]], 5 << 30, [[pid, 50], [77, 0]], 6]
    assert found[5]
    h100x8.set(0, {f"process.{pid}": "gone", "process.77": "gone"})
    assert ask(h100x8, "tell(len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu(0))))") == 0


def test_partitions(a100_mig, ask):
    found = ask(
        a100_mig,
        """
def partition(parent, index):
    one = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, index)
    attributes = nvml.nvmlDeviceGetAttributes(one)
    return {"name": nvml.nvmlDeviceGetName(one), "uuid": nvml.nvmlDeviceGetUUID(one),
            "gi": nvml.nvmlDeviceGetGpuInstanceId(one), "ci": nvml.nvmlDeviceGetComputeInstanceId(one),
            "slices": attributes.gpuInstanceSliceCount, "mebibytes": attributes.memorySizeMB,
            "total": nvml.nvmlDeviceGetMemoryInfo(one).total, "bar1": nvml.nvmlDeviceGetBAR1MemoryInfo(one).bar1Total,
            "is": nvml.nvmlDeviceIsMigDeviceHandle(one).value,
            "parent": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(one)),
            "again": nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(one))),
            "power": nvml.nvmlDeviceGetFieldValues(one, [nvml.NVML_FI_DEV_POWER_INSTANT])[0].nvmlReturn,
            "utilization": error(nvml.nvmlDeviceGetUtilizationRates, one)}
one = gpu(1)
tell([nvml.nvmlDeviceGetMigMode(one), nvml.nvmlDeviceGetMaxMigDeviceCount(one), [partition(one, n) for n in range(3)],
      error(nvml.nvmlDeviceGetMigDeviceHandleByIndex, one, 3), error(nvml.nvmlDeviceGetUtilizationRates, one)])
""",
    )
    assert found[:2] == [[1, 1], 7]
    assert found[3:] == [6, 3]
    assert [one["name"] for one in found[2]] == [
        f"NVIDIA A100-SXM4-80GB MIG {kind} (simulated)" for kind in ("1g.10gb", "1g.10gb", "2g.20gb")
    ]
    for one in found[2]:
        assert one["again"] == one["uuid"]
        assert (one["is"], one["parent"], one["ci"], one["utilization"], one["power"]) == (1, 1, 0, 3, 3)
        assert one["total"] == one["mebibytes"] << 20
        assert one["bar1"] == pytest.approx(one["total"] * 128 / 80, rel=1e-6)


def test_topology_follows_switches_and_nodes(h100x8, ask):
    lines = """
def level(a, b): return nvml.nvmlDeviceGetTopologyCommonAncestor(gpu(a), gpu(b))
tell([level(0, 1), level(0, 2), level(0, 4), nvml.nvmlDeviceGetP2PStatus(gpu(0), gpu(4), 2),
      nvml.nvmlDeviceGetNvLinkRemoteDeviceType(gpu(0), 3), nvml.nvmlDeviceGetNumaNodeId(gpu(7)),
      len(nvml.nvmlDeviceGetTopologyNearestGpus(gpu(0), 10)), any(nvml.nvmlDeviceGetCpuAffinity(gpu(0), 4))])
"""
    assert ask(h100x8, lines) == [10, 40, 50, 0, 2, 1, 1, True]


def test_order_of_devices_may_change(h100x8, ask):
    before = ask(h100x8, "tell([nvml.nvmlDeviceGetUUID(gpu(n)) for n in range(8)])")
    h100x8.set("node", order="7,0,1")
    h100x8.set(1, present=0)
    after = ask(h100x8, "tell([nvml.nvmlDeviceGetUUID(gpu(n)) for n in range(nvml.nvmlDeviceGetCount())])")
    assert after == [before[slot] for slot in (7, 0, 2, 3, 4, 5, 6)]


def test_what_other_programs_ask_beside(h100x8, ask):
    lines = """
one = gpu(0)
tell([nvml.nvmlDeviceGetComputeMode(one), nvml.nvmlDeviceGetDisplayActive(one), nvml.nvmlDeviceGetAccountingMode(one),
      error(nvml.nvmlDeviceGetCurrentDriverModel, one), nvml.nvmlDeviceGetPersistenceMode(one),
      nvml.nvmlDeviceGetCudaComputeCapability(one), nvml.nvmlSystemGetCudaDriverVersion(),
      nvml.nvmlDeviceGetEnforcedPowerLimit(one), nvml.nvmlDeviceGetPowerManagementLimitConstraints(one)])
"""
    assert ask(h100x8, lines) == [0, 0, 0, 3, 1, [9, 0], 12040, 700000, [200000, 700000]]


def test_calls_before_init_and_after_shutdown(h100x8, ask):
    lines = """
library = ctypes.CDLL("libnvidia-ml.so.1")
count = ctypes.c_uint()
before = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
nvml.nvmlInit(); nvml.nvmlInit(); one = gpu(0); nvml.nvmlShutdown()
between = error(nvml.nvmlDeviceGetPowerUsage, one)
nvml.nvmlShutdown()
tell([before, between, error(nvml.nvmlDeviceGetPowerUsage, one), error(nvml.nvmlShutdown)])
"""
    assert ask(h100x8, lines, init=False) == [1, 0, 1, 1]


def test_handles_that_are_none_are_refused(h100x8, ask):
    lines = """
library = ctypes.CDLL("libnvidia-ml.so.1")
milliwatts = ctypes.c_uint()
real = ctypes.cast(gpu(0), ctypes.c_void_p).value
handles = [None, ctypes.c_void_p(1), ctypes.c_void_p(real + 1), ctypes.c_void_p(real + 2**20), ctypes.c_void_p(2**63)]
tell([library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)) for handle in handles]
     + [library.nvmlDeviceGetPowerUsage(gpu(0), None)])
"""
    assert ask(h100x8, lines) == [2] * 6
