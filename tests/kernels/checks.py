"""One check per probe: known work, and the numbers and events that must follow from it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import workloads
from outcome import Outcome, Watched, bpf_maps, expect

from eagle_eye.probes.model import Event
from eagle_eye.probes.probe import Spec

RUNS = 23
# Task storage may refuse a task while an interrupt finds it busy.
MAX_UNTRACKED = 23
# Kernel workers come and go between two looks.
MAX_BORN_BETWEEN = 5
# What CPUs (64 pages each) or, on older kernels, threads keep in counters of their own.
MAX_HELD_BACK_BYTES = 64 * 4096 * (os.cpu_count() or 1)
CONTAINER = "0123456789abcdef" * 4
POD = f"kubepods.slice/cri-containerd-{CONTAINER}.scope"
MARK_VICTIM = Path("/sys/kernel/tracing/events/oom/mark_victim/format")
ATTACHED = "eagle_eye_tracepoint_attached"
EXITS = "eagle_eye_process_exits_total"
HELD_S = 0.5
KMSG_LINES = 23


def any_probe(spec: Spec) -> Outcome:
    """For a probe without a check of its own: it starts, and all that it says is lawful."""
    with Watched(spec) as probe:
        time.sleep(1)
        probe.sample()
        return outcome(probe)


def outcome(probe: Watched, variant: str = "", detail: str = "") -> Outcome:
    lost = probe.lost()
    # A bound that the probe keeps; what a check waits for has come all the same.
    lost.pop("rate_limited", 0)
    untracked = lost.pop("untracked", 0)
    expect(not lost, f"evidence was lost: {lost}")
    expect(untracked < MAX_UNTRACKED, f"{untracked} waits were not tracked")
    if probe.last.degraded:
        return Outcome("degraded", variant, probe.last.degraded)
    return Outcome("ok", variant, detail)


def sched(spec: Spec) -> Outcome:
    """A waiter that a hog keeps from its CPU, each in a cgroup of its own."""
    with Watched(spec) as probe, workloads.cgroup("ee-hog") as hogs, workloads.cgroup("ee-waiter") as waiters:
        variant = "task storage" if "queued_storage" in bpf_maps() else "LRU hash"
        switches = context_switches(probe)
        work = workloads.hold_cpu(1, hogs, waiters, HELD_S)
        long_waits = probe.until(lambda: waits_of(probe, work.waiter_pid, HELD_S / 2), "the wait of ee-waiter")
        expect(len(long_waits) == 1, f"one wait was reported {len(long_waits)} times")
        wait = long_waits[0].attributes
        instead = wait.get("ran_instead", {})
        expect(wait["wait_seconds"] < HELD_S * 1.2, f"waited {wait['wait_seconds']} s of {HELD_S}")
        expect(wait["cpu"] == 1, f"the hog was on CPU 1, not {wait['cpu']}")
        expect((instead.get("task"), instead.get("pid")) == ("ee-hog", work.hog_pid), f"not the hog: {instead}")
        expect(instead["share_ratio"] > 0.9, f"the hog ran for {instead['share_ratio']} of the wait")
        expect((wait.get("cgroup"), instead.get("cgroup")) == ("/ee-waiter", "/ee-hog"), f"cgroups: {wait}")
        expect(probe.value("eagle_eye_sched_run_queue_seconds") > 0, "the histogram is empty")
        counted, true = (after - before for after, before in zip(context_switches(probe), switches, strict=True))
        expect(abs(counted - true) <= true / 10, f"{counted:.0f} context switches, /proc/stat has {true}")
        return outcome(
            probe, variant, f"waited {wait['wait_seconds']:.3f} s for ee-hog; {counted:.0f} switches of {true}"
        )


def waits_of(probe: Watched, pid: int, least_s: float) -> list[Event]:
    return [e for e in probe.find("sched.long_wait", pid=pid) if e.attributes["wait_seconds"] >= least_s]


def context_switches(probe: Watched) -> tuple[float, int]:
    """As the probe and as /proc/stat has them."""
    probe.sample()
    found = re.search(r"^ctxt (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert found
    return probe.value("eagle_eye_sched_context_switches_total"), int(found[1])


def tasks(spec: Spec) -> Outcome:
    """A task in state D that makes no progress, until it does."""
    with Watched(spec, stuck_after="1s") as probe, workloads.cgroup("ee-blocked") as group:
        pid = workloads.sleep_uninterruptibly(2.5, group)
        stuck = probe.event("tasks.stuck", pid=pid).attributes
        expect(stuck["stack"], "no kernel stack")
        expect("clone" in " ".join(stuck["stack"]), f"not the stack of a clone: {stuck['stack']}")
        expect((stuck["task"], stuck.get("cgroup")) == ("ee-blocked", "/ee-blocked"), f"is {stuck}")
        expect(probe.value("eagle_eye_tasks_stuck") == 1, "the number of stuck tasks is wrong")
        expect(probe.value("eagle_eye_tasks_uninterruptible") >= 1, "no task is uninterruptible")
        threads = len(list(Path("/proc").glob("[0-9]*/task/[0-9]*")))
        counted = probe.value("eagle_eye_tasks")
        expect(abs(counted - threads) <= MAX_BORN_BETWEEN, f"{counted} tasks, /proc has {threads}")
        os.waitpid(pid, 0)
        probe.event("tasks.unstuck", pid=pid)
        degraded = bool(probe.last.degraded)
        return outcome(
            probe, "/proc" if degraded else "task iterator", f"{len(stuck['stack'])} frames; {threads} tasks"
        )


def process(spec: Spec) -> Outcome:
    """Programs that start and end, a kill with its sender, a kill by the kernel."""
    with Watched(spec, events_per_second="1000") as probe:
        before = {reason: probe.value(EXITS, reason=reason) for reason in ("ok", "error", "signal", "oom")}
        runs = workloads.run_program("/bin/true", RUNS)
        failed, kill = workloads.exit_with(7), workloads.kill_one("ee-killer")
        with workloads.cgroup("kubepods.slice") as pods:
            workloads.enable_controllers(pods)
            with workloads.cgroup(POD, memory_max="16M") as group:
                victim = workloads.overuse_memory(group, "ee-victim")
                where = {"pid": victim, "cgroup": f"/{POD}", "container": CONTAINER}
                probe.event("process.exit", reason="oom", signal="SIGKILL", sender={"kernel": True}, **where)
                oom = probe.event("process.oom_kill", task="ee-victim", **where).attributes
        for pid in runs:
            probe.event("process.exec", pid=pid, filename="/bin/true", parent_pid=os.getpid(), cgroup="/")
            probe.event("process.exit", pid=pid, reason="ok", exit_code=0, task="true")
        probe.event("process.exit", pid=failed, reason="error", exit_code=7)
        killed = probe.event("process.exit", pid=kill.victim_pid, reason="signal", signal="SIGKILL").attributes
        sender = {"kernel": False, "task": "ee-killer", "pid": kill.sender_pid, "uid": 0, "cgroup": "/"}
        expect(killed.get("sender") == sender, f"the sender is {killed.get('sender')}")
        expect(oom["cgroup_limit_bytes"] == 16 << 20, f"the limit is {oom['cgroup_limit_bytes']}")
        resident = victim_as_logged(victim)
        told = {kind: oom[f"{kind}_bytes"] for kind in resident}
        far = [kind for kind in resident if abs(told[kind] - resident[kind]) > MAX_HELD_BACK_BYTES]
        expect(not far and told["total_vm"] == resident["total_vm"], f"victim: {told}, kernel log: {resident}")
        counted = {reason: probe.value(EXITS, reason=reason) - count for reason, count in before.items()}
        # The killer ends well, too.
        expect(counted == {"ok": RUNS + 1, "error": 1, "signal": 1, "oom": 1}, f"exits: {counted}")
        expect(probe.value("eagle_eye_oom_kills_total") == 1, "the number of OOM kills is wrong")
        variant = "victim by task" if "uid" in MARK_VICTIM.read_text() else "victim by pid"
        return outcome(
            probe,
            variant,
            f"{RUNS} programs, exit 7, SIGKILL by ee-killer, OOM of {told['anon'] >> 20} MiB in a container",
        )


def victim_as_logged(pid: int) -> dict[str, int]:
    """Bytes by kind, from the kernel's own line about the kill."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    kinds = {"total_vm": "total-vm", "anon": "anon-rss", "file": "file-rss", "shmem": "shmem-rss"}
    (line,) = (line for line in log.splitlines() if f"Killed process {pid} " in line)
    return {kind: int(re.search(rf"{name}:(\d+)kB", line)[1]) * 1024 for kind, name in kinds.items()}


def kmsg(spec: Spec) -> Outcome:
    # The default allows ten lines in five seconds.
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    with Watched(spec) as probe, open("/dev/kmsg", "w") as log:
        for number in range(KMSG_LINES):
            log.write(f"<4>eagle-eye line {number}\n")
            log.flush()
        probe.event("kmsg.record", text=f"eagle-eye line {KMSG_LINES - 1}")
        seen = [e for e in probe.events if e.attributes["text"].startswith("eagle-eye line ")]
        expect(len(seen) == KMSG_LINES, f"{len(seen)} lines of {KMSG_LINES}")
        expect(all(e.attributes["level"] == "warning" for e in seen), "a level is wrong")
        return outcome(probe, detail=f"{len(seen)} of {KMSG_LINES} lines")


def pressure(spec: Spec) -> Outcome:
    """A task that wants a whole CPU and may have a tenth of it."""
    with Watched(spec) as probe, workloads.cgroup("ee-quota", cpu_max="10000 100000") as group:
        hog = workloads.start(workloads.spin, group=group)
        try:
            probe.until(lambda: throttled_s(probe, "/ee-quota") > HELD_S, "throttled time of /ee-quota")
        finally:
            workloads.end(hog)
        # Quota that was used up in advance is still paid back for a while.
        probe.until(lambda: abs(throttled_s(probe, "/ee-quota") - throttled_s_of(group)) < 1e-6, "what cpu.stat says")
        memory, installed = (
            probe.value("eagle_eye_memory_size_bytes"),
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
        expect(memory == installed, f"memory of {memory} bytes, not {installed}")
        return outcome(probe, "cgroup2", f"throttled for {throttled_s(probe, '/ee-quota'):.2f} s")


def throttled_s(probe: Watched, cgroup: str) -> float:
    name = "eagle_eye_cgroup_throttled_seconds_total"
    return sum(s.value for s in probe.last.series if s.metric.name == name and s.labels == (cgroup,))


def throttled_s_of(group: Path) -> float:
    found = re.search(r"throttled_usec (\d+)", (group / "cpu.stat").read_text())
    expect(found, "cpu.stat tells no throttled time")
    return int(found[1]) / 1e6


def link(spec: Spec) -> Outcome:
    """The loopback device goes up, down and up again."""
    with Watched(spec, every_link="true") as probe:
        for word, state in (("up", "up"), ("down", "down"), ("up", "up")):
            subprocess.run(["ip", "link", "set", "lo", word], check=True)
            probe.until(lambda s=state: states_of(probe, "lo")[-1:] == [s], f"lo {state}")
        expect(states_of(probe, "lo")[-2:] == ["down", "up"], f"lo went through {states_of(probe, 'lo')}")
        expect(probe.value("eagle_eye_link_up", device="lo") == 1, "lo is not up")
        return outcome(probe, detail="lo up, down, up")


def states_of(probe: Watched, device: str) -> list[str]:
    return [e.attributes["state"] for e in probe.find("link.state", device=device)]


def tracepoints(spec: Spec) -> Outcome:
    """Each tracepoint that this kernel has is attached, and no other."""
    with Watched(spec) as probe:
        names = [series.labels[0] for series in probe.last.series if series.metric.name == ATTACHED]
        here = {name for name in names if list(Path("/sys/kernel/tracing/events").glob(f"*/{name}"))}
        attached = {name for name in names if probe.value(ATTACHED, tracepoint=name)}
        expect(attached == here, f"attached {sorted(attached)}, the kernel has {sorted(here)}")
        return outcome(probe, detail=", ".join(sorted(attached)))


def features() -> str:
    """What this kernel offers, in a few words."""
    has = {
        "BTF": Path("/sys/kernel/btf/vmlinux").exists(),
        "PSI": Path("/proc/pressure/cpu").exists(),
        "cgroup2 alone": Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    }
    return ", ".join(name for name, present in has.items() if present)


PROBES: dict[str, Callable[[Spec], Outcome]] = {
    "sched": sched,
    "tasks": tasks,
    "process": process,
    "link": link,
    "kmsg": kmsg,
    "tracepoints": tracepoints,
    "pressure": pressure,
}
