"""Run-queue waits: how long tasks that could run waited for a CPU, and who had it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..native.errors import BpfLoadError
from .cgroup import CgroupTree
from .kernel import PROGRAM_NEEDS, Cgroups, text
from .model import Event
from .options import Option
from .probe import Context, Histogram, Metric, Sample, Series, Spec

if TYPE_CHECKING:
    from ..native.bpf import Object

RUN_QUEUE = Metric(
    "eagle_eye_sched_run_queue_seconds",
    "histogram",
    "Time tasks waited for a CPU, from wake-up or preemption until they ran.",
)
SWITCHES = Metric("eagle_eye_sched_context_switches_total", "counter", "Context switches of all CPUs.")
LONG_WAITS = Metric("eagle_eye_sched_long_waits_total", "counter", "Waits for a CPU of `long_wait` or more.")

LONG_WAIT = Option(
    "long_wait",
    "duration",
    "10ms",
    "a wait for a CPU that is reported with the task that ran instead; several time slices (3 ms by default), "
    "so that an ordinary turn of a neighbour is no event",
    minimum="100us",
    maximum="60s",
)
EVENTS_PER_SECOND = Option(
    "events_per_second",
    "integer",
    50,
    "bound on reported waits of this node; what is above is counted",
    minimum=1,
    maximum=10_000,
)

# Slot k of bpf/sched.h holds waits below 1024 << k ns; these are the slots after which a bucket ends.
_LAST_SLOTS = (2, 4, 6, 8, 10, 12, 13, 14, 15, 17, 20)
_BOUNDS = tuple((1024 << slot) / 1e9 for slot in _LAST_SLOTS)
_FIRST_SLOTS = (0, *(slot + 1 for slot in _LAST_SLOTS))

# After an event about a task, its next long waits are only counted for so long.
_TASK_PAUSE_NS = 1_000_000_000

# Turns on a CPU that are shorter than this part of `long_wait` explain no long wait.
_STINT_PART = 64


class SchedProbe:
    def __init__(
        self,
        context: Context,
        *,
        use_task_storage: bool,
        ring_bytes: int = 256 * 1024,
        task_pause_ns: int = _TASK_PAUSE_NS,
    ) -> None:
        from ..native.bpf import Ring, record_dtype

        self._events = context.events
        self._cgroups = Cgroups(CgroupTree(context.paths))
        self._object = _open(context, self._cgroups, use_task_storage)
        self._object.resize("long_waits", ring_bytes)
        self._object.set_constants(task_pause_ns=task_pause_ns)
        self._object.load()
        self._stats = self._object.map("stats").view(record_dtype("sched_stats"))
        self._ring = Ring(self._object.map("long_waits"), record_dtype("sched_long_wait"))
        # The switch first: a task woken before it is watched would seem to wait until it runs the next time.
        for program in ("on_switch", "on_wakeup", "on_wakeup_new"):
            self._object.attach(program)

    def sample(self, now_ns: int) -> Sample:
        events = [self._event(wait) for wait in self._ring.drain()]
        return Sample(self._series(), events, self._dropped())

    def wake_fds(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        self._ring.close()
        self._object.close()

    def _series(self) -> tuple[Series, ...]:
        stats = self._stats
        slots = stats["wait_count"].sum(axis=0)
        waits = Histogram(_BOUNDS, np.add.reduceat(slots, _FIRST_SLOTS), int(stats["wait_sum_ns"].sum()) / 1e9)
        return (
            Series(RUN_QUEUE, waits),
            Series(SWITCHES, int(stats["context_switches"].sum())),
            Series(LONG_WAITS, int(stats["long_waits"].sum())),
        )

    def _dropped(self) -> dict[str, int]:
        """`untracked`: waits not measured, because the kernel gave no memory to note their start."""
        counted = {name: int(self._stats[name].sum()) for name in ("rate_limited", "ring_full", "untracked")}
        return {**counted, "bad_record": self._ring.bad_records}

    def _event(self, wait: Any) -> Event:
        return self._events.make(
            "sched.long_wait",
            wait["at_ns"],
            entity="host",
            severity="warning",
            task=text(wait["comm"]),
            pid=int(wait["pid"]),
            tgid=int(wait["tgid"]),
            **self._cgroups.of(wait["cgroup_id"]),
            cpu=int(wait["queued_cpu"]),
            ran_on_cpu=int(wait["run_cpu"]),
            wait_seconds=int(wait["wait_ns"]) / 1e9,
            **self._ran_instead(wait),
        )

    def _ran_instead(self, wait: Any) -> dict[str, Any]:
        """Left out when no turn on that CPU was long enough to be remembered."""
        ran_ns = int(wait["ran_instead_ns"])
        if not ran_ns:
            return {}
        if not wait["ran_instead_pid"]:
            who = {"task": "idle", "pid": 0, "tgid": 0}
        else:
            who = {
                "task": text(wait["ran_instead_comm"]),
                "pid": int(wait["ran_instead_pid"]),
                "tgid": int(wait["ran_instead_tgid"]),
                **self._cgroups.of(wait["ran_instead_cgroup_id"]),
            }
        share = min(1.0, ran_ns / max(1, int(wait["wait_ns"])))
        return {"ran_instead": {**who, "ran_seconds": ran_ns / 1e9, "share_ratio": round(share, 4)}}


def _open(context: Context, cgroups: Cgroups, use_task_storage: bool) -> Object:
    from ..native.bpf import Object, possible_cpus

    program = Object.named("sched")
    for per_cpu in ("stats", "runs"):
        program.resize(per_cpu, possible_cpus())
    program.set_constants(
        long_wait_ns=context.options["long_wait"],
        min_stint_ns=context.options["long_wait"] // _STINT_PART,
        events_per_second=context.options["events_per_second"],
        cgroup_hierarchy=cgroups.hierarchy(),
        use_task_storage=use_task_storage,
    )
    program.leave_out("queued_hash" if use_task_storage else "queued_storage")
    return program


def build(context: Context) -> SchedProbe:
    try:
        return SchedProbe(context, use_task_storage=True)
    except BpfLoadError:
        # Older kernels have no task storage, or keep it for security modules.
        return SchedProbe(context, use_task_storage=False)


SPEC = Spec(
    name="sched",
    help="Run-queue waits, context switches, and long waits with the task that ran instead.",
    build=build,
    metrics=(RUN_QUEUE, SWITCHES, LONG_WAITS),
    needs=PROGRAM_NEEDS,
    optional=("task_storage", "cgroup"),
    options=(LONG_WAIT, EVENTS_PER_SECOND),
    cost="0.15 to 0.45 µs per context switch",
)
