"""Calls that fail, take long, hang or crash; devices that vanish; events."""

from __future__ import annotations

import signal
import time

import pytest

from eagle_eye.native.simulator.block import groups
from eagle_eye.native.simulator.faults import faults

# A call of each group in which NVML fails.
CALLS = {
    "identity": "nvml.nvmlDeviceGetUUID(one)",
    "utilization": "nvml.nvmlDeviceGetUtilizationRates(one)",
    "codec": "nvml.nvmlDeviceGetEncoderUtilization(one)",
    "memory": "nvml.nvmlDeviceGetMemoryInfo(one)",
    "temperature": "nvml.nvmlDeviceGetTemperature(one, 0)",
    "power": "nvml.nvmlDeviceGetPowerUsage(one)",
    "clocks": "nvml.nvmlDeviceGetClockInfo(one, 1)",
    "throttle": "nvml.nvmlDeviceGetViolationStatus(one, 0)",
    "pcie": "nvml.nvmlDeviceGetCurrPcieLinkWidth(one)",
    "pcie_errors": "nvml.nvmlDeviceGetPcieReplayCounter(one)",
    "links": "nvml.nvmlDeviceGetNvLinkState(one, 0)",
    "link_errors": "nvml.nvmlDeviceGetNvLinkErrorCounter(one, 0, 0)",
    "ecc": "nvml.nvmlDeviceGetTotalEccErrors(one, 0, 0)",
    "ecc_locations": "nvml.nvmlDeviceGetMemoryErrorCounter(one, 0, 0, 2)",
    "remapped_rows": "nvml.nvmlDeviceGetRemappedRows(one)",
    "retired_pages": "nvml.nvmlDeviceGetRetiredPagesPendingStatus(one)",
    "fan": "nvml.nvmlDeviceGetNumFans(one)",
    "fabric": "nvml.nvmlDeviceGetGpuFabricInfo(one, ctypes.byref(nvml.c_nvmlGpuFabricInfo_t()))",
    "limits": "nvml.nvmlDeviceGetPowerManagementLimit(one)",
    "topology": "nvml.nvmlDeviceGetNumaNodeId(one)",
    "processes": "nvml.nvmlDeviceGetComputeRunningProcesses(one)",
    "mig": "nvml.nvmlDeviceGetMigMode(one)",
    "events": "nvml.nvmlDeviceGetSupportedEventTypes(one)",
}
READ = "[[v.nvmlReturn, v.value.ullVal] for v in nvml.nvmlDeviceGetFieldValues(one, [83, 82, 144])]"


def test_each_group_of_calls_fails_by_itself(h100x8, begin):
    calls = ", ".join(f"{name!r}: lambda: {call}" for name, call in CALLS.items())
    lines = f"one = gpu(0)\ncalls = {{{calls}}}\n"
    lines += "for line in sys.stdin: tell({name: error(call) for name, call in calls.items()})"
    with begin(h100x8, lines) as child:
        child.say()
        sound = child.told()
        assert {name: code for name, code in sound.items() if code} == {"retired_pages": 3}
        for name in CALLS:
            h100x8.set(0, {f"call.{name}.code": 17})
            child.say()
            assert child.told() == sound | {name: 17}
            h100x8.set(0, {f"call.{name}.code": 0})


def test_each_code_of_nvml_reaches_the_caller(h100x8, begin):
    lines = "for line in sys.stdin: tell([error(nvml.nvmlDeviceGetPowerUsage, gpu(n)) for n in (4, 3)]\n"
    lines += "                             + [nvml.nvmlErrorString(int(line))])"
    with begin(h100x8, lines) as child:
        for code in (*range(1, 31), 999):
            h100x8.set(4, {"call.power.code": code})
            child.say(str(code))
            found, other, text = child.told()
            assert (found, other) == (code, 0)
            assert text


def test_a_group_that_fails_within_field_values_fails_for_its_fields_only(h100x8, ask):
    h100x8.set(0, {"call.power.code": 15})
    found = ask(h100x8, f"one = gpu(0)\ntell({READ})")
    assert [status for status, _ in found] == [15, 0, 0]


def test_a_delay_is_paid_once_for_a_group_of_fields(h100x8, ask):
    h100x8.set(0, {"call.power.delay": "150ms"})
    lines = "one = gpu(0)\nstart = time.monotonic()\nnvml.nvmlDeviceGetFieldValues(one, [83, 185, 186])\n"
    lines += "middle = time.monotonic()\nnvml.nvmlDeviceGetTemperature(one, 0)\n"
    lines += "tell([middle - start, time.monotonic() - middle])"
    slow, quick = ask(h100x8, lines)
    assert 0.15 <= slow < 0.3
    assert quick < 0.1


def test_a_hung_call_hangs_that_device_only_and_goes_on_when_it_is_cleared(h100x8, begin):
    h100x8.set(2, {"call.temperature.hang": 1})
    lines = "tell(nvml.nvmlDeviceGetTemperature(gpu(1), 0))\ntell(nvml.nvmlDeviceGetPowerUsage(gpu(2)))\n"
    lines += "tell(nvml.nvmlDeviceGetTemperature(gpu(2), 0))"
    with begin(h100x8, lines) as child:
        child.told()
        child.told()
        time.sleep(0.3)
        assert child.process.poll() is None
        h100x8.set(2, {"call.temperature.hang": 0, "temperature_celsius": 50})
        assert child.told() == 50


def test_a_hung_call_can_be_killed(h100x8, begin):
    h100x8.set(2, {"call.power.hang": 1})
    with begin(h100x8, "tell(1)\nnvml.nvmlDeviceGetPowerUsage(gpu(2))") as child:
        child.told()
        child.process.kill()
        assert child.process.wait(5) == -signal.SIGKILL


def test_a_call_that_crashes_ends_its_process_by_sigsegv(h100x8, begin):
    h100x8.set(6, {"call.utilization.crash": 1})
    lines = "import faulthandler\nfaulthandler.enable(open('/dev/null', 'w'))\n"
    with begin(h100x8, lines + "nvml.nvmlDeviceGetUtilizationRates(gpu(6))") as child:
        assert child.process.wait(30) == -signal.SIGSEGV


def test_faults_of_the_node_meet_calls_on_every_device_and_on_none(h100x8, ask):
    h100x8.set("node", {"call.init.code": 9})
    assert ask(h100x8, "tell(error(nvml.nvmlInit))", init=False) == 9
    h100x8.set("node", {"call.init.code": 0, "call.power.code": 4})
    assert ask(h100x8, "tell([error(nvml.nvmlDeviceGetPowerUsage, gpu(n)) for n in (0, 7)])") == [4, 4]


def test_a_lost_device_says_so_in_every_call_and_others_go_on(h100x8, begin):
    lines = "one, other = gpu(3), gpu(4)\nfor line in sys.stdin:\n"
    lines += "    tell([error(nvml.nvmlDeviceGetPowerUsage, one), error(nvml.nvmlDeviceGetFieldValues, one, [83]),\n"
    lines += "          error(gpu, 3), error(nvml.nvmlDeviceGetPowerUsage, other), nvml.nvmlDeviceGetCount()])"
    with begin(h100x8, lines) as child:
        child.say()
        assert child.told() == [0, 0, 0, 0, 8]
        h100x8.set(3, lost=1)
        child.say()
        assert child.told() == [15, 15, 15, 0, 8]
        h100x8.set(3, lost=0, present=0)
        child.say()
        assert child.told() == [15, 15, 0, 0, 7]


def test_the_number_of_devices_may_be_a_lie(h100x8, ask):
    lines = "tell([nvml.nvmlDeviceGetCount(), error(gpu, 6), error(gpu, 7), error(gpu, 8)])"
    h100x8.set("node", reported_count=7)
    assert ask(h100x8, lines) == [7, 0, 2, 2]
    h100x8.set("node", reported_count=9)
    assert ask(h100x8, lines) == [9, 0, 0, 6]


WAIT = """
events = nvml.nvmlEventSetCreate()
for index in (0, 1):
    nvml.nvmlDeviceRegisterEvents(gpu(index), 8, events)
tell("ready")
for line in sys.stdin:
    try:
        event = nvml.nvmlEventSetWait_v2(events, int(line))
        index = nvml.nvmlDeviceGetIndex(event.device)
        tell([index, event.eventType, event.eventData, event.gpuInstanceId, time.monotonic()])
    except nvml.NVMLError as caught:
        tell(caught.value)
"""


def test_an_injected_xid_wakes_who_waits_for_it(h100x8, begin):
    with begin(h100x8, WAIT) as child:
        child.told()
        child.say("5000")
        time.sleep(0.2)
        h100x8.set(5, xid=13)  # nobody waits for this device
        sent_s = time.monotonic()
        h100x8.set(1, xid=79)
        *event, woken_s = child.told()
        assert event == [1, 8, 79, 0xFFFFFFFF]
        assert woken_s - sent_s < 0.5


def test_events_that_came_between_two_waits_are_kept_in_order_and_none_comes_twice(h100x8, begin):
    h100x8.set(0, xid=31)  # before the set was made
    with begin(h100x8, WAIT) as child:
        child.told()
        for xid in (48, 63, 94):
            h100x8.set(0, xid=xid)
        found = []
        for _ in range(3):
            child.say("1000")
            found.append(child.told()[2])
        child.say("20")
        assert found == [48, 63, 94]
        assert child.told() == 10


def test_a_flood_of_events_costs_the_oldest_and_nothing_else(h100x8, begin):
    with begin(h100x8, WAIT) as child:
        child.told()
        for _ in range(300):
            h100x8.set(0, xid=63)
        h100x8.set(0, xid=79)
        count = 0
        while True:
            child.say("20")
            event = child.told()
            if event == 10:
                break
            count, last = count + 1, event[2]
        assert (count, last) == (256, 79)


@pytest.mark.parametrize("name", sorted(faults()))
def test_every_named_fault_can_be_set_and_seen(name, h100x8, begin):
    fault = faults()[name]
    if "nvidia" not in fault and "any" not in fault:
        pytest.skip("not of this vendor")
    lines = "one = gpu(0)\nfor line in sys.stdin:\n    start = time.monotonic()\n"
    lines += f"    tell([{READ}, error(nvml.nvmlDeviceGetPowerUsage, one), nvml.nvmlDeviceGetTemperature(one, 0),\n"
    lines += "          nvml.nvmlDeviceGetClockInfo(one, 1), nvml.nvmlDeviceGetNvLinkState(one, 0),\n"
    lines += "          nvml.nvmlDeviceGetPcieReplayCounter(one), nvml.nvmlDeviceGetNvLinkErrorCounter(one, 0, 2),\n"
    lines += "          nvml.nvmlDeviceGetMemoryErrorCounter(one, 0, 0, 2), nvml.nvmlDeviceGetRemappedRows(one),\n"
    lines += "          nvml.nvmlDeviceGetMemoryErrorCounter(one, 1, 0, 2), time.monotonic() - start > 0.4])"
    h100x8.set(0, temperature_celsius=60, memory_temperature_celsius=70)
    h100x8.set(0, power_watts=0, energy_joules=500)
    with begin(h100x8, lines) as child:
        child.say()
        sound = child.told()
        h100x8.set(0, fault=name)
        time.sleep(0.1)
        child.say()
        if name == "hang":
            time.sleep(0.2)
            assert child.process.poll() is None
            h100x8.set(0, fault="clear")
            assert child.told()[1:-1] == sound[1:-1]
        elif name in ("crash", "lost"):
            assert child.process.wait(30) == (-signal.SIGSEGV if name == "crash" else 1)
        else:
            assert (child.told() == sound) is (name == "clear")


def test_groups_have_the_names_of_the_sampler():
    assert {"init", "health", "network", *CALLS} <= set(groups())
