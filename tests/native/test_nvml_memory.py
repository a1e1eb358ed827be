"""What a library answers by mistake or malice; memory."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.native.device import FIELD, FIELDS, OK, Board, group_mask
from eagle_eye.native.nvml import HOT_GROUPS, SLOW_GROUPS, Nvml

ALL = group_mask(HOT_GROUPS + SLOW_GROUPS)
NATIVE = Path(__file__).parent.parent.parent / "native"
SOURCES = [NATIVE / f"{name}.c" for name in ("nvml_load", "nvml_sample", "nvml_fields", "nvml_calls", "device_board")]

# ---- garbage ----


@pytest.fixture(scope="module")
def hostile(nvml_stub, tmp_path_factory):
    stub = nvml_stub.Stub(Path(shutil.copy(nvml_stub.whole, tmp_path_factory.mktemp("hostile") / "libnvidia-ml.so.1")))
    board = Board.create()
    with Nvml(stub.path) as nvml:
        nvml.init()
        yield stub, nvml, board
    board.close()


ANSWERS = """
    field_values utilization encoder decoder jpeg optical_flow memory_v2 memory temperature_v1 temperature
    threshold power clock event_reasons performance_state pcie_generation pcie_width link_state link_error ecc
    fan fabric
""".split()  # noqa: SIM905
IDS = [*range(3, 7), *range(29, 32), *range(74, 95), 138, 139, *range(142, 146), *range(161, 231), 269, 270, 271]

codes = st.sampled_from([0, 0, 0, 0, 2, 3, 13, 15, 25, 999, -1, 2**31 - 1])
words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 0xFFFFFFFF, 2**64 - 1, 2**63, 0x7FF0000000000000]))


@settings(max_examples=150, deadline=None)
@given(
    answers=st.dictionaries(st.sampled_from(ANSWERS), st.tuples(codes, words)),
    fields=st.dictionaries(st.sampled_from(IDS), st.tuples(codes, st.integers(0, 9), words)),
    memory=st.tuples(words, words, words, words), fabric=st.binary(min_size=40, max_size=40),
)  # fmt: skip
def test_whatever_a_library_answers_a_value_is_plausible_or_absent(hostile, answers, fields, memory, fabric):
    stub, nvml, board = hostile
    for name in ANSWERS:
        stub.answer(name).code, stub.answer(name).value = answers.get(name, (0, 0))
    for number in range(512):
        status, type, bits = fields.get(number, (0, 3, 0))
        stub.field(number, bits, type=type, status=status)
    stub.memory.total, stub.memory.reserved, stub.memory.free, stub.memory.used = memory
    ctypes.memmove(ctypes.addressof(stub.fabric), fabric, len(fabric))
    nvml.watch(0, "GPU-a")
    for _ in range(2):
        nvml.sample(board, ALL)
    sample = board.read(1)[0]
    check(sample["value"], sample["status"])
    check(sample["link_value"].ravel(), sample["link_status"].ravel())
    assert sample["links"] <= 36
    ratios = [sample["value"][FIELD[name]] for name in FIELDS[: FIELD["optical_flow_ratio"] + 1]]
    assert all(math.isnan(ratio) or 0 <= ratio <= 1 for ratio in ratios)
    celsius = sample["value"][FIELD["temperature_celsius"]]
    assert math.isnan(celsius) or -100 <= celsius <= 1000


def check(values, statuses) -> None:
    assert all(math.isnan(value) == (status != OK) for value, status in zip(values, statuses, strict=True))
    assert all(-100 <= value < math.inf for value in values if not math.isnan(value))


# ---- memory ----

DRIVER = r"""
#include "nvml_border.h"
#include "device.h"
#include <stdio.h>
#include <stdlib.h>
#include <dlfcn.h>
/* Arguments: the library, a number. Random bits in all fields, as many rounds. */
int main(int argc, char **argv)
{
	struct device_board *board = calloc(1, sizeof(*board));
	struct field { int status; unsigned type; unsigned long long bits; } *fields;
	char words[16];
	int error;
	struct nvml *nvml = nvml_open(argv[1], &error, words, sizeof(words));
	void *library = dlopen(argv[1], RTLD_NOW);

	if (argc != 3 || !nvml || nvml_open("/nowhere", &error, words, sizeof(words)))
		return 2;
	device_board_init(board);
	fields = dlsym(library, "stub_field");
	*(unsigned long long *)((char *)dlsym(library, "stub_count") + 8) = 64;
	nvml_init(nvml);
	for (unsigned slot = 0; slot < DEVICE_MAX; slot++)
		nvml_watch_index(nvml, slot, slot);
	for (int round = 0; round < atoi(argv[2]); round++) {
		for (int id = 0; id < 512; id++) {
			int status = rand() % 4 ? 0 : rand() % 30;

			fields[id] = (struct field){status, rand() % 8, (unsigned long long)rand() << (rand() % 64)};
		}
		fields[91].bits = rand() % 64;
		nvml_sample(nvml, board, ~0ull, ~0ull);
	}
	nvml_watch_uuid(nvml, 0, "nonsense");
	nvml_shutdown(nvml);
	nvml_close(nvml);
	nvml_close(NULL);
	dlclose(library);
	free(board);
	return 0;
}
"""


RELEARNS = r"""
#include "nvml_border.h"
#include "device.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
/* Argument: the library. What a device could not tell is asked again once RELEARN_NS is over, and not before. */
int main(int argc, char **argv)
{
	struct device_board *board = calloc(1, sizeof(*board));
	struct answer { int code; unsigned calls; unsigned long long value; } *fan;
	char words[16];
	int error;
	struct nvml *nvml = nvml_open(argv[argc - 1], &error, words, sizeof(words));
	void *library = dlopen(argv[argc - 1], RTLD_NOW);

	fan = dlsym(library, "stub_fan");
	*(unsigned long long *)((char *)dlsym(library, "stub_count") + 8) = 1;
	nvml_init(nvml);
	nvml_watch_index(nvml, 0, 0);
	fan->code = 3;
	for (int i = 0; i < 10; i++)
		nvml_sample(nvml, board, 1, 1 << DEVICE_GROUP_FAN);
	if (fan->calls != 1 || board->samples[0].status[DEVICE_FAN_RATIO] != DEVICE_UNSUPPORTED)
		return 1;
	usleep(600000);
	fan->code = 0;
	nvml_sample(nvml, board, 1, 1 << DEVICE_GROUP_FAN);
	error = fan->calls != 2 || board->samples[0].status[DEVICE_FAN_RATIO] != DEVICE_OK;
	nvml_close(nvml);
	dlclose(library);
	free(board);
	return error;
}
"""


@pytest.fixture
def sanitized(tmp_path):
    """Compiles a driver together with the C sources."""

    def make(driver: str, *flags: str) -> Path:
        command = ["cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        command += [f"-I{NATIVE}", *flags]
        (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
        if subprocess.run([*command, tmp_path / "empty.c", "-o", tmp_path / "empty"], capture_output=True).returncode:
            pytest.skip("no compiler with -fsanitize=address")
        (tmp_path / "driver.c").write_text(driver)
        command += [tmp_path / "driver.c", *SOURCES, "-o", tmp_path / "driver", "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path / "driver"

    return make


def test_no_byte_outside_is_touched_and_nothing_leaks(nvml_stub, sanitized):
    done = subprocess.run([sanitized(DRIVER), nvml_stub.whole, "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]


def test_what_was_unsupported_is_asked_again_after_a_while(nvml_stub, sanitized):
    driver = sanitized(RELEARNS, "-DRELEARN_NS=500000000")
    done = subprocess.run([driver, nvml_stub.whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]


def test_nothing_leaks_over_many_libraries_and_boards(stub):
    def cycle(times: int) -> None:
        for _ in range(times):
            board = Board.create()
            with Nvml(stub.path) as nvml:
                nvml.init()
                for slot in range(64):
                    nvml.watch_index(slot, slot % 2)
                nvml.sample(board, ALL)
                board.read()
            board.close()

    cycle(30)
    process = psutil.Process()
    fds, resident = process.num_fds(), process.memory_info().rss
    cycle(300)
    assert process.num_fds() == fds
    assert process.memory_info().rss - resident < 4 << 20
