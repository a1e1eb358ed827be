"""Faults by tracepoint: a disk that fails and a task that hangs on the running kernel, and the words for each kind."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native.bpf import record_dtype
from eagle_eye.probes.tracepoints import ATTACHED, HITS, SPEC, TRACEPOINTS, read

HUNG_AFTER = Path("/proc/sys/kernel/hung_task_timeout_secs")
HUNG_EVERY = Path("/proc/sys/kernel/hung_task_check_interval_secs")


def point(kind: str, *numbers: int, device: str = "", text: str = ""):
    record = np.zeros(1, record_dtype("fault_point"))[0]
    record["kind"] = list(TRACEPOINTS).index(kind)
    record["numbers"][: len(numbers)] = np.array(numbers, np.uint64)
    record["device"], record["text"] = device.encode(), text.encode()
    return record


@pytest.fixture
def hung_after(tmp_path):
    path = tmp_path / "hung_task_timeout_secs"
    path.write_text("120\n")
    return path


@pytest.mark.parametrize(
    ("record", "family", "code", "device"),
    [
        (point("nvidia_dev_xid", 79, device="0000:9b:00.0", text="GPU has fallen off the bus."),
         "nvidia.xid", "79", "0000:9b:00.0"),
        (point("nvswitch_dev_sxid", 20034, device="0000:06:00.0", text="Fatal, Link 48 LTSSM Fault Up"),
         "nvidia.sxid", "20034", "0000:06:00.0"),
        (point("aer_event", 0x20, 1, device="0000:00:02.0"), "pcie.aer", "SDES", "0000:00:02.0"),
        (point("aer_event", 0x40, 2, device="0000:00:03.1"), "pcie.aer", "BadTLP", "0000:00:03.1"),
        (point("mc_event", 0, 1, 0, 0x1234567000, 12, device="CPU_SrcID#0_MC#0_DIMM#0", text="memory read error"),
         "cpu.memory.mce_edac", "edac_ce", ""),
        (point("mc_event", 1, 1, 0, 0x1234567000, 12, device="DIMM_A1", text="memory scrubbing error"),
         "cpu.memory.mce_edac", "edac_ue", ""),
        (point("mce_record", 12, 7, 0x8C00008000010092, 0x1000), "cpu.memory.mce_edac", "mce_corrected", ""),
        (point("mce_record", 12, 7, 0xBE00000000010092, 0x1000), "cpu.memory.mce_edac", "mce_fatal", ""),
        (point("sched_process_hang", 4711, text="python3"), "sched.hang", "hung_task", ""),
        (point("block_rq_error", 10, 4096, 8, 0, device="loop0"), "storage", "block_io_error", ""),
        (point("block_rq_error", 7, 4096, 8, 0, device="sda"), "storage", "block_medium_error", ""),
        (point("block_rq_error", 2, 4096, 8, 1, device="nvme0n1"), "storage", "block_timeout", ""),
        (point("block_rq_error", 6, 4096, 8, 1, device="sda"), "storage", "block_reservation_conflict", ""),
        (point("block_rq_error", 9, 4096, 8, 1, device="sda"), "storage", "block_io_error", ""),
    ],
)  # fmt: skip
def test_each_kind_has_the_code_that_the_log_would_give_it(record, family, code, device, hung_after):
    decoded = read(record, hung_after)

    assert (decoded.family, decoded.code, decoded.device) == (family, code, device)


def test_what_a_tracepoint_does_not_tell_is_left_out(hung_after):
    aer = read(point("aer_event", 0x20, 1, device="0000:00:02.0"), hung_after)
    assert aer.fields == {"severity": "fatal", "status": 0x20, "bits": ["SDES"]}

    sxid = read(point("nvswitch_dev_sxid", 20034, device="0000:06:00.0", text="Fatal, Link 48 x"), hung_after)
    assert "nvswitch" not in sxid.fields

    hung_after.unlink()
    assert read(point("sched_process_hang", 7, text="x"), hung_after).fields == {"process": "x", "pid": 7}


def test_numbers_that_no_kernel_gives_are_no_exception(hung_after):
    for kind in TRACEPOINTS:
        read(point(kind, *[2**64 - 1] * 6, device="\x00\xff" * 9, text="\xff" * 99), hung_after)


@pytest.mark.needs_bpf
def test_a_disk_that_cannot_be_read_is_a_storage_fault(running, until, tmp_path):
    probe = running(SPEC)
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    made = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    loop = made.stdout.strip()
    try:
        os.truncate(image, 0)
        fd = os.open(loop, os.O_RDONLY)
        with pytest.raises(OSError, match="Input/output error"):
            os.read(fd, 4096)
        os.close(fd)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    name = loop.removeprefix("/dev/")
    (fault, *_) = until(probe, lambda fault: fault.fields.get("disk") == name)

    assert (fault.family, fault.code, fault.sources) == ("storage", "block_io_error", ("tracepoint",))
    assert abs(fault.at_ns - time.monotonic_ns()) < 60e9
    assert fault.id.startswith("boot:faults.tracepoints:")


@pytest.mark.needs_bpf
@pytest.mark.needs_mounts
def test_a_task_that_hangs_is_a_fault(running, until, tmp_path):
    probe = running(SPEC)
    image, mount = tmp_path / "disk", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    before = HUNG_AFTER.read_text(), HUNG_EVERY.read_text()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    victim = None
    try:
        HUNG_AFTER.write_text("1")
        HUNG_EVERY.write_text("1")
        subprocess.run(["fsfreeze", "-f", mount], check=True)
        victim = subprocess.Popen(["touch", mount / "x"])
        (fault, *_) = until(probe, lambda fault: fault.fields.get("pid") == victim.pid, 30)
    finally:
        subprocess.run(["fsfreeze", "-u", mount], check=True)
        if victim:
            victim.wait()
        subprocess.run(["umount", mount], check=True)
        HUNG_AFTER.write_text(before[0])
        HUNG_EVERY.write_text(before[1])

    assert (fault.family, fault.code, fault.process) == ("sched.hang", "hung_task", "touch")


@pytest.mark.needs_bpf
def test_what_the_kernel_has_is_attached_and_the_rest_is_told(running):
    sample = running(SPEC).sample(time.monotonic_ns())
    attached = {one.labels[0]: one.value for one in sample.series if one.metric is ATTACHED}

    assert set(attached) == set(TRACEPOINTS)
    assert attached["sched_process_hang"] == 1
    assert attached["nvidia_dev_xid"] == Path("/sys/module/nvidia").exists()
    assert all(one.value == 0 for one in sample.series if one.metric is HITS and not attached[one.labels[0]])


@pytest.fixture
def until():
    def wait(probe, wanted, deadline_s=10):
        found, ends = [], time.monotonic() + deadline_s
        while not found and time.monotonic() < ends:
            found = [fault for fault in probe.sample(time.monotonic_ns()).faults if wanted(fault)]
            time.sleep(0.05)
        assert found, f"no such fault in {deadline_s} s"
        return found

    return wait
