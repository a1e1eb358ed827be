"""The board between a worker and the agent: absent until read, never torn, bounded whatever is written."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native._device import ffi, lib
from eagle_eye.native.device import (
    ABSENT,
    DEVICE_MAX,
    FIELD,
    FIELDS,
    GROUPS,
    LANES,
    LINK_FIELDS,
    LINKS_MAX,
    NOT_READ,
    OK,
    OUT_OF_RANGE,
    Board,
    group_mask,
    sample_dtype,
)
from eagle_eye.native.errors import UnavailableError

NATIVE = Path(__file__).parent.parent.parent / "native"


def test_a_new_board_holds_nothing_that_looks_like_a_reading(board):
    samples = board.read()
    assert len(samples) == DEVICE_MAX
    assert np.isnan(samples["value"]).all()
    assert np.isnan(samples["link_value"]).all()
    assert (samples["status"] == NOT_READ).all()
    assert (samples["link_status"] == NOT_READ).all()
    assert (samples["error"] == NOT_READ).all()
    assert board.in_flight(0) is None


def test_the_dtype_is_the_struct(board):
    samples = board.read(2)
    assert samples.dtype == sample_dtype()
    assert samples["value"].shape == (2, len(FIELDS))
    assert samples["link_status"].shape == (2, LINKS_MAX, len(LINK_FIELDS))
    assert samples["group_at_ns"].shape == (2, len(GROUPS))
    assert samples.dtype.itemsize == ffi.sizeof("struct device_sample")


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("utilization_ratio", 1.0, OK),
        ("utilization_ratio", 1.01, OUT_OF_RANGE),
        ("utilization_ratio", -0.01, OUT_OF_RANGE),
        ("utilization_ratio", math.nan, ABSENT),
        ("temperature_celsius", -40.0, OK),
        ("temperature_celsius", -273.0, OUT_OF_RANGE),
        ("power_watts", 1200.0, OK),
        ("power_watts", math.inf, OUT_OF_RANGE),
        ("energy_joules", 1e12, OK),
        ("energy_joules", -1.0, OUT_OF_RANGE),
        ("pcie_tx_bytes", 2.0**63, OK),
        ("remapped_rows_pending", 2.0, OUT_OF_RANGE),
    ],
)
def test_a_field_takes_only_what_can_be(board, field, value, status):
    sample = ffi.new("struct device_sample *")
    lib.device_sample_reset(sample)
    lib.device_set(sample, FIELD[field], OK, value)
    lib.device_sample_publish(board.pointer, 3, sample)
    found, found_status = board.value(3, field)
    assert found_status == status
    assert found == value if status == OK else math.isnan(found)


def test_a_cleared_slot_is_absent_again(board):
    sample = ffi.new("struct device_sample *")
    lib.device_sample_reset(sample)
    lib.device_set(sample, 0, OK, 0.5)
    lib.device_sample_publish(board.pointer, 0, sample)
    board.clear(0)
    assert board.value(0, FIELDS[0])[1] == NOT_READ


def test_calls_have_lanes(board):
    with board.call("memory", slot=3), board.call("events", lane=2):
        mine, theirs = board.in_flight(1), board.in_flight(2)
        assert (mine.group, mine.slot, mine.thread) == ("memory", 3, os.getpid())
        assert (theirs.group, theirs.slot) == ("events", None)
        assert board.in_flight(3) is None
        assert mine.started_ns <= time.monotonic_ns()
    assert board.in_flight(1) is None
    assert board.call_times("memory").calls == board.call_times("events").calls == 1


def test_a_call_that_raises_is_over(board):
    with pytest.raises(RuntimeError), board.call("init"):
        raise RuntimeError
    assert board.in_flight(1) is None


def test_names_and_numbers_that_are_none_of_the_boards(board):
    with pytest.raises(KeyError):
        group_mask(["nonsense"])
    with pytest.raises(KeyError), board.call("nonsense"):
        pass
    with pytest.raises(ValueError, match="lanes"), board.call("init", lane=LANES):
        pass
    with pytest.raises(ValueError, match="slots"):
        board.value(DEVICE_MAX, "power_watts")


def test_a_mad_writer_cannot_lead_a_reader_out_of_bounds(board):
    board.pointer.calls[0].started_ns = 1
    board.pointer.calls[0].group = 0xFFFFFFFF
    board.pointer.calls[0].slot = 4_000_000
    call = board.in_flight(0)
    assert call.group.startswith("unknown")
    assert call.slot is None
    board.clear_calls()
    assert board.in_flight(0) is None


def test_the_memory_cannot_be_resized(board):
    for size in (0, 4096, 1 << 24):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(board.fd, size)


def test_what_is_no_board_is_refused(tmp_path):
    for content in (b"", b"\0" * ffi.sizeof("struct device_board")):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UnavailableError, match="board"):
            Board(os.open(tmp_path / "file", os.O_RDWR))


WRITER = """
import sys, time
from eagle_eye.native._device import ffi, lib
from eagle_eye.native.device import Board
board = Board(int(sys.argv[1]))
sample = ffi.new("struct device_sample *")
number = 0
while True:
    number += 1
    for field in range(0, 130, 5):
        sample.value[field] = number
    sample.samples = number
    sample.link_value[35][0] = number
    lib.device_sample_publish(board.pointer, 0, sample)
"""


@pytest.fixture
def writer(board):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(board.fd)], pass_fds=[board.fd])
    yield process
    process.kill()
    process.wait()


def test_a_sample_is_never_torn(board, writer):
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 200 and time.monotonic() < deadline:
        sample = board.read(1)[0]
        if sample["samples"]:
            assert set(sample["value"][range(0, 130, 5)]) == {sample["samples"]}
            assert sample["link_value"][35, 0] == sample["samples"]
            seen.add(int(sample["samples"]))
    assert len(seen) == 200


def test_a_writer_killed_in_the_midst_is_told_apart_and_the_next_one_mends_it(board):
    board.pointer.samples[0].sequence = 7
    before = board.read(1)["samples"][0]
    assert board.torn == 1
    sample = ffi.new("struct device_sample *")
    sample.samples = 5
    lib.device_sample_publish(board.pointer, 0, sample)
    assert (before, board.read(1)["samples"][0]) == (0, 5)
    assert board.pointer.samples[0].sequence % 2 == 0
    assert board.torn == 1


def test_the_board_outlives_its_writer(board, writer):
    while not board.read(1)["samples"][0]:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(board.read()) == DEVICE_MAX
    assert board.torn <= 1


def test_closing_twice_and_mapping_again():
    board = Board.create()
    other = Board(os.dup(board.fd))
    with board.call("init"):
        assert other.in_flight(1).group == "init"
    board.close()
    board.close()
    with pytest.raises(ValueError, match="closed"):
        board.read()
    assert other.call_times("init").calls == 1
    other.close()
    assert ffi.sizeof("struct device_board") > mmap.PAGESIZE


RACES = r"""
#include "device.h"
#include <pthread.h>
#include <stdlib.h>
#define ROUNDS 20000
static struct device_board board;
static void *write_samples(void *nothing)
{
	struct device_sample sample;

	device_sample_reset(&sample);
	for (int i = 0; i < ROUNDS; i++) {
		device_call_begin(&board, 0, DEVICE_GROUP_MEMORY, 0, 1);
		sample.samples = i;
		device_sample_publish(&board, 0, &sample);
		device_call_end(&board, 0);
	}
	return nothing;
}
int main(void)
{
	struct device_sample sample;
	struct device_call call;
	pthread_t thread;

	device_board_init(&board);
	pthread_create(&thread, NULL, write_samples, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		device_sample_read(&board, 0, &sample);
		if (device_call_read(&board, 0, &call) && call.group != DEVICE_GROUP_MEMORY)
			return 1;
	}
	pthread_join(thread, NULL);
	return board.call_times[DEVICE_GROUP_MEMORY].calls != ROUNDS;
}
"""


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_reader_and_writer_race_with_nobody(tmp_path, sanitizer):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    (tmp_path / "races.c").write_text(RACES)
    # gcc's thread sanitizer knows no fences; the fields are read and written by atomics alone.
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-pthread", f"-fsanitize={sanitizer}", "-Wno-tsan", f"-I{NATIVE}"]
    command += [tmp_path / "races.c", NATIVE / "device_board.c", "-o", tmp_path / "races"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"no gcc with -fsanitize={sanitizer}")
    done = subprocess.run([tmp_path / "races"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
