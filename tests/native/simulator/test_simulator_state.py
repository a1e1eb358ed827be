"""The state file: settings, mistakes in them, writers beside readers, files that are none."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import EagleEyeError, UsageError
from eagle_eye.native.simulator import Simulation, profile_names
from eagle_eye.native.simulator.block import declarations, quantities, writer
from eagle_eye.native.simulator.laws import change, number

# Everything that a caller might ask in one round; what it answers does not matter here.
EVERYTHING = """
def everything():
    codes = [error(nvml.nvmlInit)]
    for index in range(9):
        try:
            one = gpu(index)
        except nvml.NVMLError as caught:
            codes.append(caught.value)
            continue
        for name in dir(nvml):
            if name.startswith("nvmlDeviceGet"):
                try:
                    getattr(nvml, name)(one)
                except nvml.NVMLError as caught:
                    codes.append(caught.value)
                except (TypeError, UnicodeDecodeError, AttributeError):
                    pass
        codes.append(error(nvml.nvmlDeviceGetFieldValues, one, list(range(1, 310))))
    return codes
"""


@pytest.fixture(scope="module")
def ascend():
    with Simulation("ascend910bx8") as simulation:
        yield simulation


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_makes_devices_with_identities_of_their_own(name):
    with Simulation(name) as simulation:
        devices = [simulation._block.state.device[slot] for slot in simulation.devices]
        uuids = {declarations().string(device.identity.uuid) for device in devices}
        places = {(device.identity.pci_domain, device.identity.pci_bus) for device in devices}
        assert len(uuids) == len(places) == len(devices) >= 2


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("power_wats", 1, r"'power_wats' is not known; did you mean power_watts"),
        ("power_watts.wobbel", 1, r"'wobbel' is not known; did you mean wobble\?"),
        ("power_watts", "much", r"power_watts: 'much' is no number"),
        ("power_watts", "3 parsec", r"power_watts: '3 parsec' is no number"),
        ("link.3.crc_flits", 1, r"did you mean crc_flit_errors"),
        ("link.18.up", 1, r"link.18.up: '18' is not there"),
        ("link", 1, r"link: which link"),
        ("call.powr.delay", 1, r"'powr' is not known; did you mean power"),
        ("call.power.dely", 1, r"'dely' is not known; did you mean delay"),
        ("call.power.delay", "-1ms", r"call.power.delay"),
        ("call.power.code", 1e30, r"call.power.code"),
        ("process.x.memory_bytes", 1, r"process.x.memory_bytes"),
        ("process.1.memory", 1, r"did you mean memory_bytes"),
        ("instance.8.slices", 1, r"instance.8.slices: '8' is no whole number from 0 to 7"),
        ("name", "x" * 96, r"name: at most 95 printable characters"),
        ("uuid", "a\nb", r"uuid: at most 95 printable characters"),
        ("xid", "many", r"xid: 'many' is no number"),
        ("fault", "heart", r"no fault is called 'heart'; did you mean heat"),
        ("retired_pages_corrected.rate", 1, r"this device has no retired_pages_corrected"),
    ],
)
def test_mistakes_are_named_and_change_nothing(h100x8, key, value, told):
    before = declarations().buffer(h100x8._block.state.device)[:]
    with pytest.raises(UsageError, match=told):
        h100x8.set(0, {"power_watts": 1, key: value})
    assert declarations().buffer(h100x8._block.state.device)[:] == before


def test_mistakes_on_the_node_change_nothing(h100x8):
    before = bytes(h100x8._block.head())
    with pytest.raises(UsageError, match="order: a device is named twice"):
        h100x8.set("node", {"reported_count": 3, "driver_version": "1", "call.all.hang": 1, "order": "1,1"})
    assert bytes(h100x8._block.head()) == before


@pytest.mark.parametrize("device", [8, -1, "nodes", "", "1.0"])
def test_a_device_that_is_not_there(h100x8, device):
    with pytest.raises(UsageError, match="is not there"):
        h100x8.set(device, power_watts=1)


@given(st.dictionaries(st.text(max_size=30), st.one_of(st.text(max_size=20), st.integers(), st.floats()), max_size=3))
def test_no_settings_do_worse_than_a_usage_error(ascend, changes):
    for device in (0, "node"):
        with suppress(UsageError):
            ascend.set(device, changes)


@given(
    st.sampled_from(["power_watts", "call.power.code", "process.5.pid", "cores", "link.all.up", "xid", "event"]),
    st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.none(), st.lists(st.integers(), max_size=2)),
)
def test_no_value_does_worse_than_a_usage_error(ascend, key, value):
    with suppress(UsageError):
        ascend.set(0, {key: value})


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("40GiB", 40 * 2**30),
        ("1.98GHz", 1.98e9),
        ("85%", 0.85),
        ("200ms", 0.2),
        ("on", 1),
        ("0x40", 64),
        (7, 7),
        ("1e3", 1000),
    ],
)
def test_units(raw, value):
    assert number(raw, "key") == pytest.approx(value)


def test_a_ramp_takes_its_time_and_stays_there(h100x8):
    h100x8.set(0, temperature_celsius=60)
    h100x8.set(0, temperature_celsius=90, over_s=10)
    law = h100x8._block.state.device[0].value[quantities()["temperature_celsius"]]
    pointer = declarations().addressof(law)
    values = [writer().eagle_eye_simulation_law(pointer, law.since_ns + second * 10**9) for second in (0, 5, 10, 60)]
    assert values == pytest.approx([60, 75, 90, 90])


@given(st.floats(0, 1e4), st.floats(-100, 100), st.floats(0, 1e4), st.floats(0.1, 100), st.floats(0, 1000))
def test_energy_is_the_integral_of_power(base, rate, wobble, period_s, seconds):
    device = declarations().new("struct simulated_device *")
    power, energy = (device.value[quantities()[name]] for name in ("power_watts", "energy_joules"))
    for law in (power, energy):
        change(law, "power_watts", "value", 0.0, 1)
    power.base, power.rate_per_s, power.wobble, power.period_s = base, rate, wobble, period_s
    power.low, power.high = -math.inf, math.inf
    found = writer().eagle_eye_simulation_energy(device, 1 + int(seconds * 1e9))
    waves = wobble * period_s / (2 * math.pi) * (1 - math.cos(2 * math.pi * seconds / period_s))
    assert found == pytest.approx(base * seconds + rate * seconds**2 / 2 + waves, rel=1e-6, abs=1e-3)


def test_one_writer_at_a_time_and_no_reader_sees_half_a_change(h100x8, begin):
    h100x8.set(0, power_watts=100, energy_joules=0)
    lines = """
end = time.monotonic() + 1.5
wrong = rounds = 0
one = gpu(0)
tell("ready")
while time.monotonic() < end:
    uuid, rounds = nvml.nvmlDeviceGetUUID(one), rounds + 1
    wrong += len(set(uuid)) != 1 or len(uuid) not in (20, 70)
tell([rounds, wrong])
"""
    stop = threading.Event()

    def write(letter: str, length: int) -> None:
        own = Simulation.open(h100x8.path)
        while not stop.is_set():
            own.set(0, uuid=letter * length)
        own.close()

    h100x8.set(0, uuid="a" * 20)
    writers = [threading.Thread(target=write, args=words) for words in (("a", 20), ("b", 70))]
    with begin(h100x8, lines) as child:
        child.told()
        for thread in writers:
            thread.start()
        rounds, wrong = child.told()
        stop.set()
        for thread in writers:
            thread.join()
    assert rounds > 100
    assert wrong == 0


def test_a_writer_that_died_in_the_middle_holds_up_nobody(h100x8, ask):
    h100x8._block.state.device[0].generation = 7
    assert ask(h100x8, "tell(nvml.nvmlDeviceGetPowerUsage(gpu(0)) > 0)") is True
    h100x8.set(0, power_watts=5)
    assert h100x8._block.state.device[0].generation == 8


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5_000_000, os.urandom(2_000_000)], ids=len)
def test_a_file_that_is_no_state_file_is_an_unknown_error(h100x8, ask, tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    h100x8.path = path
    assert ask(h100x8, "tell(error(nvml.nvmlInit))", init=False) == 999
    with pytest.raises(EagleEyeError, match="is no state file of a simulation"):
        Simulation.open(path)


@pytest.mark.parametrize("path", ["/nonexistent/state", "/", "/dev/null"])
def test_a_path_that_is_no_file_is_an_unknown_error(h100x8, ask, path):
    lines = f"os.environ['EAGLE_EYE_SIMULATION'] = {path!r}\ntell(error(nvml.nvmlInit))"
    assert ask(h100x8, lines, init=False) == 999


def test_without_a_simulation_or_with_one_of_another_vendor_no_driver_is_loaded(h100x8, ascend, ask):
    assert ask(h100x8, "del os.environ['EAGLE_EYE_SIMULATION']\ntell(error(nvml.nvmlInit))", init=False) == 9
    assert ask(ascend, "tell(error(nvml.nvmlInit))", init=False) == 9


def test_a_file_that_is_cut_off_while_it_is_read_is_an_unknown_error(h100x8, begin):
    with begin(h100x8, EVERYTHING + "tell(everything()[0])\nsys.stdin.readline()\ntell(everything())") as child:
        child.told()
        os.truncate(h100x8.path, 100)
        time.sleep(0.05)  # the libraries look at the file's size once a millisecond
        child.say()
        assert set(child.told()) == {999}
        assert child.process.wait(30) == 0


@pytest.mark.parametrize("seed", range(6))
def test_garbage_behind_a_sound_head_crashes_nobody(h100x8, begin, seed):
    chance = random.Random(seed)
    memory = declarations().buffer(declarations().addressof(h100x8._block.state))
    head = memory[:48]
    filler = [lambda n: chance.randbytes(n), lambda n: b"\xff" * n, lambda n: b"\x7f" * n][seed % 3]
    memory[:] = filler(len(memory))
    memory[:48] = head
    h100x8._block.state.reported_count = -1 if seed < 3 else 2**31 - 1
    # Hangs, delays and crashes are what the file may ask for; here they would only cost time.
    for fault in (h100x8._block.state.fault, *(device.fault for device in h100x8._block.state.device)):
        declarations().buffer(fault)[:] = bytes(declarations().sizeof(fault))
    for slot in range(0, 64, 2):
        h100x8._block.state.order[slot] = slot // 8
        h100x8._block.state.device[slot].lost = 0
    with begin(
        h100x8,
        EVERYTHING + "tell(everything())\nevents = nvml.nvmlEventSetCreate()\n"
        "error(nvml.nvmlDeviceRegisterEvents, gpu(0), 0xffff, events)\n"
        "tell(error(nvml.nvmlEventSetWait_v2, events, 10))",
    ) as child:
        child.told()
        child.told()
        assert child.process.wait(30) == 0


def test_removing_a_simulation_leaves_nothing(tmp_path):
    with Simulation("a100-mig") as simulation:
        folder = simulation.path.parent
        assert folder.is_dir()
        assert simulation.path.stat().st_mode & 0o777 == 0o600
    assert not folder.exists()
    kept = Simulation("a100-mig", tmp_path / "state")
    kept.close()
    assert Simulation.open(tmp_path / "state").profile == "a100-mig"
    with pytest.raises(FileExistsError):
        Simulation("a100-mig", tmp_path / "state")


def test_a_simulation_needs_no_process(h100x8, ask):
    h100x8.set(0, temperature_celsius=40)
    h100x8.set(0, temperature_celsius=80, over_s=0.2)
    path = h100x8.path
    h100x8._block.close()
    time.sleep(0.3)
    assert path.exists()
    assert ask(h100x8, "tell(nvml.nvmlDeviceGetTemperature(gpu(0), 0))") == 80
