"""The DCMI library itself: found, wrong, old, of either interface, failing; layouts; memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eagle_eye.native._dcmi import ffi
from eagle_eye.native.dcmi import FUNCTIONS, HOT_GROUPS, LIBRARY, SECOND_GROUPS, TURN_GROUPS, Dcmi
from eagle_eye.native.dcmi_returns import RETURNS, failure, return_text
from eagle_eye.native.device import ABSENT, LINK_FIELDS, OK, UNSUPPORTED, Board, group_mask
from eagle_eye.native.errors import DeviceError, UnavailableError
from eagle_eye.native.simulator.block import LIBRARIES
from eagle_eye.native.simulator.simulation import VARIABLE, Simulation

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "native"
EVERY = group_mask((*HOT_GROUPS, *SECOND_GROUPS))
NAMES = tuple(name for name in FUNCTIONS if name)
CARDS, FLAT, BOTH = 1, 2, 3


@pytest.fixture
def machine(monkeypatch):
    with Simulation("ascend910bx8") as simulation:
        monkeypatch.setenv(VARIABLE, str(simulation.path))
        yield simulation


def without(folder, *patterns):
    """A simulated library that lacks some symbols, as older and newer drivers do."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library, hidden = folder / LIBRARY, folder / "symbols.map"
    hidden.write_text(f"{{ local: {'; '.join(patterns)}; }};")
    sources = [
        *NATIVE.glob("simulator/dcmi*.c"),
        *(NATIVE / "simulator" / f"{n}.c" for n in ("common", "faults", "laws")),
    ]
    flags = ["-shared", "-fPIC", "-fvisibility=hidden", "-O1", f"-Wl,--version-script={hidden}"]
    subprocess.run(["cc", *flags, *sources, "-o", library, "-lm", "-lpthread"], check=True)
    return library


def test_no_library():
    with pytest.raises(UnavailableError, match="cannot be opened") as failed:
        Dcmi("libdcmi-that-is-not-there.so")
    assert "/usr/local/dcmi" in failed.value.remedy


def test_another_library():
    with pytest.raises(UnavailableError, match="no DCMI library"):
        Dcmi("libm.so.6")


def test_no_library_but_a_text(tmp_path):
    (tmp_path / LIBRARY).write_text("no library")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        Dcmi(tmp_path / LIBRARY)


def test_folders_of_the_driver_are_tried(monkeypatch):
    monkeypatch.setattr("eagle_eye.native.dcmi.FOLDERS", (str(LIBRARIES),))
    with Dcmi() as dcmi:
        assert dcmi.path == str(LIBRARIES / LIBRARY)


def test_through_the_ordinary_loader(machine):
    said = subprocess.run(
        [sys.executable, "-c", "from eagle_eye.native.dcmi import Dcmi\n"
         "dcmi = Dcmi(); dcmi.init(); print(dcmi.path, dcmi.simulated, dcmi.count())"],
        env={**os.environ, **machine.environment()}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == [LIBRARY, "True", "8"]


def test_importing_needs_neither_library_nor_numpy():
    asked = "import sys, eagle_eye.native.dcmi\nprint('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "False\n"


def test_order_of_use_is_told(machine):
    dcmi = Dcmi(LIBRARIES / LIBRARY)
    with pytest.raises(DeviceError, match="init"):
        dcmi.find()
    dcmi.init()
    dcmi.init()
    dcmi.close()
    dcmi.close()
    with pytest.raises(DeviceError):
        dcmi.find()
    with pytest.raises(DeviceError, match="closed"):
        _ = dcmi.missing


@pytest.mark.parametrize(("offered", "expected"), [(CARDS, 1), (FLAT, 2), (BOTH, 2)])
def test_interfaces(machine, offered, expected):
    machine.set(0, dcmi_interfaces=offered)
    with Dcmi(LIBRARIES / LIBRARY) as dcmi:
        dcmi.init()
        assert dcmi.interface == expected
        assert dcmi.count() == 8
        units = dcmi.units()
        assert [unit.logic for unit in units] == list(range(8))
        assert {unit.id for unit in units} == ({-1} if expected == 1 else set(range(8)))
        assert {unit.card for unit in units} == ({-1} if offered == FLAT else set(range(8)))
        check_readings(dcmi)


def check_readings(dcmi):
    board = Board.create()
    dcmi.watch(0, 7)
    dcmi.sample(board, EVERY)
    for field in ("power_watts", "memory_total_bytes", "aicore_ratio", "health", "network_health"):
        assert board.value(0, field)[1] == OK
    assert dcmi.identity(7).pci_address == "0000:42:00.0"
    assert dcmi.topology(0, 7) == "hccs"
    assert dcmi.versions() == ("24.1.rc3 (simulated)", "24.1.rc3 (simulated)")
    assert dcmi.processes(0) == dcmi.fault_codes(0) == dcmi.instances(0) == ()
    board.close()


def test_what_the_flat_interface_lacks_is_asked_of_the_other(machine):
    machine.set("all", {"dcmi_interfaces": BOTH, "ddr_total_bytes": 1 << 30})
    with Dcmi(LIBRARIES / LIBRARY) as dcmi:
        dcmi.init()
        board = Board.create()
        dcmi.watch(0, 0)
        dcmi.sample(board, EVERY)
        assert board.value(0, "ddr_total_bytes")[1] == OK
        board.close()


@pytest.mark.parametrize(("hidden", "interface"), [("dcmiv2_*", CARDS), ("dcmi_*", FLAT)])
def test_libraries_of_one_interface(machine, tmp_path, hidden, interface):
    machine.set("all", dcmi_interfaces=interface)
    with Dcmi(without(tmp_path, hidden)) as dcmi:
        dcmi.init()
        assert dcmi.interface == interface
        assert {name.split("_")[0] for name in dcmi.missing} == {hidden.split("_")[0]}
        check_readings(dcmi)


OLD = (
    "dcmi_get_device_multi_utilization_rate", "dcmi_get_device_chip_info_v2", "dcmi_get_device_id_in_card",
    "dcmi_get_device_logic_id", "dcmi_get_device_type", "dcmi_get_all_device_count", "dcmi_get_driver_version",
)  # fmt: skip


def test_an_old_library_does_what_it_can(machine, tmp_path):
    with Dcmi(without(tmp_path, "dcmiv2_*", *OLD)) as dcmi:
        dcmi.init()
        assert set(OLD) < set(dcmi.missing)
        assert (dcmi.count(), dcmi.reported_count()) == (8, None)
        assert dcmi.versions() == ("24.1.rc3 (simulated)", "")
        assert dcmi.identity(0).name == "Ascend 910B3"
        board = Board.create()
        dcmi.watch(0, 0)
        dcmi.sample(board, EVERY | group_mask(TURN_GROUPS))
        assert board.value(0, "aicore_ratio")[1] == OK
        board.close()


NEEDED = ("dcmi_init", "dcmi_get_card_list")


def test_each_symbol_may_be_missing(machine, tmp_path):
    """Nothing but the start and the list: every reading is then unsupported, and every question answered in words."""
    needed = {*NEEDED, "dcmi_get_device_num_in_card"}
    with Dcmi(without(tmp_path, *(name for name in NAMES if name not in needed))) as dcmi:
        dcmi.init()
        assert set(dcmi.missing) == set(NAMES) - needed
        board = Board.create()
        dcmi.watch(0, 0)
        assert dcmi.sample(board, EVERY | group_mask(TURN_GROUPS)) == 0
        for field in ("power_watts", "health", "roce_retries", "ddr_total_bytes", "clock_aicore_hertz", "aicore_ratio"):
            assert board.value(0, field)[1] == UNSUPPORTED
        identity = dcmi.identity(0)
        assert (identity.name, identity.uuid, identity.pci_address, identity.aicores) == ("", "", "", None)
        assert dcmi.instances(0) == ()
        for ask in (dcmi.processes, dcmi.fault_codes):
            with pytest.raises(DeviceError, match="lacks the function"):
                ask(0)
        with pytest.raises(DeviceError, match="cannot be subscribed"):
            dcmi.subscribe()
        board.close()


@pytest.mark.parametrize("name", NEEDED)
def test_a_library_that_cannot_start_or_list_is_the_wrong_one(machine, tmp_path, name):
    with pytest.raises(UnavailableError, match="no DCMI library"):
        Dcmi(without(tmp_path, "dcmiv2_*", name))


@pytest.mark.parametrize("code", sorted(set(RETURNS) - {UNSUPPORTED}))
def test_a_start_that_fails_says_why(machine, code):
    machine.set("node", {"call.init.code": code})
    with Dcmi(LIBRARIES / LIBRARY) as dcmi, pytest.raises(UnavailableError) as failed:
        dcmi.init()
    assert return_text(code) in str(failed.value)
    assert f"DCMI {code}" in str(failed.value)


def test_a_machine_without_npus(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with Dcmi(LIBRARIES / LIBRARY) as dcmi, pytest.raises(UnavailableError, match="not there"):
        dcmi.init()


def test_every_documented_code_has_words_and_the_fatal_ones_a_remedy():
    documented = {*range(-8017, -8000), -8020, -8022, -8023, -8255}
    assert documented < set(RETURNS)
    assert len({return_text(code) for code in RETURNS}) == len(RETURNS)
    assert "7" in return_text(7)
    assert isinstance(failure("x", -8013), UnavailableError)
    assert failure("x", -8009).remedy
    error = failure("x", -424242)
    assert isinstance(error, DeviceError)
    assert error.code == -424242


def test_a_card_that_does_not_answer_costs_no_other(machine, tmp_path):
    source = tmp_path / "deaf.c"
    source.write_text(
        "int dcmi_init(void) { return 0; }\n"
        "int dcmi_get_card_list(int *n, int *list, int room) {"
        " *n = 1000; for (int i = 0; i < room; i++) list[i] = i; return 0; }\n"
        "int dcmi_get_device_num_in_card(int card, int *n) { *n = 1000; return card == 2 ? -8009 : 0; }\n"
    )
    library = tmp_path / LIBRARY
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    with Dcmi(library) as dcmi:
        dcmi.init()
        assert dcmi.refused == 1
        assert dcmi.count() == 64  # never more than the board has slots


NARROW = """
#include "dcmi_abi.h"
static const uint32_t told[] = {4294967290u, 4, 4294967295u, 7, 3};
static int turn;
int dcmi_init(void) { return 0; }
int dcmi_get_card_list(int *count, int *list, int room) { (void)room; *count = 1; list[0] = 0; return 0; }
int dcmi_get_device_num_in_card(int card, int *count) { (void)card; *count = 1; return 0; }
int dcmi_get_device_info(int card, int chip, int main, uint32_t sub, void *to, uint32_t *size)
{
	struct dcmi_hccs_counters_32 *counters = to;

	(void)card, (void)chip;
	if (main != DCMI_MAIN_HCCS || sub != DCMI_SUB_HCCS_COUNTERS_32 || *size != sizeof(*counters))
		return -8255;
	for (int link = 0; link < 16; link++)
		counters->tx_flits[link] = told[turn], counters->crc_errors[link] = 0;
	turn++;
	return 0;
}
"""


def test_counters_of_32_bits_go_on_rising(tmp_path):
    (tmp_path / "narrow.c").write_text(NARROW)
    library = tmp_path / LIBRARY
    subprocess.run(["cc", f"-I{NATIVE}", "-shared", "-fPIC", tmp_path / "narrow.c", "-o", library], check=True)
    board = Board.create()
    tx, state = LINK_FIELDS.index("tx_packets"), LINK_FIELDS.index("state")
    seen = []
    with Dcmi(library) as dcmi:
        dcmi.init()
        dcmi.watch(0, 0)
        for _ in range(5):
            dcmi.sample(board, EVERY)
            seen.append(int(board.pointer.samples[0].link_value[7][tx]))
    around = 1 << 32
    assert seen == [around - 6, around + 4, 2 * around - 1, 2 * around + 7, 3]  # the last one: the device was reset
    assert board.pointer.samples[0].link_status[7][state] == UNSUPPORTED
    assert board.pointer.samples[0].link_status[8][tx] == ABSENT
    board.close()


DOCUMENTED = {
    "chip": 132, "pcie": 64, "board": 16, "die": 20, "label": 1280, "hbm": 32, "ddr": 112, "loads": 48, "ecc": 36,
    "process": 16, "hccs_lanes": 132, "hccs_counters_32": 512, "hccs_counters": 1024, "hccs_bandwidth": 280,
    "pcie_bandwidth": 88, "pcie_errors": 148, "sio": 12, "packets": 464, "vnpus": 360, "vnpu": 264,
    "event_filter": 48, "event": 360,
}  # fmt: skip
OFFSETS = {
    ("chip", "aicores"): 96, ("hbm", "used_mib"): 16, ("hbm", "celsius"): 24, ("hbm", "bandwidth_percent"): 28,
    ("ddr", "available_mib"): 8, ("ddr", "used_percent"): 48, ("hccs_bandwidth", "tx"): 24,
    ("event", "raised_ms"): 8 + 24, ("event", "name"): 8 + 32, ("event", "severity"): 8 + 10,
    ("packets", "mac_tx_bytes"): 168, ("packets", "roce_retries"): 336, ("vnpu", "computing"): 112,
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_layouts_have_the_documented_sizes(name):
    assert ffi.sizeof(f"struct dcmi_{name}") == DOCUMENTED[name]


@pytest.mark.parametrize(("name", "field"), OFFSETS)
def test_layouts_have_the_documented_offsets(name, field):
    assert ffi.offsetof(f"struct dcmi_{name}", field) == OFFSETS[name, field]


PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "dcmi.h"
#include "device.h"
int main(int count, char **words)
{
	static struct npu_fault faults[64];
	static struct npu_process processes[128];
	static struct npu_instance instances[32];
	static uint32_t codes[128];
	struct device_board *board = calloc(1, sizeof(*board));
	struct npu_identity identity;
	struct npu_library *library;
	char reason[64], version[128], driver[128];
	uint32_t refused, found;
	int32_t topology, how;

	(void)count;
	library = npu_open(words[1], reason, sizeof(reason));
	if (!library || npu_start(library) || npu_find(library, &refused) != 8 || npu_subscribe(library, &how))
		return 1;
	device_board_init(board);
	for (uint32_t slot = 0; slot < 8; slot++) {
		npu_watch(library, slot, slot);
		npu_identify(library, slot, &identity);
		npu_processes(library, slot, processes, 128, &found);
		npu_instances(library, slot, instances, 32, &found);
		npu_fault_codes(library, slot, codes, 128, &found);
		npu_topology(library, slot, 0, &topology);
	}
	npu_versions(library, version, driver, sizeof(version));
	for (int n = 0; n < 20; n++)
		npu_sample(library, board, ~0ull, ~0ull);
	npu_drain(faults, 64);
	npu_close(library);
	free(board);
	puts("done");
	return 0;
}
"""


@pytest.mark.parametrize("interfaces", [CARDS, BOTH])
def test_no_bad_memory_access_and_no_leak(machine, tmp_path, interfaces):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    machine.set("all", {"dcmi_interfaces": interfaces, "process.1.memory_bytes": 1, "instance.0.name": "vir"})
    (tmp_path / "main.c").write_text(PROGRAM)
    sources = [*NATIVE.glob("dcmi*.c"), NATIVE / "device_board.c", tmp_path / "main.c"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    program = tmp_path / "program"
    built = subprocess.run(
        ["cc", "-std=gnu11", *checks, f"-I{NATIVE}", *sources, "-o", program, "-ldl", "-lpthread"],
        capture_output=True, text=True,
    )  # fmt: skip
    if re.search("cannot find .*san", built.stderr):
        pytest.skip("no sanitizers")
    assert built.returncode == 0, built.stderr
    run = subprocess.run(
        [program, LIBRARIES / LIBRARY], capture_output=True, text=True, timeout=60,
        env={**os.environ, VARIABLE: str(machine.path), "ASAN_OPTIONS": "detect_leaks=1"},
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


def test_opening_again_and_again_leaks_nothing(machine):
    def once():
        with Dcmi(LIBRARIES / LIBRARY) as dcmi:
            dcmi.init()
            dcmi.identity(0)

    for _ in range(5):
        once()
    before = len(os.listdir("/proc/self/fd")), resident()
    for _ in range(100):
        once()
    assert len(os.listdir("/proc/self/fd")) == before[0]
    assert resident() - before[1] < 4 << 20


def resident():
    """Bytes of memory of our own: the simulator's state file stays mapped, a real library has none."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
