"""The sweep over all tasks on the running kernel, against /proc, with tasks that truly sleep uninterruptibly."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native import bpf
from eagle_eye.probes import tasks
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.task_sweeps import STATES, KernelSweep, ProcSweep
from eagle_eye.probes.tasks import Progress, TasksProbe

COUNT, UNINTERRUPTIBLE, STUCK = (metric.name for metric in tasks.SPEC.metrics)
SECOND_NS = 1_000_000_000


# Time is an argument, so that no test waits for it; but then any task of this machine that sleeps uninterruptibly
# for an instant may look stuck beside those that the test made.


def with_sweep(sweep, context):
    return TasksProbe(sweep(context.paths), context.events, stuck_after_ns=context.options["stuck_after"])


by_kernel = partial(with_sweep, KernelSweep)
by_proc = partial(with_sweep, partial(ProcSweep, why="asked for"))


@pytest.fixture(params=[by_kernel, by_proc], ids=["kernel", "proc"])
def either(request):
    return request.param


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.fixture
def blocked(process, workload, eventually):
    """Starts processes that sleep uninterruptibly, each in vfork() until its child ends."""

    def start(count: int = 1, **where):
        parents = [process(workload, "vfork", **where) for _ in range(count)]
        for parent in parents:
            eventually(lambda parent=parent: state_of(parent.pid) == "D")
        return parents

    return start


def release(parent) -> None:
    """Ends the vforked child, whereupon the parent runs on."""
    pid = parent.pid
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    os.kill(child, 9)


# In a namespace of its own, so that no other task comes, goes or is hidden between the two looks.
SWEEPS_AGREE = """
import signal, subprocess, sys, time
from pathlib import Path
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.task_sweeps import KernelSweep, ProcSweep
blocked = [subprocess.Popen([sys.argv[1], "vfork"]) for _ in range(3)]
sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(7)]
sleepers[0].send_signal(signal.SIGSTOP)
sleepers[1].kill()
state = lambda child: Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0]
while [state(child) for child in (*blocked, *sleepers)] != list("DDDTZSSSSS"):
    time.sleep(0.01)
print(KernelSweep(Paths()).read(1)[0].tolist(), ProcSweep(Paths(), why="test").read(1)[0].tolist(), sep="\\n")
for child in (*blocked, *sleepers):
    child.kill()
"""


def test_counts_equal_proc(kernel_allows, as_root, workload):
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SWEEPS_AGREE, workload]
    # numpy's own threads would be counted too.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    by_program, by_reading = done.stdout.split("\n")[:2]
    # The reader, five that sleep and three vforked children; three parents; one stopped; one zombie.
    assert by_program == by_reading == "[1, 8, 3, 1, 0, 0, 1, 0, 0]"


def test_a_stuck_task_is_told_once_with_its_stack(running, sampling, blocked, values, either):
    probe = sampling(running(tasks.SPEC, either))
    (parent,) = blocked()
    now = time.monotonic_ns()
    for second in range(4):
        probe.round(now + second * SECOND_NS)
    assert values(probe.last)[STUCK,] == 0
    assert probe.events == []

    for second in range(5, 9):
        probe.round(now + second * SECOND_NS)

    assert values(probe.last)[STUCK,] >= 1
    assert values(probe.last)[UNINTERRUPTIBLE,] >= 1
    (event,) = probe.find("tasks.stuck", pid=parent.pid)
    assert (event.attributes["task"], event.attributes["pid"], event.attributes["tgid"]) == (
        "workload",
        parent.pid,
        parent.pid,
    )
    assert event.severity == "warning"
    assert event.attributes["stuck_seconds"] == 5
    assert any("vfork" in frame or "clone" in frame for frame in event.attributes["stack"])
    assert all("+0x" in frame for frame in event.attributes["stack"])
    assert event.attributes["cgroup"]


def test_a_task_that_runs_again_is_told(running, sampling, blocked, eventually, values, either):
    probe = sampling(running(tasks.SPEC, either))
    released, killed = blocked(2)
    now = time.monotonic_ns()
    probe.round(now)
    probe.round(now + 6 * SECOND_NS)
    assert values(probe.last)[STUCK,] == len(probe.find("tasks.stuck"))

    release(released)
    killed.kill()
    killed.wait()
    eventually(lambda: state_of(released.pid) != "D")
    probe.round(now + 7 * SECOND_NS)
    probe.round(now + 8 * SECOND_NS)

    assert values(probe.last)[STUCK,] == len(probe.find("tasks.stuck")) - len(probe.find("tasks.unstuck"))
    for parent, ended in ((released, False), (killed, True)):
        (event,) = probe.find("tasks.unstuck", pid=parent.pid)
        assert event.attributes["ended"] is ended
        assert event.attributes["stuck_seconds"] == 7
        assert event.severity == "info"


def test_a_task_that_makes_progress_is_not_stuck(running, sampling, process, workload, values):
    probe = sampling(running(tasks.SPEC, by_kernel))
    busy = process(workload, "vfork-often")
    start, seen = time.monotonic_ns(), 0
    for second in range(12):
        time.sleep(0.12)
        seen += state_of(busy.pid) == "D"
        probe.round(start + 2 * second * SECOND_NS)

    assert seen > 6, "it sleeps uninterruptibly most of the time"
    assert not probe.find("tasks.stuck", pid=busy.pid)


def test_a_frozen_task_is_not_stuck(running, sampling, process, cgroup, eventually, values, either):
    group = cgroup("freezer")
    frozen = process("sleep", "60", group=group)
    (group / "freezer.state").write_text("FROZEN")
    try:
        eventually(lambda: state_of(frozen.pid) == "D")
        probe = sampling(running(tasks.SPEC, either))
        now = time.monotonic_ns()
        probe.round(now)
        probe.round(now + 6 * SECOND_NS)
    finally:
        (group / "freezer.state").write_text("THAWED")

    assert values(probe.last)[UNINTERRUPTIBLE,] >= 1, "as ps shows it"
    assert values(probe.last)[STUCK,] == len(probe.find("tasks.stuck"))
    assert not probe.find("tasks.stuck", pid=frozen.pid)


def test_both_ways_tell_the_same(running, sampling, blocked):
    (parent,) = blocked()
    told = []
    for way in (by_kernel, by_proc):
        probe = sampling(running(tasks.SPEC, way))
        now = time.monotonic_ns()
        probe.round(now)
        probe.round(now + 6 * SECOND_NS)
        (event,) = probe.find("tasks.stuck", pid=parent.pid)
        told.append({name: value for name, value in event.attributes.items() if name != "since_ns"})

    kernel, proc = told
    assert kernel == proc


class Only(KernelSweep):
    """Of what the kernel tells, these tasks: others of a busy machine are blocked now and then, too."""

    def __init__(self, pids, paths):
        super().__init__(paths)
        self.pids = pids

    def read(self, now_ns):
        counts, records = super().read(now_ns)
        return counts, records[np.isin(records["pid"], self.pids)]


@pytest.fixture
def watch(running, sampling, blocked):
    """A probe that sees only `count` tasks of ours, blocked for 6 seconds at its last round."""

    def start(count):
        pids = [parent.pid for parent in blocked(count)]
        probe = sampling(running(tasks.SPEC, partial(with_sweep, partial(Only, pids))))
        probe.now = time.monotonic_ns()
        probe.round(probe.now)
        probe.round(probe.now + 6 * SECOND_NS)
        return probe

    return start


def test_many_at_once_are_told_one_sweep_after_the_other(watch):
    probe = watch(40)
    assert len(probe.find("tasks.stuck")) == 32

    probe.round(probe.now + 7 * SECOND_NS)
    assert len(probe.find("tasks.stuck")) == 40
    assert probe.last.dropped["rate_limited"] == 0


def test_those_that_are_too_many_are_counted_once(watch, monkeypatch):
    monkeypatch.setattr(tasks, "_MAX_REPORTED", 30)
    probe = watch(40)
    for seconds in (7, 8):
        probe.round(probe.now + seconds * SECOND_NS)

    assert len(probe.find("tasks.stuck")) == 30
    assert probe.last.dropped["rate_limited"] == 10


def test_what_does_not_fit_is_counted(running, sampling, blocked, values):
    blocked(5)
    small = partial(with_sweep, partial(KernelSweep, capacity_records=2))
    probe = sampling(running(tasks.SPEC, small))
    probe.round()

    assert values(probe.last)[UNINTERRUPTIBLE,] >= 5, "counted all the same"
    assert probe.last.dropped["truncated"] == values(probe.last)[UNINTERRUPTIBLE,] - 2


def test_more_records_than_one_read_holds(kernel_allows, blocked):
    """The kernel's buffer holds some hundred records: what does not fit is asked for again, and counted once."""
    blocked(250)
    sweep = KernelSweep(Paths())
    for _ in range(3):
        counts, records = sweep.read(1)
        assert counts[STATES.index("D")] == len(records) >= 250
        assert len(np.unique(records["pid"])) == len(records)
    sweep.close()


def test_without_programs_proc_is_read_and_says_so(running, sampling, blocked, values, monkeypatch, tmp_path):
    monkeypatch.setattr(bpf, "OBJECTS", tmp_path)
    probe = sampling(running(tasks.SPEC))
    (parent,) = blocked()
    now = time.monotonic_ns()
    probe.round(now)
    probe.round(now + 6 * SECOND_NS)

    assert "not built" in probe.last.degraded
    assert probe.find("tasks.stuck", pid=parent.pid)


def test_proc_is_read_at_most_5_percent_of_the_time():
    sweep = ProcSweep(Paths(), why="test")
    start = time.monotonic()
    sweep.read(SECOND_NS)
    took_ns = (time.monotonic() - start) * 1e9

    assert sweep.at_ns == SECOND_NS
    sweep.read(int(SECOND_NS + 10 * took_ns))
    assert sweep.at_ns == SECOND_NS, "rests"
    later = int(SECOND_NS + 30 * took_ns)
    sweep.read(later)
    assert sweep.at_ns == later


def test_progress_follows_each_task():
    def blocked(*rows):
        return np.array(list(rows), [("pid", "u4"), ("start_ns", "u8"), ("switches", "u8")])

    progress = Progress()
    assert progress.update(blocked((7, 1, 1), (3, 1, 1)), 100)["since_ns"].tolist() == [100, 100]
    later = progress.update(blocked((3, 1, 1), (5, 1, 1), (7, 1, 2)), 200)
    assert later["since_ns"].tolist() == [100, 200, 200], "3 did not run, 5 is new, 7 ran"
    reused = progress.update(blocked((3, 2, 1), (5, 1, 1)), 300)
    assert reused["since_ns"].tolist() == [300, 200], "another task has the pid 3"
    assert len(progress.update(blocked(), 400)) == 0
    assert progress.update(blocked((5, 1, 1)), 500)["since_ns"].tolist() == [500]


def test_a_name_with_brackets_and_spaces_is_read(tmp_path):
    task = tmp_path / "77/task/78"
    task.mkdir(parents=True)
    stat = b"78 (a) R (b) D 1 " + b" ".join(b"%d" % n for n in range(5, 60))
    (task / "stat").write_bytes(stat)
    (task / "status").write_text("voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n")
    (task / "cgroup").write_text("4:cpu,cpuacct:/a/b\n0::/unified\n")
    (tmp_path / "version").write_text("no task")

    sweep = ProcSweep(Paths(proc=tmp_path), why="test")
    counts, (record,) = sweep.read(1)

    assert counts.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert (record["pid"], record["tgid"], record["switches"], record["start_ns"]) == (78, 77, 11, 22)
    assert sweep.names(record) == {"task": "a) R (b", "cgroup": "/a/b"}
    assert sweep.stack(record) == []
