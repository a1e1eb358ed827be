"""From what the scheduler has at hand at the end of a step to one STEP record. On the engine's own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sized
from operator import attrgetter
from typing import Any

from . import wire
from .ring import Ring, place_of
from .switch import Errors

_pack_into = wire.format_of(wire.STEP).pack_into
_KIND = wire.KIND_STEP
_U32, _UNKNOWN_U64 = wire.UNKNOWN[wire.U32], wire.UNKNOWN[wire.U64]
# Async scheduling has two steps in flight, a pipeline as many as it has stages.
_MOST_FLIGHTS = 64
# Going through the queues costs time for each request: at most so often, and at most 1 % of the time.
_WAITING_SAMPLE_NS, _RUNNING_SAMPLE_NS = 20_000_000, 100_000_000
_SAMPLE_SHARE = 100
_KV_HIGH, _KV_LOW = 0.90, 0.85

_monotonic_ns = time.monotonic_ns
_tokens = attrgetter("num_tokens")
_computed = attrgetter("num_computed_tokens")
_REASONS = {
    "FINISHED_STOPPED": "stop", "FINISHED_REPETITION": "stop", "FINISHED_LENGTH_CAPPED": "length",
    "FINISHED_IGNORED": "length", "FINISHED_ABORTED": "abort",
}  # fmt: skip


class Flight:
    """A step between its `schedule` and its `update_from_output`."""

    __slots__ = ("output", "schedule_ns", "start_ns", "step")

    def __init__(self, output: Any, step: int, start_ns: int, schedule_ns: int) -> None:
        # Kept, so that no other object can have its identity meanwhile.
        self.output = output
        self.step = step
        self.start_ns = start_ns
        self.schedule_ns = schedule_ns


class Watch:
    """Of one scheduler, which it never keeps: each call brings it."""

    def __init__(self, ring: Ring, scheduler: Any, inputs: Sized | None, *, finishes: bool, preempts: bool) -> None:
        """`inputs` are the requests that the scheduler has not seen yet; None if they cannot be seen."""
        self.ring = ring
        self.inputs = inputs
        self.errors = Errors("the watch over scheduler steps")
        self.flights: dict[int, Flight] = {}
        self.step = 0
        self.last_end_ns = 0
        self.waiting_prefill_tokens = self.running_context_tokens = 0
        self.preemptions = 0 if preempts else _UNKNOWN_U64
        self.finished = dict.fromkeys(wire.REASONS[1:], 0 if finishes else _UNKNOWN_U64)
        self.prefill_tokens = self.decode_tokens = 0
        self.prefix_queries = self.prefix_hits = 0
        speculates = bool(getattr(scheduler, "num_spec_tokens", 0)) and not getattr(scheduler, "log_stats", False)
        self.draft_tokens = self.accepted_tokens = _UNKNOWN_U64 if speculates else 0
        pool = getattr(getattr(scheduler, "kv_cache_manager", None), "block_pool", None)
        # The block that stands for nothing is never free and never of use.
        self.kv_total = pool.num_gpu_blocks - 1 if pool is not None else _U32
        self.free_blocks = pool.get_num_free_blocks if pool is not None else lambda: _U32
        self._kv_mark = 0 if pool is None else int(self.kv_total * (1 - _KV_HIGH))
        self._kv_relief = 0 if pool is None else int(self.kv_total * (1 - _KV_LOW))
        self._kv_pressed = self._queued = False
        self._preemptions_told = self.preemptions
        self._next_waiting_ns = self._next_running_ns = 0
        self._hook_ns = 0
        self._thread = 0
        self.deferred = _deferred_of(scheduler)

    def begins(self) -> int:
        """A step is about to be scheduled. The time, or 0 when nobody reads."""
        self.step += 1
        now = _monotonic_ns()
        return now if self.ring.lease[0] > now else 0

    def scheduled(self, output: Any, start_ns: int) -> None:
        flights = self.flights
        if len(flights) >= _MOST_FLIGHTS:
            self.ring.drop(len(flights))
            flights.clear()
        flights[id(output)] = Flight(output, self.step, start_ns, _monotonic_ns() - start_ns)

    def updated(self, scheduler: Any, output: Any, began_ns: int) -> None:
        """The step whose `output` this is has ended: one record."""
        flight = self.flights.pop(id(output), None)
        if flight is None:
            return
        end = _monotonic_ns()
        prefill_requests, prefill_tokens = _prefill_of(output)
        decode_tokens = output.total_num_scheduled_tokens - prefill_tokens
        self.prefill_tokens += prefill_tokens
        self.decode_tokens += decode_tokens
        for request in output.scheduled_new_reqs:
            self.prefix_queries += len(request.prompt_token_ids or ())
            self.prefix_hits += request.num_computed_tokens
        running, waiting = scheduler.get_request_counts()
        queued = waiting > 0
        deferred = len(self.deferred(scheduler)) if self.deferred is not None else 0
        waiting -= deferred
        inputs = len(self.inputs) if self.inputs is not None else _U32
        free = self.free_blocks()
        if queued and end >= self._next_waiting_ns:
            self._sample_waiting(scheduler, end)
        if end >= self._next_running_ns:
            self._sample_running(scheduler, end)
        edges = self._edges(waiting > 0 or inputs not in (0, _U32), free)
        ring = self.ring
        guard = ring.head + 1
        _pack_into(
            ring.memory, place_of(guard), guard, _KIND, edges, inputs, flight.step, flight.start_ns, end,
            _short(flight.schedule_ns), _short(end - began_ns),
            running, waiting, deferred if self.deferred is not None else _U32, free, self.kv_total,
            prefill_requests, prefill_tokens, len(output.num_scheduled_tokens) - prefill_requests, decode_tokens,
            self._hook_ns, self.waiting_prefill_tokens if queued else 0, self.running_context_tokens if running else 0,
            self.preemptions, self.prefill_tokens, self.decode_tokens, self.prefix_queries, self.prefix_hits,
            self.draft_tokens, self.accepted_tokens, *self.finished.values(),
            self._thread or self._know_thread(), b"", guard,
        )  # fmt: skip
        ring.publish(guard)
        if edges:
            ring.urge()
        self.last_end_ns = end
        self._hook_ns = _short(_monotonic_ns() - end)

    def preempted(self) -> None:
        if self.preemptions != _UNKNOWN_U64:
            self.preemptions += 1

    def freed(self, request: Any) -> None:
        """A request is over, for whatever reason."""
        reason = _REASONS.get(request.status.name, "error")
        self.finished[reason] += 1

    def made_stats(self, stats: Any) -> None:
        """What vLLM counts itself, and sets back with each step."""
        drafted = getattr(stats, "spec_decoding_stats", None)
        if drafted is not None and self.draft_tokens != _UNKNOWN_U64:
            self.draft_tokens += drafted.num_draft_tokens
            self.accepted_tokens += drafted.num_accepted_tokens

    def oldest(self) -> Flight | None:
        """Of the steps in flight. From any thread."""
        try:
            return next(iter(self.flights.values()), None)
        except RuntimeError:  # the engine's thread has just changed them
            return None

    def _know_thread(self) -> int:
        self._thread = threading.get_native_id()
        return self._thread

    def _edges(self, queued: bool, free: int) -> int:
        edges = wire.EDGE_QUEUE if queued and not self._queued else 0
        self._queued = queued
        if free < self._kv_mark and not self._kv_pressed:
            self._kv_pressed = True
            edges |= wire.EDGE_KV
        elif self._kv_pressed and free > self._kv_relief:
            self._kv_pressed = False
        if self.preemptions != self._preemptions_told:
            self._preemptions_told = self.preemptions
            edges |= wire.EDGE_PREEMPTION
        return edges

    def _sample_waiting(self, scheduler: Any, now: int) -> None:
        waiting = _requests_of(scheduler.waiting)
        self.waiting_prefill_tokens = sum(map(_tokens, waiting)) - sum(map(_computed, waiting))
        self._next_waiting_ns = now + max(_WAITING_SAMPLE_NS, _SAMPLE_SHARE * (_monotonic_ns() - now))

    def _sample_running(self, scheduler: Any, now: int) -> None:
        self.running_context_tokens = sum(map(_computed, scheduler.running))
        self._next_running_ns = now + max(_RUNNING_SAMPLE_NS, _SAMPLE_SHARE * (_monotonic_ns() - now))


def _prefill_of(output: Any) -> tuple[int, int]:
    """Requests and tokens of a step that compute a prompt, or once more what a preemption threw away."""
    new, cached, scheduled = output.scheduled_new_reqs, output.scheduled_cached_reqs, output.num_scheduled_tokens
    generated, drafts = cached.num_output_tokens, output.scheduled_spec_decode_tokens
    resumed = getattr(cached, "resumed_req_ids", ())
    total = output.total_num_scheduled_tokens
    if not new and not resumed and not drafts and total == len(scheduled) and 0 not in generated:
        return 0, 0
    requests, tokens = len(new), sum(scheduled[request.req_id] for request in new)
    for request, past in zip(cached.req_ids, generated):  # noqa: B905 - vLLM runs on Python 3.9 too
        share = scheduled[request]
        decodes = past and share == 1
        if not decodes and (not past or request in resumed or share > 1 + len(drafts.get(request, ()))):
            requests += 1
            tokens += share
    return requests, tokens


def _short(nanoseconds: int) -> int:
    """What fits 32 bits, 4.3 s at most."""
    return nanoseconds if nanoseconds < _U32 else _U32 - 1


def _deferred_of(scheduler: Any) -> Any:
    """Gets the waiting requests that the scheduler had to pass over; None where it does not keep them apart."""
    for name in ("deferred_waiting", "skipped_waiting"):
        if hasattr(scheduler, name):
            return attrgetter(name)
    return None


def _requests_of(queue: Iterable[Any]) -> list[Any]:
    # Going through a priority queue would sort it.
    return list(getattr(queue, "_heap", queue))
