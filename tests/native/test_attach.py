"""Each kind of hook, attached to this kernel for real and counted."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native.bpf import Iterator, Object, Ring
from eagle_eye.native.errors import BpfAttachError, BpfError, BpfMapError, UnavailableError

KINDS = ("tp_btf", "raw_tp", "tp", "uprobe", "uretprobe", "perf_event")
HITS = np.dtype([(kind, "<u8") for kind in KINDS])
SEEN_TASK = np.dtype([("cgroup_id", "<u8"), ("pid", "<u4"), ("tgid", "<u4"), ("comm", "S16")])
CALLS = 23

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def hooks(opened):
    one = opened("hooks")
    one.set_constants(watched_tgid=os.getpid())
    one.load()
    return one


def hits(hooks: Object, kind: str) -> int:
    return int(hooks.map(".bss").view(HITS)[kind][0])


def call_getppid() -> None:
    for _ in range(CALLS):
        libc.getppid()


def function_in_file(name: str) -> tuple[Path, int]:
    """Where a function of this process lies: binary, file offset."""
    address = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return Path(path[0]), address - start + int(offset, 16)
    raise AssertionError(name)


@pytest.mark.parametrize("kind", ["tp_btf", "raw_tp"])
def test_hook_counts_and_detaches(hooks, kind):
    link = hooks.attach(f"on_{kind}")
    assert link.program == f"on_{kind}"
    before = hits(hooks, kind)
    call_getppid()
    assert hits(hooks, kind) - before >= CALLS
    link.close()
    link.close()
    time.sleep(0.05)
    after = hits(hooks, kind)
    call_getppid()
    assert hits(hooks, kind) == after


def test_uprobe_and_uretprobe_count_each_call(hooks):
    binary, offset = function_in_file("getppid")
    hooks.attach_uprobe("on_uprobe", binary, offset, pid=os.getpid())
    hooks.attach_uprobe("on_uretprobe", binary, offset, pid=os.getpid(), on_return=True)
    call_getppid()
    assert (hits(hooks, "uprobe"), hits(hooks, "uretprobe")) == (CALLS, CALLS)


def test_perf_event_ticks_with_cpu_work(hooks, cpus):
    links = [
        hooks.attach_perf_event("on_perf_event", cpu=cpu, frequency_hz=997) for cpu in sorted(os.sched_getaffinity(0))
    ]
    busy_until = time.thread_time() + 0.2
    while time.thread_time() < busy_until:
        pass
    assert hits(hooks, "perf_event") >= 20
    for link in links:
        link.close()


def test_attach_all_takes_what_says_where(opened):
    only = opened("hooks")
    only.set_constants(watched_tgid=os.getpid())
    only.leave_out("on_tp")  # needs tracefs: test_missing.py
    only.load()
    only.attach_all()
    call_getppid()
    assert hits(only, "tp_btf") >= CALLS
    assert hits(only, "raw_tp") >= CALLS
    assert hits(only, "uprobe") == hits(only, "perf_event") == 0


def test_close_of_the_object_detaches(hooks):
    link = hooks.attach("on_tp_btf")
    view = hooks.map(".bss").view(HITS)
    hooks.close()
    assert not link.attached
    time.sleep(0.05)
    after = int(view["tp_btf"][0])
    call_getppid()
    assert int(view["tp_btf"][0]) == after
    with pytest.raises(BpfError, match="is closed"):
        link.iterate()


def test_wrong_targets_are_named(hooks, tmp_path):
    with pytest.raises(BpfAttachError, match=r"'on_uprobe' \(uprobe\) did not attach: .*does not say where"):
        hooks.attach("on_uprobe")
    with pytest.raises(BpfAttachError, match=f"{tmp_path}/absent is no file"):
        hooks.attach_uprobe("on_uprobe", tmp_path / "absent", 0)
    with pytest.raises(BpfAttachError, match="on_uprobe"):
        hooks.attach_uprobe("on_uprobe", Path("/bin/sh"), 1 << 40)
    with pytest.raises(BpfAttachError, match="on_perf_event"):
        hooks.attach_perf_event("on_perf_event", cpu=99999, frequency_hz=99)
    with pytest.raises(BpfAttachError, match="on_tp_btf"):
        hooks.attach_perf_event("on_tp_btf", cpu=0, frequency_hz=99)


def test_a_missing_tracepoint_is_named(opened):
    missing = opened("missing_hook")
    missing.leave_out("on_missing_tp_btf")
    missing.load()
    with pytest.raises(BpfAttachError, match=r"on_missing_raw_tp.*ENOENT"):
        missing.attach("on_missing_raw_tp")
    with pytest.raises((BpfAttachError, UnavailableError), match=r"on_missing_tp"):
        missing.attach("on_missing_tp")


def test_iterator_sees_every_thread(hooks):
    iterator = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=65536)
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    seen = iterator.read()
    mine = seen[seen["tgid"] == os.getpid()]
    assert {int(name) for name in os.listdir("/proc/self/task")} == set(mine["pid"].tolist())
    assert len(mine) > CALLS
    assert mine["comm"][0] == Path("/proc/self/comm").read_bytes().strip()
    assert iterator.truncated == 0
    stop.set()
    for thread in threads:
        thread.join()


def test_iterator_is_bounded_and_says_what_it_left_out(hooks):
    iterator = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=5)
    assert len(iterator.read()) == 5
    assert iterator.truncated > 5
    before = iterator.truncated
    iterator.read()
    assert iterator.truncated > before


def test_iterator_grows_from_a_small_start(hooks, monkeypatch):
    whole = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=65536)
    monkeypatch.setattr(Iterator, "FIRST_ROOM", 1)
    small = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=65536)
    assert abs(len(small.read()) - len(whole.read())) < 20
    assert os.getpid() in small.read()["pid"]


def test_iterator_with_the_wrong_record_size(hooks):
    iterator = Iterator(hooks.attach("on_task"), np.dtype("S32000"), capacity_records=1000)
    with pytest.raises(BpfError, match="no multiple of 32000"):
        iterator.read()


def test_iterator_needs_an_iterator(hooks):
    with pytest.raises(BpfError, match="'on_tp_btf' is no iterator"):
        Iterator(hooks.attach("on_tp_btf"), SEEN_TASK, capacity_records=8).read()
    link = hooks.attach("on_task")
    iterator = Iterator(link, SEEN_TASK, capacity_records=8)
    link.close()
    with pytest.raises(BpfError, match="'on_task' is detached"):
        iterator.read()


def test_cgroup_ids_are_those_of_the_folders(hooks):
    mounts = [
        path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()
    ]
    if not mounts:
        pytest.skip("no unified cgroup hierarchy is mounted")
    relative = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]
    seen = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=65536).read()
    assert seen["cgroup_id"][seen["pid"] == os.getpid()][0] == (mounts[0] / relative.lstrip("/")).stat().st_ino


def test_ring_of_a_map_that_is_none(hooks):
    with pytest.raises(BpfMapError, match="is no ring buffer"):
        Ring(hooks.map(".bss"), HITS)
