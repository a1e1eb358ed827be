"""One rank of an engine, or one of its front ends: what its ring tells, added up."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..model import EngineState
from .finder import Found
from .layout import STEP, Array, RefusedError, StepBatch, compact, joined, unpack_step
from .ring import Ring, Top
from .vllm import wire

Kind = Literal["step", "tick", "idle", "draining", "gone", "unknown"]

# Missing so many of its promised words, an engine is silent.
SILENT_HEARTBEATS = 3
_MOST_RAW = 1024
_KEPT_BATCHES = 16
_ROUND_READS = 4
_MOST_COUNTED = 2**48
_PHASES = ("prefill", "decode", "mixed")
STEP_BOUNDS = tuple(0.001 * 2**n for n in range(14))
_BOUNDS_NS = np.array(STEP_BOUNDS) * 1e9
_REASONS = ("stop", "length", "abort", "error")
_LATEST = (
    "step", "prefill_requests", "prefill_tokens", "decode_requests", "decode_tokens", "running_context_tokens",
    "preemptions_total", "prefill_tokens_total", "decode_tokens_total", "prefix_queries_total", "prefix_hits_total",
    "draft_tokens_total", "accepted_tokens_total",
)  # fmt: skip
_FRESHEST = ("running", "waiting", "deferred", "input_queue", "waiting_prefill_tokens", "kv_blocks_free")


class StepTimes:
    """Counts of step durations by phase: prefill, decode, or both in one step (mixed)."""

    def __init__(self) -> None:
        self.counts = {phase: np.zeros(len(STEP_BOUNDS) + 1, np.int64) for phase in _PHASES}
        self.total_ns = dict.fromkeys(_PHASES, 0)

    def add(self, steps: Array) -> None:
        durations = np.where(steps["end_ns"] > steps["start_ns"], steps["end_ns"] - steps["start_ns"], 0)
        prefills, decodes = steps["prefill_tokens"] > 0, steps["decode_tokens"] > 0
        for phase, chosen in zip(_PHASES, (prefills & ~decodes, decodes & ~prefills, prefills & decodes), strict=True):
            if chosen.any():
                self._add(phase, np.minimum(durations[chosen], 2**42))

    def _add(self, phase: str, durations_ns: Array) -> None:
        places = np.searchsorted(_BOUNDS_NS, durations_ns)
        self.counts[phase] += np.bincount(places, minlength=len(STEP_BOUNDS) + 1)
        self.total_ns[phase] += int(durations_ns.sum())


class Rank:
    """Reads one ring. `step` is the latest STEP record and `tick` the latest whole TICK, by field; None at first."""

    def __init__(self, found: Found, now_ns: int) -> None:
        assert isinstance(found.file, Ring)
        self.found = found
        self.ring = found.file
        self.handshake = found.file.handshake
        self.heard_ns = now_ns
        self.dropped = 0
        self.state_word = wire.STATE_RUNNING
        self.step: Any = None
        self.tick: Any = None
        self._times = StepTimes()
        self._raw: list[bytes] = []
        self._batches: list[Array] = []
        top = self.ring.top()
        self._take_top(top, now_ns)
        self.ring.begin(top.head)

    @property
    def key(self) -> str:
        return self.handshake.instance

    @property
    def missed(self) -> int:
        return self.ring.missed

    def read(self, now_ns: int) -> bool:
        """Takes what is new; whether there is more than one round may take. Raises RefusedError, OSError."""
        top = self.ring.top()
        self._take_top(top, now_ns)
        batch = self.ring.records(top.head)
        if batch.steps:
            self.step = unpack_step(batch.steps[-1])
            self.heard_ns = now_ns
            self._raw += batch.steps
            if len(self._raw) > _MOST_RAW:
                self._gather()
        return batch.more

    def take_steps(self) -> StepBatch | None:
        """The steps since this was last asked."""
        self._gather()
        if not self._batches:
            return None
        records, self._batches = joined(self._batches), []
        found, hello = self.found, self.handshake
        return StepBatch(hello.instance, hello.engine, hello.dp_rank, found.pid, found.worker_pids, records)

    def step_times(self) -> StepTimes:
        """With all steps so far."""
        self._gather()
        return self._times

    def is_silent(self, now_ns: int) -> bool:
        return now_ns - self.heard_ns > SILENT_HEARTBEATS * self.handshake.heartbeat_ns

    def state(self, now_ns: int, *, gone: bool = False) -> EngineState:
        """As of the latest word, which a writer cannot date into the future."""
        kind, at_ns = self._kind(now_ns, gone), min(self._at_ns(), now_ns)
        hello, step = self.handshake, self.step
        values: dict[str, Any] = {name: step[name] for name in _LATEST} if step is not None else {"step": 0}
        values["step"] = values["step"] or 0
        freshest = self._freshest()
        values |= {name: freshest[name] for name in _FRESHEST} if freshest is not None else {}
        if step is not None:
            values |= self._of_step(step)
        owner = self.found.owner
        return EngineState(
            instance=hello.instance, engine=hello.engine, at_ns=at_ns, kind=kind, source="plugin",
            version=hello.version, model=hello.model, dp_rank=hello.dp_rank, role=hello.role, pid=self.found.pid,
            worker_pids=self.found.worker_pids, pod=owner.pod or owner.pod_uid,
            container=owner.container or owner.container_id, simulated=hello.simulated,
            max_running=hello.max_running, max_batched_tokens=hello.max_batched_tokens,
            kv_block_tokens=hello.kv_block_tokens, in_flight_age_ns=self._flight_age_ns(now_ns, kind),
            **self._kv(values), **values,
        )  # fmt: skip

    def _take_top(self, top: Top, now_ns: int) -> None:
        self.dropped = min(top.header["dropped"] or 0, _MOST_COUNTED)
        self.state_word = top.header["state"]
        if top.tick is not None:
            self.tick = top.tick
            self.heard_ns = now_ns

    def _gather(self) -> None:
        """Not for each wake-up: many steps at once cost as much as one."""
        if not self._raw:
            return
        steps, self._raw = compact(np.frombuffer(b"".join(self._raw), STEP)), []
        inside, outside = self.handshake.pid, self.found.pid
        if inside != outside:
            # Of a container's threads only the main one is known outside, where it is called as its process.
            steps["thread_id"] = np.where(steps["thread_id"] == inside, outside, 0)
        self._times.add(steps)
        self._batches.append(steps)
        del self._batches[:-_KEPT_BATCHES]

    def _of_step(self, step: Any) -> dict[str, Any]:
        reasons = {reason: step[f"finished_{reason}_total"] for reason in _REASONS}
        return {
            "step_duration_ns": max(0, (step["end_ns"] or 0) - (step["start_ns"] or 0)),
            "schedule_duration_ns": step["schedule_ns"],
            "finished_total": {reason: count for reason, count in reasons.items() if count is not None},
        }

    def _kv(self, values: dict[str, Any]) -> dict[str, Any]:
        total = self.step["kv_blocks_total"] if self.step is not None else self.handshake.kv_blocks_total
        free = values.get("kv_blocks_free")
        if not total or free is None:
            return {"kv_blocks_total": total}
        return {"kv_blocks_total": total, "kv_usage_ratio": max(0.0, min(1.0, 1 - free / total))}

    def _kind(self, now_ns: int, gone: bool) -> Kind:
        if gone or self.state_word == wire.STATE_GONE:
            return "gone"
        if self.is_silent(now_ns):
            return "unknown"
        if self.state_word == wire.STATE_DRAINING:
            return "draining"
        return "tick" if self._in_flight() else self._at_rest()

    def _at_rest(self) -> Kind:
        """Between steps. An engine with nothing to do is idle; one that does not say what it has to do is unknown."""
        freshest = self._freshest()
        if freshest is None:
            return "unknown"
        busy = [freshest[name] for name in ("running", "waiting", "input_queue")]
        if any(busy):
            return "step"
        return "idle" if busy[0] is not None else "unknown"

    def _in_flight(self) -> bool:
        return self._tick_is_newer() and bool(self.tick["flight_started_ns"])

    def _tick_is_newer(self) -> bool:
        if self.tick is None or self.step is None:
            return self.tick is not None
        return bool((self.tick["at_ns"] or 0) > (self.step["end_ns"] or 0))

    def _freshest(self) -> Any:
        return self.tick if self._tick_is_newer() else self.step

    def _at_ns(self) -> int:
        tick_ns = self.tick["at_ns"] if self.tick is not None else 0
        step_ns = self.step["end_ns"] if self.step is not None else 0
        return max(tick_ns or 0, step_ns or 0) or self.heard_ns

    def _flight_age_ns(self, now_ns: int, kind: Kind) -> int | None:
        if kind in ("gone", "unknown"):
            return None
        return max(0, now_ns - self.tick["flight_started_ns"]) if self._in_flight() else 0


def is_readable(rank: Rank, now_ns: int) -> str:
    """Reads a rank; why it cannot be read any more, or ""."""
    try:
        for _ in range(_ROUND_READS):
            if not rank.read(now_ns):
                break
    except (RefusedError, OSError) as error:
        return str(error)
    return ""
