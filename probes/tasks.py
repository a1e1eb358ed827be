"""Tasks by state, and those that sleep uninterruptibly without making progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..native.errors import BpfError, UnavailableError
from .kernel import PROGRAM_NEEDS
from .model import Event, Severity
from .options import Option
from .probe import Context, EventSource, Metric, Sample, Series, Spec
from .task_sweeps import STATES, KernelSweep, ProcSweep, Sweep

COUNT = Metric("eagle_eye_tasks", "gauge", "Tasks (threads) by state, in the letters of ps.", ("state",))
UNINTERRUPTIBLE = Metric("eagle_eye_tasks_uninterruptible", "gauge", "Tasks that sleep uninterruptibly.")
STUCK = Metric("eagle_eye_tasks_stuck", "gauge", "Uninterruptible tasks that made no progress for `stuck_after`.")

STUCK_AFTER = Option(
    "stuck_after",
    "duration",
    "5s",
    "a task that sleeps uninterruptibly and was not run once for so long is stuck",
    minimum="1s",
    maximum="1h",
)

# A hung file server sticks thousands of tasks at once: so many are told per sweep and in all, the others counted.
_EVENTS_PER_SWEEP = 32
_MAX_REPORTED = 1024

Key = tuple[int, int, int]


class Progress:
    """Since when each blocked task has not been run: same pid, start and number of switches."""

    def __init__(self) -> None:
        self._last = np.zeros(0, [("pid", "u4"), ("start_ns", "u8"), ("switches", "u8"), ("since_ns", "u8")])

    def update(self, blocked: np.ndarray[Any, Any], now_ns: int) -> np.ndarray[Any, Any]:
        """Fields pid, start_ns, switches and since_ns, in the order of `blocked`."""
        here = np.zeros(len(blocked), self._last.dtype)
        for name in ("pid", "start_ns", "switches"):
            here[name] = blocked[name]
        here["since_ns"] = now_ns
        if len(self._last) and len(here):
            self._carry_over(here)
        self._last = here[np.argsort(here["pid"], kind="stable")]
        return here

    def _carry_over(self, here: np.ndarray[Any, Any]) -> None:
        at = np.searchsorted(self._last["pid"], here["pid"]).clip(max=len(self._last) - 1)
        before = self._last[at]
        same = (before["pid"] == here["pid"]) & (before["start_ns"] == here["start_ns"])
        same &= before["switches"] == here["switches"]
        here["since_ns"][same] = before["since_ns"][same]


class TasksProbe:
    def __init__(self, sweep: Sweep, events: EventSource, *, stuck_after_ns: int) -> None:
        self._sweep = sweep
        self._events = events
        self._stuck_after_ns = stuck_after_ns
        self._progress = Progress()
        self._reported: dict[Key, dict[str, Any] | None] = {}
        self._untold: set[Key] = set()
        self._rate_limited = 0

    def sample(self, now_ns: int) -> Sample:
        counts, blocked = self._sweep.read(now_ns)
        at_ns = self._sweep.at_ns
        progress = self._progress.update(blocked, at_ns)
        stuck = np.flatnonzero(at_ns - progress["since_ns"] >= self._stuck_after_ns)
        keys = [_key(progress[index]) for index in stuck]
        events = [*self._recovered(set(keys), at_ns), *self._new(stuck, keys, blocked, progress, at_ns)]
        frozen = sum(1 for reported in self._reported.values() if reported is None)
        return Sample(self._series(counts, len(stuck) - frozen), events, self._dropped(), self._sweep.degraded)

    def wake_fds(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        self._sweep.close()

    def _series(self, counts: np.ndarray[Any, Any], stuck: int) -> tuple[Series, ...]:
        by_state = [Series(COUNT, count, (state,)) for state, count in zip(STATES, counts.tolist(), strict=True)]
        return (*by_state, Series(UNINTERRUPTIBLE, int(counts[STATES.index("D")])), Series(STUCK, stuck))

    def _dropped(self) -> dict[str, int]:
        return {"rate_limited": self._rate_limited, "truncated": self._sweep.truncated}

    def _new(
        self,
        stuck: np.ndarray[Any, Any],
        keys: list[Key],
        blocked: np.ndarray[Any, Any],
        progress: np.ndarray[Any, Any],
        at_ns: int,
    ) -> Iterator[Event]:
        told = 0
        for index, key in zip(stuck.tolist(), keys, strict=True):
            if key in self._reported or key in self._untold:
                continue
            if len(self._reported) >= _MAX_REPORTED:
                self._untold.add(key)
                self._rate_limited += 1
                continue
            if told == _EVENTS_PER_SWEEP:
                return
            told += 1
            since_ns = int(progress["since_ns"][index])
            details = self._describe(blocked[index], since_ns)
            self._reported[key] = details
            if details is not None:
                yield self._event("tasks.stuck", at_ns, details, stuck_seconds=(at_ns - since_ns) / 1e9)

    def _recovered(self, stuck: set[Key], at_ns: int) -> Iterator[Event]:
        self._untold &= stuck
        for key in [key for key in self._reported if key not in stuck]:
            details = self._reported.pop(key)
            if details is not None:
                stuck_seconds = (at_ns - details["since_ns"]) / 1e9
                ended = not self._sweep.exists(details["tgid"], details["pid"])
                yield self._event("tasks.unstuck", at_ns, details, stuck_seconds=stuck_seconds, ended=ended)

    def _describe(self, task: Any, since_ns: int) -> dict[str, Any] | None:
        """None for a task that was told to stop (by docker pause, say): nothing is wrong with it."""
        if self._sweep.is_frozen(task):
            return None
        names = {"pid": int(task["pid"]), "tgid": int(task["tgid"]), **self._sweep.names(task)}
        return {**names, "since_ns": since_ns, "stack": self._sweep.stack(task)}

    def _event(self, kind: str, at_ns: int, details: dict[str, Any], **more: Any) -> Event:
        severity: Severity = "warning" if kind == "tasks.stuck" else "info"
        return self._events.make(kind, at_ns, entity="host", severity=severity, **details, **more)


def _key(progress: Any) -> Key:
    return int(progress["pid"]), int(progress["start_ns"]), int(progress["switches"])


def build(context: Context) -> TasksProbe:
    try:
        sweep: Sweep = KernelSweep(context.paths)
    except (BpfError, UnavailableError, ImportError) as why:
        sweep = ProcSweep(context.paths, why=str(why).splitlines()[0])
    return TasksProbe(sweep, context.events, stuck_after_ns=context.options["stuck_after"])


SPEC = Spec(
    name="tasks",
    help="Tasks by state, and uninterruptible ones that make no progress, with their kernel stacks.",
    build=build,
    metrics=(COUNT, UNINTERRUPTIBLE, STUCK),
    optional=(*PROGRAM_NEEDS, "host_pids", "cap_syslog", "cgroup"),
    options=(STUCK_AFTER,),
    period_ns=1_000_000_000,
    cost="0.3 ms per second, and 0.2 to 0.5 µs per task",
)
