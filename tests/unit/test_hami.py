"""HAMi's regions, written in C's own layout, and the metrics that its dashboards ask for."""

import os
import struct

import cffi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eagle_eye.probes.hami import METRICS, DeviceMemory, DeviceUse, regions, series, uses
from eagle_eye.probes.hami_region import Share, read
from eagle_eye.probes.owner import Owner
from eagle_eye.probes.probe import Series

UID = "2f7a1b7e-6d43-4f0a-9a11-0c5a6f1b2c3d"
GPU = "GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76"
OTHER_GPU = "GPU-11111111-2222-3333-4444-555555555555"
MAGIC = 19920718
GIB = 1 << 30


def structures(name: str, version: str, spare: str, slot_spare: str, tail: str) -> str:
    """What libvgpu.so maps, with 64-bit size_t and semaphores of 32 bytes."""
    return f"""
    struct {name}_memory {{ uint64_t context, module, data, offset, total; {spare} }};
    struct {name}_busy {{ uint64_t decoder, encoder, sm; {spare} }};
    struct {name}_slot {{
        int32_t pid, host_pid; struct {name}_memory used[16]; uint64_t monitor_used[16];
        struct {name}_busy busy[16]; int32_t status; {slot_spare}
    }};
    struct {name} {{
        int32_t magic; {version} int32_t sm_init; size_t owner_pid; long semaphore[4];
        uint64_t devices; char uuids[16][96]; uint64_t limit[16], sm_limit[16];
        struct {name}_slot slots[1024]; int n_slots, utilization_switch, recent_kernel, priority; {tail}
    }};
    """


ffi = cffi.FFI()
ffi.cdef(structures("v0", "", "", "", ""))
ffi.cdef(
    structures(
        "v1",
        "uint32_t major, minor;",
        "uint64_t spare[3];",
        "uint64_t sequence, spare[2];",
        "uint64_t last_kernel; long postinit[4];",
    )
)


class File:
    """A region that a test fills in; `minor` -1 is the layout before there were versions."""

    def __init__(self, minor: int = 2) -> None:
        self.at = ffi.new("struct v0 *" if minor < 0 else "struct v1 *")
        self.at.magic = MAGIC
        if minor >= 0:
            self.at.major, self.at.minor = 1, minor

    def device(self, uuid: str, limit_bytes: int = 0, sm_limit: int = 0) -> "File":
        index = self.at.devices
        self.at.uuids[index] = uuid.encode()
        self.at.limit[index], self.at.sm_limit[index] = limit_bytes, sm_limit
        self.at.devices += 1
        return self

    def process(self, *use: tuple[int, int], pid: int = 0, status: int = 1) -> "File":
        slot = self.at.slots[self.at.n_slots]
        slot.host_pid, slot.status = pid, status
        for index, (used_bytes, sm_percent) in enumerate(use):
            slot.used[index].total, slot.busy[index].sm = used_bytes, sm_percent
        self.at.n_slots += 1
        return self

    def bytes(self) -> bytes:
        return bytes(ffi.buffer(self.at)) + b"\0"

    def write(self, root, folder=f"{UID}_engine", name="uuid.cache"):
        (root / folder).mkdir(exist_ok=True)
        path = root / folder / name
        path.write_bytes(self.bytes())
        return path


@pytest.fixture(params=[-1, 0, 1, 2], ids=["before versions", "1.0", "1.1", "1.2"])
def file(request):
    return File(request.param)


def test_limits_and_use_are_read_in_every_version(file, tmp_path):
    file.device(GPU, 4 * GIB, 30).device(OTHER_GPU)
    file.process((GIB, 10), (7, 0)).process((2 * GIB, 15), (8, 5))
    usage = read(file.write(tmp_path))

    assert usage.shares == (Share(GPU, 3 * GIB, 4 * GIB, 0.25, 0.3), Share(OTHER_GPU, 15, None, 0.05, None))
    assert (usage.processes, usage.dead) == (2, 0)


def test_the_version_is_told(tmp_path):
    assert [read(File(minor).write(tmp_path)).version for minor in (-1, 0, 1, 2)] == ["0", "1.0", "1.1", "1.2"]


def test_what_ended_processes_left_behind_is_not_counted(file, tmp_path):
    file.device(GPU).process((1, 1), pid=10).process((2, 2), pid=11, status=0).process((4, 4), pid=12)
    file.process((8, 8), pid=0).process((16, 16), pid=-1)
    path = file.write(tmp_path)

    assert (read(path).shares[0].memory_used_bytes, read(path).dead) == (29, 1)
    usage = read(path, alive=lambda pid: pid == 10)
    assert (usage.shares[0].memory_used_bytes, usage.shares[0].utilization_ratio) == (25, 0.25)
    assert (usage.processes, usage.dead) == (3, 2)


def test_slots_past_the_number_of_processes_are_not_counted(file, tmp_path):
    file.device(GPU).process((1, 1)).process((2, 2))
    file.at.n_slots = 1

    assert read(file.write(tmp_path)).shares[0].memory_used_bytes == 1


@pytest.mark.parametrize(("n_slots", "processes"), [(-5, 0), (2**31 - 1, 1024)])
def test_a_number_of_processes_that_cannot_be_is_bounded(file, tmp_path, n_slots, processes):
    file.device(GPU)
    for slot in file.at.slots:
        slot.status = 1
        slot.used[0].total = 2
    file.at.n_slots = n_slots
    usage = read(file.write(tmp_path))

    assert (usage.processes, usage.shares[0].memory_used_bytes) == (processes, 2 * processes)


def test_what_cannot_be_is_absent_not_a_number(file, tmp_path):
    file.device(GPU, 2**63, 250).process((2**64 - 1, 101)).process((2**64 - 1, 0))

    assert read(file.write(tmp_path)).shares == (Share(GPU, None, None, None, None),)


def test_processes_together_use_no_more_than_the_device(file, tmp_path):
    file.device(GPU).process((1, 60)).process((1, 43))

    assert read(file.write(tmp_path)).shares[0].utilization_ratio == 1


@pytest.mark.parametrize("uuid", ["", "GPU", "gpu-0", 'GPU-"} 1', "GPU-\n", "GPU-" + "a" * 92])
def test_devices_without_a_uuid_are_left_out(file, tmp_path, uuid):
    file.device(uuid).device(GPU)

    assert [share.uuid for share in read(file.write(tmp_path)).shares] == [GPU]


def test_a_number_of_devices_that_cannot_be_is_bounded(file, tmp_path):
    file.device(GPU)
    file.at.devices = 2**64 - 1

    assert [share.uuid for share in read(file.write(tmp_path)).shares] == [GPU]


# ---- files that are none ----


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a HAMi region"),
        (b"\0" * 2_008_953, "not initialized yet"),
        (struct.pack("3i", MAGIC, 1, 2), "unknown layout: 12 bytes"),
        (File().bytes()[:-2], "unknown layout"),
        # of spring 2026, with a second semaphore in the header: the same version, other offsets
        (File(1).bytes() + b"\0" * 32, r"unknown layout: 2008985 bytes, version 1\.1"),
        (struct.pack("3i", MAGIC, 2, 0) + File().bytes()[12:], r"version 2\.0"),
        (struct.pack("3i", MAGIC, 1, 3) + File().bytes()[12:], r"version 1\.3"),
    ],
)
def test_what_is_no_region_is_refused(tmp_path, data, problem):
    path = tmp_path / "x.cache"
    path.write_bytes(data)

    with pytest.raises(ValueError, match=problem):
        read(path)


def test_links_pipes_and_folders_are_refused(tmp_path):
    region = File().write(tmp_path)
    (tmp_path / "link.cache").symlink_to(region)
    os.mkfifo(tmp_path / "pipe.cache")

    for name in ("link.cache", "none.cache"):
        with pytest.raises(OSError, match=name):
            read(tmp_path / name)
    for name in ("pipe.cache", f"{UID}_engine"):
        with pytest.raises(ValueError, match="not a regular file"):
            read(tmp_path / name)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = File().device(GPU).process((1, 1)).write(tmp_path)
    whole, reads = os.pread, []

    def shrink(fd, size, at):
        if len(reads) == 1:
            os.truncate(path, 100)
        reads.append(at)
        return whole(fd, size, at)

    monkeypatch.setattr(os, "pread", shrink)
    with pytest.raises(ValueError, match="shortened"):
        read(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=400), st.integers(0, 5000), st.integers(-300, 60), st.sampled_from([-1, 1, 2]))
def test_any_bytes_are_read_within_bounds_or_refused(tmp_path, spoilt, start, from_end, minor):
    data = bytearray(File(minor).device(GPU, GIB).process((1, 1)).bytes())
    data[12 + start : 12 + start + len(spoilt)] = spoilt
    data[len(data) + from_end - 60 :][: len(spoilt)] = spoilt
    path = tmp_path / "x.cache"
    path.write_bytes(data[: len(data)])
    try:
        usage = read(path)
    except ValueError:
        return
    assert usage.processes + usage.dead <= 1024
    for share in usage.shares:
        assert share.memory_used_bytes is None or 0 <= share.memory_used_bytes <= 1024 << 44
        assert share.memory_limit_bytes is None or 0 < share.memory_limit_bytes <= 1 << 44
        assert share.utilization_ratio is None or 0 <= share.utilization_ratio <= 1


# ---- folders ----


def test_regions_are_found_by_pod_and_container(tmp_path):
    File().device(GPU).process((5, 5)).write(tmp_path)
    File().device(GPU).process((6, 6)).write(tmp_path, f"{UID}_side-car")
    (tmp_path / f"{UID}_unused").mkdir()
    (tmp_path / f"{UID}_unused/libvgpu.so").write_text("")
    (tmp_path / "stray").mkdir()
    (tmp_path / f"{UID}_FILE").write_text("")
    (tmp_path / f"{UID}_link").symlink_to(f"{UID}_engine")

    assert [(one.pod_uid, one.container, one.problem) for one in regions(tmp_path)] == [
        (UID, "engine", ""),
        (UID, "side-car", ""),
    ]


def test_a_bad_region_hides_no_other_and_says_why(tmp_path):
    File().device(GPU).process((5, 5)).write(tmp_path)
    File().write(tmp_path, f"{UID}_bad").write_bytes(b"garbage")
    bad, good = regions(tmp_path)

    assert (bad.usage, bad.problem) == (None, "not a HAMi region, or not initialized yet")
    assert good.usage
    assert [use.memory_used_bytes for use in uses([bad, good])] == [5]


def test_a_node_without_hami_has_no_regions(tmp_path):
    assert regions(tmp_path / "none") == []


# ---- metrics ----


def test_names_and_labels_are_hamis():
    assert {metric.name: metric.labels for metric in METRICS} == {
        "hami_vgpu_memory_usage_bytes": ("pod", "namespace", "device", "container"),
        "hami_vgpu_utilization_percent": ("pod", "namespace", "device", "container"),
        "hami_gpu_memory_total_bytes": ("node", "device"),
        "hami_gpu_memory_used_bytes": ("node", "device"),
    }


def flat(found: list[Series]) -> dict[tuple[str, ...], object]:
    assert len({(one.metric.name, one.labels) for one in found}) == len(found)
    assert all(len(one.labels) == len(one.metric.labels) for one in found)
    return {(one.metric.name, *one.labels): one.value for one in found}


def test_series_follow_from_regions_and_readings(tmp_path):
    File().device(GPU).process((5, 25)).write(tmp_path)

    def names(owner: Owner) -> Owner:
        return Owner(pod_uid=owner.pod_uid, pod="llama-0", namespace="default", container=owner.container)

    found = series("node-a", uses(regions(tmp_path), names), [DeviceMemory(GPU, 10, 80), DeviceMemory(OTHER_GPU, 3)])
    assert flat(found) == {
        ("hami_vgpu_memory_usage_bytes", "llama-0", "default", GPU, "engine"): 5,
        ("hami_vgpu_utilization_percent", "llama-0", "default", GPU, "engine"): 25,
        ("hami_gpu_memory_total_bytes", "node-a", GPU): 80,
        ("hami_gpu_memory_used_bytes", "node-a", GPU): 10,
        ("hami_gpu_memory_used_bytes", "node-a", OTHER_GPU): 3,
    }
    assert {one.entity for one in found} == {GPU, OTHER_GPU}


def test_pods_without_a_name_are_told_by_uid_and_the_same_labels_are_added_up():
    owner = Owner("ab" * 32, UID)
    found = series("node-a", [DeviceUse(GPU, owner, 3, 0.25), DeviceUse(GPU, owner, 4), DeviceUse(GPU, Owner())], [])

    assert flat(found) == {
        ("hami_vgpu_memory_usage_bytes", UID, "", GPU, ""): 7,
        ("hami_vgpu_utilization_percent", UID, "", GPU, ""): 25,
    }
