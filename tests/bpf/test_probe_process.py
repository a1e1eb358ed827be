"""Programs started, processes ended, signals and OOM kills on the running kernel: known work, exact counts."""

import importlib.util
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native import bpf
from eagle_eye.probes import process as probe_module
from eagle_eye.probes.process import ProcessProbe, exit_severity, exit_status

ROOT = Path(__file__).parents[2]
SPEC = probe_module.SPEC
EXITS, EXECS, OOM_KILLS = (metric.name for metric in SPEC.metrics)

EAT = "x = []\nwhile True: x.append(bytearray(b'x' * 1_000_000))"


@pytest.fixture
def probe(running, sampling):
    return sampling(running(SPEC))


def test_23_execs_are_23_events(probe, tmp_path):
    program = tmp_path / "known-program-with-a-long-name"
    shutil.copy("/bin/true", program)
    pids = []
    for _ in range(23):
        child = subprocess.Popen([program])
        child.wait()
        pids.append(child.pid)
    probe.round()

    execs, exits = probe.find("process.exec", filename=str(program)), probe.find("process.exit", task="known-program-w")
    assert [event.attributes["pid"] for event in execs] == pids
    assert [event.attributes["pid"] for event in exits] == pids
    assert {event.attributes["parent_pid"] for event in execs + exits} == {os.getpid()}
    assert {(event.attributes["reason"], event.attributes["exit_code"]) for event in exits} == {("ok", 0)}
    assert all(0 < event.attributes["runtime_seconds"] < 5 for event in exits)
    assert all(event.severity == "info" for event in execs + exits)
    assert len({event.id for event in probe.events}) == len(probe.events)
    times = [event.at_ns for event in probe.events]
    assert times == sorted(times)


def test_23_exits_by_reason(running, finish, process, values):
    probe = running(SPEC)
    ends = ["exit 0"] * 5 + ["exit 3"] * 7 + ["kill -TERM $$"] * 6 + ["kill -SEGV $$"] * 5
    children = [process("sh", "-c", end) for end in ends]
    for child in children:
        child.wait()

    last = finish(probe)

    pids = {child.pid for child in children}
    ours = [event for event in last.events if event.kind == "process.exit" and event.attributes["pid"] in pids]
    assert Counter(event.attributes["reason"] for event in ours) == {"ok": 5, "error": 7, "signal": 11}
    assert Counter(event.attributes.get("exit_code") for event in ours) == {0: 5, 3: 7, None: 11}
    assert Counter(event.attributes.get("signal") for event in ours) == {None: 12, "SIGTERM": 6, "SIGSEGV": 5}
    assert Counter(event.severity for event in ours) == {"info": 18, "warning": 5}
    told = Counter(event.attributes["reason"] for event in last.events if event.kind == "process.exit")
    assert {reason: values(last)[EXITS, reason] for reason in told} == told, "nothing dropped: every exit is an event"
    assert sum(last.dropped.values()) == 0


def test_who_sent_a_sigkill_is_named(probe, process):
    victim = process("sleep", "60")
    killer = process("bash", "-c", f"kill -9 {victim.pid}; sleep 60")
    victim.wait()

    ended = probe.wait_for("process.exit", pid=victim.pid)

    assert (ended.attributes["reason"], ended.attributes["signal"], ended.severity) == ("signal", "SIGKILL", "warning")
    sender = ended.attributes["sender"]
    assert (sender["kernel"], sender["task"], sender["pid"], sender["uid"]) == (False, "bash", killer.pid, os.getuid())


def test_a_fault_is_sent_by_the_kernel(probe, process, workload):
    crashed = process(workload, "crash")
    crashed.wait()

    ended = probe.wait_for("process.exit", pid=crashed.pid)

    assert ended.attributes["signal"] == "SIGSEGV"
    assert ended.attributes["sender"] == {"kernel": True}


def test_harmless_signals_are_not_blamed(probe, process):
    sleeper = process("sleep", "60")
    for harmless in (signal.SIGSTOP, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG):
        sleeper.send_signal(harmless)
    sleeper.terminate()
    sleeper.wait()

    ended = probe.wait_for("process.exit", pid=sleeper.pid)

    assert ended.attributes["signal"] == "SIGTERM"
    assert ended.attributes["sender"]["pid"] == os.getpid()


def test_an_old_signal_is_not_blamed_for_a_new_process(running, sampling, process):
    """A signal that its receiver handled says nothing about how another process of that pid ends."""
    ignorer = process("sh", "-c", "trap : USR1; while :; do sleep 0.05; done")
    time.sleep(0.2)
    probe = sampling(running(SPEC))
    ignorer.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    ignorer.kill()
    ignorer.wait()

    ended = probe.wait_for("process.exit", pid=ignorer.pid)

    assert (ended.attributes["signal"], ended.attributes["sender"]["pid"]) == ("SIGKILL", os.getpid())


@pytest.mark.parametrize("how", ["leader-first", "together"])
def test_a_process_of_many_threads_ends_once_with_the_code_that_its_parent_gets(probe, process, workload, how):
    codes = {child.pid: child.wait() for child in [process(workload, how) for _ in range(20)]}
    probe.round()

    assert set(codes.values()) <= {0, 4, 5, 9}
    for pid, code in codes.items():
        assert [event.attributes["exit_code"] for event in probe.find("process.exit", pid=pid)] == [code]


def test_oom_in_a_cgroup_arrives_at_once_with_figures(probe, process, cgroup, values):
    limit = 32 * 2**20
    group = cgroup("memory", limit_in_bytes=limit)
    probe.round()
    start = time.monotonic()
    victim = process(sys.executable, "-c", EAT, group=group)
    victim.wait()
    fds = probe.probe.wake_fds()
    readable = select.select(fds, [], [], 1)[0]
    event = probe.wait_for("process.oom_kill", seconds=1, pid=victim.pid)

    assert readable, "an OOM kill wakes its reader"
    assert time.monotonic() - start < 10
    assert event.severity == "error"
    facts = event.attributes
    assert facts["cgroup"] == f"/{group.name}"
    assert facts["cgroup_limit_bytes"] == limit
    assert 0 <= facts["cgroup_usage_bytes"] <= limit
    assert facts["task"].startswith("python")
    assert 0.6 * limit < facts["anon_bytes"] < 1.2 * limit
    assert facts["resident_bytes"] == facts["anon_bytes"] + facts["file_bytes"] + facts["shmem_bytes"]
    assert facts["total_vm_bytes"] > facts["resident_bytes"]
    assert facts["page_tables_bytes"] > 0
    assert facts["oom_score_adj"] == 0
    assert facts["trigger"]["pid"] == victim.pid
    assert facts["trigger"]["cgroup"] == f"/{group.name}"
    ended = probe.wait_for("process.exit", pid=victim.pid)
    assert (ended.attributes["reason"], ended.attributes["signal"], ended.severity) == ("oom", "SIGKILL", "error")
    assert ended.attributes["sender"] == {"kernel": True}
    assert values(probe.last)[OOM_KILLS,] == 1
    assert values(probe.last)[EXITS, "oom"] == 1


def test_the_figures_are_those_of_the_kernel_log(probe, process, cgroup):
    group = cgroup("memory", limit_in_bytes=48 * 2**20)
    victim = process(sys.executable, "-c", EAT, group=group)
    victim.wait()
    facts = probe.wait_for("process.oom_kill", pid=victim.pid).attributes

    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in log.splitlines() if f"Killed process {victim.pid} " in line)
    for name, key in (("total-vm", "total_vm"), ("anon-rss", "anon"), ("file-rss", "file"), ("shmem-rss", "shmem")):
        told = int(line.partition(f"{name}:")[2].partition("kB")[0]) * 1024
        assert facts[f"{key}_bytes"] == pytest.approx(told, rel=0.05, abs=600_000)


def test_a_fork_storm_is_counted_and_hides_no_kill(running, finish, process, values):
    probe = running(SPEC, events_per_second=10)
    storm = 3000
    victim = process("sleep", "60")
    code = f"import os\nfor _ in range({storm}):\n  p = os.fork()\n  p or os._exit(0)\n  os.waitpid(p, 0)"
    child = process(sys.executable, "-c", code)
    time.sleep(0.5)
    victim.kill()
    child.wait()
    victim.wait()

    last = finish(probe)

    counted = {name: values(last)[EXITS, name] for name in probe_module.REASONS}
    assert storm + 1 <= counted["ok"] < storm + 500
    assert len([event for event in last.events if event.kind == "process.exit"]) < 500
    assert [event for event in last.events if event.attributes["pid"] == victim.pid and event.kind == "process.exit"]
    produced = sum(counted.values()) + values(last)[EXECS,] + values(last)[OOM_KILLS,]
    assert produced == len(last.events) + last.dropped["rate_limited"]
    assert last.dropped["ring_full"] == last.dropped["bad_record"] == 0


KILLED = """
import os
os.sched_setaffinity(0, {%d})
for _ in range(%d):
    pid = os.fork()
    pid or os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
"""


def test_the_bound_is_of_the_node_although_one_cpu_has_all_the_events(running, finish):
    probe = running(SPEC, events_per_second=40)
    parent = subprocess.Popen([sys.executable, "-c", KILLED % (min(os.sched_getaffinity(0)), 35)])
    parent.wait()

    last = finish(probe)

    assert len([event for event in last.events if event.attributes.get("parent_pid") == parent.pid]) == 35


def test_every_record_is_an_event_or_a_counted_loss(running, finish, values):
    tiny = partial(ProcessProbe, ring_bytes=4096)
    probe = running(SPEC, tiny, events_per_second=10_000)
    for _ in range(150):
        subprocess.run(["/bin/true"], check=True)

    last = finish(probe)

    assert last.dropped["ring_full"] > 150
    produced = sum(values(last)[EXITS, name] for name in probe_module.REASONS) + values(last)[EXECS,]
    assert produced >= 300
    assert produced == len(last.events) + last.dropped["ring_full"] + last.dropped["rate_limited"]


def test_names_are_only_text(probe, tmp_path):
    program = tmp_path / "bad\udcff\x1b[31m\nname"
    shutil.copy("/bin/true", program)
    child = subprocess.Popen([program])
    child.wait()

    started = probe.wait_for("process.exec", pid=child.pid)
    assert started.attributes["filename"].endswith("bad\ufffd\x1b[31m\nname")
    assert started.attributes["task"] == "bad\ufffd\x1b[31m\nname"[:15]


def test_a_long_filename_says_that_it_is_cut(probe, tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    program = folder / "program"
    shutil.copy("/bin/true", program)
    subprocess.run([program], check=True)
    probe.round()

    (started,) = (event for event in probe.find("process.exec") if event.attributes["task"] == "program")
    assert started.attributes["filename_truncated"] is True
    assert str(program).startswith(started.attributes["filename"])
    assert len(started.attributes["filename"]) == 127


@pytest.fixture
def older_kernel(tmp_path, monkeypatch):
    """The object as an older kernel takes it: no word of the last thread's end, of a victim only the pid."""
    source = (ROOT / "bpf/process.bpf.c").read_text()
    for newer, older in (
        ("bpf_core_field_exists(struct trace_event_raw_mark_victim, uid)", "false"),
        ("bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead)", "false"),
        ("recall_victim(oom, ctx[0])", "recall_victim(oom, ((struct task_struct *)ctx[0])->pid)"),
    ):
        assert newer in source
        source = source.replace(newer, older)
    (tmp_path / "process.bpf.c").write_text(source)
    spec = importlib.util.spec_from_file_location("eagle_eye_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    setup.compile_bpf(tmp_path / "process.bpf.c", tmp_path / platform.machine() / "process.bpf.o")
    monkeypatch.setattr(bpf, "OBJECTS", tmp_path)


def test_older_kernels_tell_the_victims_figures_too(older_kernel, probe, process, cgroup):
    group = cgroup("memory", limit_in_bytes=32 * 2**20)
    victim = process(sys.executable, "-c", EAT, group=group)
    victim.wait()

    facts = probe.wait_for("process.oom_kill", pid=victim.pid).attributes

    assert facts["cgroup"] == f"/{group.name}"
    assert facts["task"].startswith("python")
    assert 0.6 * 32 * 2**20 < facts["anon_bytes"] < 1.2 * 32 * 2**20
    assert facts["trigger"]["pid"] == victim.pid
    assert probe.wait_for("process.exit", pid=victim.pid).attributes["reason"] == "oom"


def test_a_victim_that_nobody_saw_killed_has_no_figures(probe):
    (record,) = np.zeros(1, bpf.record_dtype("process_oom"))
    record["at_ns"], record["pid"] = 5, 77

    event = probe.probe._oom(record)

    assert (event.kind, event.at_ns, event.attributes) == ("process.oom_kill", 5, {"pid": 77})


def test_older_kernels_count_a_process_once(older_kernel, probe, process, workload):
    for how in ("leader-first", "together"):
        codes = {child.pid: child.wait() for child in [process(workload, how) for _ in range(20)]}
        probe.round()
        for pid, code in codes.items():
            assert [event.attributes["exit_code"] for event in probe.find("process.exit", pid=pid)] == [code]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, {"exit_code": 0}),
        (3 << 8, {"exit_code": 3}),
        (9, {"signal": "SIGKILL", "core_dumped": False}),
        (0x80 | 11, {"signal": "SIGSEGV", "core_dumped": True}),
        (45, {"signal": "SIG45", "core_dumped": False}),
    ],
)
def test_wait_status(status, expected):
    assert exit_status(status) == expected


def test_severities():
    assert exit_severity("oom", "SIGKILL") == "error"
    assert exit_severity("signal", "SIGKILL") == exit_severity("signal", "SIGABRT") == "warning"
    assert exit_severity("signal", "SIGTERM") == exit_severity("error", "") == exit_severity("ok", "") == "info"
