"""Simulated engines: they write what a plugin would, into the same shared memory, and say that they are simulated.

Any number of them runs in one thread: what they cost is what their records cost.
"""

from __future__ import annotations

import heapq
import os
import random
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...native.errors import UnavailableError
from .processes import namespace
from .vllm import wire
from .vllm.ring import DIRECTORY, Ring

PROFILES = ("vllm",)
_SECOND_NS = 1_000_000_000
_UNKNOWN = wire.UNKNOWN
_STEP = wire.format_of(wire.STEP)
_REQUEST = wire.format_of(wire.REQUEST)
_TTFT, _INTER, _QUEUE, _PREFILL, _E2E = range(len(wire.HISTOGRAM_NAMES))


class Scenario(Struct, frozen=True):
    """What the requests are like and what the engine can. Rates are per second; token counts are means.

    `stall_every_s`: a step that takes `stall_s` longer comes so often; 0: never.
    """

    model: str = "simulated-8b"
    requests_per_second: float = 4.0
    prompt_tokens: int = 900
    output_tokens: int = 120
    max_running: int = 128
    max_batched_tokens: int = 8192
    kv_blocks: int = 6000
    kv_block_tokens: int = 16
    step_base_ms: float = 9.0
    step_per_request_ms: float = 0.04
    prefill_tokens_per_second: float = 30_000.0
    stall_every_s: float = 0.0
    stall_s: float = 2.0


class _Request:
    __slots__ = ("arrived_ns", "computed", "first_ns", "generated", "last_ns", "output", "prompt", "scheduled_ns")

    def __init__(self, arrived_ns: int, prompt: int, output: int) -> None:
        self.arrived_ns, self.prompt, self.output = arrived_ns, prompt, output
        self.computed = self.generated = self.scheduled_ns = self.first_ns = self.last_ns = 0


class SimulatedEngine:
    """One rank. `due_ns` is when `act` has something to do: a step's end, a tick, an arrival.

    Raises OSError where the shared memory is missing, read-only or full.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        dp_rank: int = 0,
        group: str = "",
        directory: str = DIRECTORY,
        seed: int | None = None,
    ) -> None:
        self.scenario = scenario
        self.instance = uuid.uuid4().hex
        self._random = random.Random(seed)
        handshake = _handshake(scenario, self.instance, group or self.instance, dp_rank)
        self.ring = Ring(handshake, directory)
        self.steps = 0
        self._unseen: deque[_Request] = deque()
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._chosen: list[tuple[_Request, int]] = []
        self._flight_ns = self._end_ns = 0
        self._totals = dict.fromkeys(("preemptions", "prefill", "decode", "stop", "queries"), 0)
        self._free = scenario.kv_blocks
        now_ns = time.monotonic_ns()
        self._stall_ns = now_ns + int(scenario.stall_every_s * _SECOND_NS) if scenario.stall_every_s else 2**62
        self._arrival_ns = self._next_arrival(now_ns)
        self._tick(now_ns)

    @property
    def due_ns(self) -> int:
        at_work = (self._end_ns,) if self._flight_ns else (self._arrival_ns,)
        return min(self._tick_ns, *at_work)

    def act(self, now_ns: int) -> None:
        """What was due by now."""
        self._arrive(now_ns)
        if self._flight_ns and now_ns >= self._end_ns:
            self._finish_step(self._end_ns if now_ns - self._end_ns < 50_000_000 else now_ns)
        if not self._flight_ns and (self._unseen or self._waiting or self._running):
            self._begin_step(now_ns)
        if now_ns >= self._tick_ns:
            self._tick(now_ns)

    def drain(self) -> None:
        self.ring.state(wire.STATE_DRAINING)

    def close(self) -> None:
        self.ring.close()

    def _arrive(self, now_ns: int) -> None:
        late_ns = now_ns - 5 * _SECOND_NS
        self._arrival_ns = max(self._arrival_ns, late_ns)
        while self._arrival_ns <= now_ns:
            prompt = self._around(self.scenario.prompt_tokens)
            request = _Request(self._arrival_ns, prompt, self._around(self.scenario.output_tokens))
            self._unseen.append(request)
            self._arrival_ns = self._next_arrival(self._arrival_ns)

    def _next_arrival(self, now_ns: int) -> int:
        rate = self.scenario.requests_per_second
        return now_ns + int(self._random.expovariate(rate) * _SECOND_NS) if rate > 0 else 2**62

    def _around(self, mean: int) -> int:
        return max(1, min(4 * mean, int(self._random.expovariate(1 / mean))))

    def _begin_step(self, now_ns: int) -> None:
        queued = bool(self._waiting)
        self._waiting.extend(self._unseen)
        self._unseen.clear()
        self._chosen, budget = [], self.scenario.max_batched_tokens
        for request in list(self._running):
            budget -= self._choose(request, budget, now_ns)
        while self._waiting and budget > 0 and len(self._running) < self.scenario.max_running:
            if self._blocks(self._waiting[0].prompt) > self._free:
                break
            request = self._waiting.popleft()
            request.scheduled_ns = request.scheduled_ns or now_ns
            self._totals["queries"] += request.prompt
            self._running.append(request)
            budget -= self._choose(request, budget, now_ns)
        if self._waiting and not queued:
            self.ring.urge()
        self._flight_ns, self._end_ns = now_ns, now_ns + self._duration_ns(now_ns)
        self._tick_ns = now_ns + wire.TICK_NS

    def _choose(self, request: _Request, budget: int, now_ns: int) -> int:
        """Tokens of a request in this step; without a free block for them the newest request makes room."""
        tokens = min(budget, request.prompt - request.computed) if request.computed < request.prompt else 1
        if tokens <= 0 or request not in self._running:
            return 0
        held = request.computed + request.generated
        need = self._blocks(held + tokens) - self._blocks(held)
        if need > self._free:
            self._preempt(self._running[-1])
            if request not in self._running or need > self._free:
                return 0
        self._free -= need
        self._chosen.append((request, tokens))
        return tokens

    def _preempt(self, request: _Request) -> None:
        self._running.remove(request)
        self._chosen = [pair for pair in self._chosen if pair[0] is not request]
        self._free += self._blocks(request.computed + request.generated)
        request.computed = 0
        self._totals["preemptions"] += 1
        self._waiting.appendleft(request)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.scenario.kv_block_tokens)

    def _duration_ns(self, now_ns: int) -> int:
        scenario = self.scenario
        prefill = sum(tokens for request, tokens in self._chosen if request.computed < request.prompt)
        milliseconds = scenario.step_base_ms + scenario.step_per_request_ms * len(self._chosen)
        duration = milliseconds / 1e3 + prefill / scenario.prefill_tokens_per_second
        if now_ns >= self._stall_ns:
            self._stall_ns = now_ns + int(scenario.stall_every_s * _SECOND_NS)
            duration += scenario.stall_s
        return int(duration * self._random.uniform(0.97, 1.03) * _SECOND_NS)

    def _finish_step(self, now_ns: int) -> None:
        prefills = [(request, tokens) for request, tokens in self._chosen if request.computed < request.prompt]
        prefill_tokens = sum(tokens for _, tokens in prefills)
        decodes = len(self._chosen) - len(prefills)
        for request, tokens in self._chosen:
            self._compute(request, tokens, now_ns)
        self._totals["prefill"] += prefill_tokens
        self._totals["decode"] += decodes
        self.steps += 1
        if self.ring.wanted():
            self._put_step(now_ns, len(prefills), prefill_tokens, decodes)
        self._flight_ns = 0
        self._tick_ns = now_ns + wire.HEARTBEAT_NS

    def _compute(self, request: _Request, tokens: int, now_ns: int) -> None:
        if request.computed < request.prompt:
            request.computed += tokens
            if request.computed < request.prompt:
                return
        else:
            self._observe(_INTER, now_ns - request.last_ns)
        request.generated += 1
        request.last_ns = now_ns
        if not request.first_ns:
            request.first_ns = now_ns
            self._observe(_TTFT, now_ns - request.arrived_ns)
            self._observe(_QUEUE, request.scheduled_ns - request.arrived_ns)
            self._observe(_PREFILL, now_ns - request.scheduled_ns)
        if request.generated >= request.output:
            self._finish(request, now_ns)

    def _finish(self, request: _Request, now_ns: int) -> None:
        self._running.remove(request)
        self._free = min(self.scenario.kv_blocks, self._free + self._blocks(request.computed + request.generated))
        self._totals["stop"] += 1
        self._observe(_E2E, now_ns - request.arrived_ns)
        if not self.ring.wanted():
            return
        inter_ns = (now_ns - request.first_ns) // max(1, request.generated - 1)
        self.ring.put(
            _REQUEST, wire.KIND_REQUEST, wire.REASONS.index("stop"), 0, now_ns, uuid.uuid4().hex.encode(),
            request.first_ns - request.arrived_ns, request.scheduled_ns - request.arrived_ns,
            request.first_ns - request.scheduled_ns, now_ns - request.first_ns, now_ns - request.arrived_ns, inter_ns,
            request.prompt, request.generated, 0, 0, b"",
        )  # fmt: skip

    def _observe(self, histogram: int, nanoseconds: int) -> None:
        nanoseconds = max(0, nanoseconds)
        bucket = next(
            (i for i, b in enumerate(wire.HISTOGRAM_BOUNDS) if nanoseconds <= b * 1e9), wire.HISTOGRAM_BUCKETS - 1
        )
        self.ring.count(histogram, bucket, 1)
        self.ring.add(histogram, nanoseconds)

    def _put_step(self, now_ns: int, prefills: int, prefill_tokens: int, decodes: int) -> None:
        total = self._totals
        self.ring.put(
            _STEP, wire.KIND_STEP, 0, len(self._unseen), self.steps, self._flight_ns, now_ns, 150_000, 100_000,
            len(self._running), len(self._waiting), 0, max(0, self._free), self.scenario.kv_blocks, prefills,
            prefill_tokens, decodes, decodes, 20_000, self._waiting_tokens(), self._context_tokens(),
            total["preemptions"], total["prefill"], total["decode"], total["queries"], 0, 0, 0, total["stop"],
            0, 0, 0, threading.get_native_id(), b"",
        )  # fmt: skip

    def _tick(self, now_ns: int) -> None:
        flight_ns = self._flight_ns or _UNKNOWN[wire.U64]
        step = self.steps + 1 if self._flight_ns else _UNKNOWN[wire.U64]
        load = len(self._running), len(self._waiting), 0, len(self._unseen)
        self.ring.tick(now_ns, step, flight_ns, *load, self._waiting_tokens(), max(0, self._free), 0)
        self._tick_ns = now_ns + (wire.TICK_NS if self._flight_ns else wire.HEARTBEAT_NS)

    def _waiting_tokens(self) -> int:
        return sum(request.prompt - request.computed for request in self._waiting)

    def _context_tokens(self) -> int:
        return sum(request.computed + request.generated for request in self._running)


class Fleet:
    """Engines that run in the caller's thread."""

    def __init__(self, engines: list[SimulatedEngine]) -> None:
        self.engines = engines
        self._heap: list[tuple[int, int]] = [(engine.due_ns, index) for index, engine in enumerate(engines)]
        heapq.heapify(self._heap)

    def run_until(self, end_ns: int) -> None:
        """Works until CLOCK_MONOTONIC says `end_ns`."""
        while self._heap and (now_ns := time.monotonic_ns()) < end_ns:
            due_ns, index = self._heap[0]
            if due_ns > now_ns:
                time.sleep(min(due_ns, end_ns, now_ns + 50_000_000) / 1e9 - now_ns / 1e9)
                continue
            self.engines[index].act(now_ns)
            heapq.heapreplace(self._heap, (self.engines[index].due_ns, index))

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def make_fleet(scenario: Scenario, ranks: int, directory: str = DIRECTORY) -> Fleet:
    """One engine of so many ranks. Raises UnavailableError where the shared memory has no room for them."""
    engines: list[SimulatedEngine] = []
    group = uuid.uuid4().hex[:8]
    try:
        for rank in range(ranks):
            engines.append(SimulatedEngine(scenario, dp_rank=rank, group=group, directory=directory))
    except OSError as error:
        Fleet(engines).close()
        message = f"{directory} has no room for a simulated engine: {error.strerror}"
        raise UnavailableError(message, remedy=f"df {directory}") from None
    return Fleet(engines)


def _handshake(scenario: Scenario, instance: str, group: str, dp_rank: int) -> dict[str, Any]:
    return {
        "engine": "vllm", "version": "simulated", "plugin": "simulated", "instance": instance, "group": group,
        "role": "both", "model": scenario.model, "dp_rank": dp_rank, "pid": os.getpid(), "worker_pids": [],
        "pid_namespace": namespace(Path("/proc"), "self", "pid"), "max_running": scenario.max_running,
        "max_batched_tokens": scenario.max_batched_tokens, "kv_block_tokens": scenario.kv_block_tokens,
        "kv_blocks_total": scenario.kv_blocks, "tick_ns": wire.TICK_NS, "heartbeat_ns": wire.HEARTBEAT_NS,
        "lacks": [], "simulated": True,
    }  # fmt: skip
