"""Routing messages straight from the front end to NATS, for those without an agent.

The latest wins: the event loop leaves what it knows in one slot per engine, a thread turns it into JSON and sends it.
The front end is told of a step after it has ended, and of its own requests only: the agent knows more, and sooner.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any

from .identity import dp_rank_of, group_of, model_of, role_of, version
from .nats import Line
from .switch import Errors, log

URL, AUTHORITY, SUBJECT = "EAGLE_EYE_NATS_URL", "EAGLE_EYE_NATS_CA", "EAGLE_EYE_ROUTING_SUBJECT"
NODE, CLUSTER = "EAGLE_EYE_NODE", "EAGLE_EYE_CLUSTER"
DEFAULT_SUBJECT = "eagle_eye.routing_metrics"
FLOOR_SECONDS = 0.010  # between two messages of a process
TICK_SECONDS = 0.050
HEARTBEAT_SECONDS = 1.0
MAX_SILENCE_NS = 3_000_000_000
_FRAMES = 12
_UNKNOWN = (
    "deferred", "input_queue", "waiting_prefill_tokens", "running_context_tokens", "max_running", "max_batched_tokens",
    "kv_blocks_total", "kv_blocks_free", "kv_block_tokens", "step_duration_ns", "schedule_duration_ns",
    "prefill_requests", "prefill_tokens", "decode_requests", "decode_tokens", "preemptions_total",
    "prefill_tokens_total", "decode_tokens_total", "prefix_queries_total", "prefix_hits_total", "draft_tokens_total",
    "accepted_tokens_total", "in_flight_age_ns", "running", "waiting", "kv_usage_ratio", "prefill_tokens_per_second",
    "decode_tokens_per_second", "device_pressure_ratio", "steps_total",
)  # fmt: skip


class Direct:
    """One engine, as this front end knows it. `record` and `close` belong to the event loop."""

    def __init__(self, sender: Sender, identity: dict[str, Any], unfinished: Any) -> None:
        """`unfinished()` counts the requests that are under way here; None where others serve the engine as well."""
        self._sender = sender
        self._identity = identity
        self._unfinished = unfinished
        self.subjects = sender.subject, f"{sender.subject}.{_token(identity['node'])}.{_token(identity['instance'])}"
        self._state: dict[str, Any] = {}
        self._totals = dict.fromkeys(("decode_tokens", "prefill_tokens", "preemptions", "queries", "hits"), 0)
        self._changes = self._taken = self._seq = 0
        self._at_ns = self._told_ns = 0
        sender.add(self)

    def record(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        if iteration_stats is not None:
            self._count(iteration_stats)
        if scheduler_stats is None:  # another front end was told
            return
        stats, totals = scheduler_stats, self._totals
        prefix = getattr(stats, "prefix_cache_stats", None)
        if prefix is not None:
            totals["queries"] += prefix.queries
            totals["hits"] += prefix.hits
        self._at_ns = time.monotonic_ns()
        self._state = {
            "running": stats.num_running_reqs,
            "waiting": stats.num_waiting_reqs,
            "deferred": getattr(stats, "num_skipped_waiting_reqs", None),
            "kv_usage_ratio": stats.kv_cache_usage,
        }
        self._changes += 1
        self._sender.wake()

    def message(self, now_ns: int) -> bytes | None:
        """To be sent now; None when there is nothing new. On the sender's thread."""
        changes, state, at = self._changes, self._state, self._at_ns
        kind = "step" if changes != self._taken else self._kind_of_silence(state, now_ns)
        if kind is None or not state:
            return None
        if kind != "step":
            state, at = self._without_a_step(state, kind), now_ns
        coalesced, self._taken = max(0, changes - self._taken - 1), changes
        self._seq += 1
        self._told_ns = now_ns
        offset = time.time_ns() - time.monotonic_ns()
        said = {
            **self._identity,
            **state,
            **self._counted(),
            "kind": kind,
            "step": changes,
            "steps_total": changes,
            "at_ns": at,
            "at_wall_ns": at + offset,
            "age_ns": max(0, now_ns - at),
            "seq": self._seq,
            "coalesced": coalesced,
            "in_flight_age_ns": now_ns - self._at_ns if kind == "tick" else None,
        }
        return json.dumps(said, separators=(",", ":")).encode()

    def close(self) -> None:
        self._sender.remove(self)

    def _count(self, iteration: Any) -> None:
        totals = self._totals
        totals["decode_tokens"] += getattr(iteration, "num_generation_tokens", 0)
        totals["prefill_tokens"] += getattr(iteration, "num_prompt_tokens", 0)
        totals["preemptions"] += getattr(iteration, "num_preempted_reqs", 0)

    def _counted(self) -> dict[str, int]:
        totals = self._totals
        return {
            "decode_tokens_total": totals["decode_tokens"],
            "prefill_tokens_total": totals["prefill_tokens"],
            "preemptions_total": totals["preemptions"],
            "prefix_queries_total": totals["queries"],
            "prefix_hits_total": totals["hits"],
        }

    def _kind_of_silence(self, state: dict[str, Any], now_ns: int) -> str | None:
        under_way = self._unfinished()
        if under_way is None:
            return None
        waited = (now_ns - self._told_ns) / 1e9
        if under_way:
            return "tick" if waited >= TICK_SECONDS and now_ns - self._at_ns >= TICK_SECONDS * 1e9 else None
        return "idle" if waited >= HEARTBEAT_SECONDS or state.get("running") else None

    def _without_a_step(self, state: dict[str, Any], kind: str) -> dict[str, Any]:
        if kind == "idle":
            return {**state, "running": 0, "waiting": 0, "deferred": 0}
        # What was sent to the engine and does not run, waits.
        running = state.get("running") or 0
        return {**state, "waiting": max(0, (self._unfinished() or 0) - running)}


class Sender:
    """The thread that all engines of this process share. Sends, or drops and counts; nobody waits for it."""

    def __init__(self, line: Line, subject: str) -> None:
        self.subject = subject
        self.line = line
        self._engines: tuple[Direct, ...] = ()
        self._wake = threading.Event()
        self._errors = Errors("publishing to NATS")
        self._said = ""
        self._running = True
        threading.Thread(target=self._run, name="eagle-eye-nats", daemon=True).start()

    def add(self, engine: Direct) -> None:
        self._engines = (*self._engines, engine)

    def remove(self, engine: Direct) -> None:
        self._engines = tuple(one for one in self._engines if one is not engine)

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._running = False
        self._wake.set()

    def _run(self) -> None:
        while self._running:
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            try:
                self._send(time.monotonic_ns())
            except Exception as error:
                if self._errors.add(error):
                    break
            time.sleep(FLOOR_SECONDS)
        self.line.close()

    def _send(self, now_ns: int) -> None:
        if not self.line.serve():
            self._say(self.line.problem)
        batch = [
            (subject, said)
            for engine in self._engines
            if (said := engine.message(now_ns)) is not None
            for subject in engine.subjects
        ]
        if batch:
            self.line.publish(batch)
            self._say(self.line.problem)

    def _say(self, problem: str) -> None:
        if problem and problem != self._said:
            log.warning("Eagle Eye publishes nothing now: %s", problem)
        self._said = problem


_senders: dict[int, Sender] = {}
_lock = threading.Lock()


def from_environment(config: Any, engine_index: int) -> Direct | None:
    """None unless EAGLE_EYE_NATS_URL is set. Raises ValueError for a URL that is none."""
    urls = os.environ.get(URL)
    if not urls:
        return None
    with _lock:
        sender = _senders.get(os.getpid())
        if sender is None:
            line = Line(urls, f"eagle-eye-vllm {os.getpid()}", os.environ.get(AUTHORITY))
            sender = _senders[os.getpid()] = Sender(line, os.environ.get(SUBJECT) or DEFAULT_SUBJECT)
    return Direct(sender, identity_of(config, engine_index), _unfinished_of(config))


def identity_of(config: Any, engine_index: int) -> dict[str, Any]:
    """The fields of a routing message that stay as they are, and null for those that a front end cannot know."""
    parallel = config.parallel_config
    rank = engine_index or dp_rank_of(parallel)
    limits = config.scheduler_config
    return {
        **dict.fromkeys(_UNKNOWN),
        "schema": 1,
        "node": os.environ.get(NODE) or socket.gethostname(),
        "cluster": os.environ.get(CLUSTER) or "default",
        "boot_id": _boot_id(),
        "agent": f"eagle-eye-vllm-{os.getpid()}",
        # The same in all front ends of an engine, another one after each of its starts.
        "instance": f"{group_of(config) or os.getpid()}-{rank}",
        "engine": "vllm",
        "version": version(),
        "model": model_of(config),
        "dp_rank": rank,
        "role": role_of(config),
        "source": "plugin",
        "pid": os.getpid(),
        "worker_pids": [],
        "pod": os.environ.get("POD_NAME", ""),
        "container": "",
        "simulated": False,
        "max_running": getattr(limits, "max_num_seqs", None),
        "max_batched_tokens": getattr(limits, "max_num_batched_tokens", None),
        "max_silence_ns": MAX_SILENCE_NS,
        "finished_total": {},
        "health": "unknown",
        "health_reason": "",
        "health_at_wall_ns": 0,
    }


def _unfinished_of(config: Any) -> Any:
    """Counts the requests of the AsyncLLM that is being made by a caller of ours, if it serves one engine alone."""
    parallel = config.parallel_config
    alone = getattr(parallel, "_api_process_count", 1) == 1 and getattr(parallel, "data_parallel_size", 1) == 1
    frame: Any = sys._getframe(1) if alone else None
    for _ in range(_FRAMES):
        if frame is None:
            break
        processor = getattr(frame.f_locals.get("self"), "output_processor", None)
        if hasattr(processor, "request_states"):
            return partial(_under_way, weakref.ref(processor))
        frame = frame.f_back
    return lambda: None


def _under_way(found: Any) -> int | None:
    processor = found()
    return len(processor.request_states) if processor is not None else None


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _token(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:256] or "_"
