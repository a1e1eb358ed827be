"""What the front end knows of requests: histograms and one REQUEST record for each that has ended."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from . import wire
from .ring import Ring

_PACK = wire.format_of(wire.REQUEST)
_U32, _UNKNOWN_NS = wire.UNKNOWN[wire.U32], wire.UNKNOWN[wire.U64]
_NAMES = {name: index for index, name in enumerate(wire.HISTOGRAM_NAMES)}
_FIRST, _INTER, _QUEUE, _PREFILL, _WHOLE = (_NAMES[name] for name in wire.HISTOGRAM_NAMES)
_REASONS = {name: index for index, name in enumerate(wire.REASONS)}


def record(ring: Ring, iteration: Any, engine_index: int) -> None:
    """One message of an engine to the front end: vLLM's IterationStats of any version."""
    observe(ring, _FIRST, getattr(iteration, "time_to_first_tokens_iter", ()))
    observe(ring, _INTER, getattr(iteration, "inter_token_latencies_iter", ()))
    finished = getattr(iteration, "finished_requests", ())
    if finished:
        observe(ring, _QUEUE, [request.queued_time for request in finished])
        observe(ring, _PREFILL, [request.prefill_time for request in finished])
        observe(ring, _WHOLE, [request.e2e_latency for request in finished])
        for request in finished:
            _put(ring, request, engine_index)


def observe(ring: Ring, histogram: int, seconds: Sequence[float]) -> None:
    """Counts each, and adds them up. Times below zero, of clocks that were set, count as zero."""
    if not seconds:
        return
    low, high = bisect_left(wire.HISTOGRAM_BOUNDS, min(seconds)), bisect_left(wire.HISTOGRAM_BOUNDS, max(seconds))
    if low == high:  # the tokens of one step come at about one time
        ring.count(histogram, low, len(seconds))
    else:
        for value in seconds:
            ring.count(histogram, bisect_left(wire.HISTOGRAM_BOUNDS, value), 1)
    ring.add(histogram, max(0, int(sum(seconds) * 1e9)))


def _put(ring: Ring, request: Any, engine_index: int) -> None:
    whole, decode = request.e2e_latency, request.decode_time
    ring.put(
        _PACK, wire.KIND_REQUEST, _REASONS.get(str(request.finish_reason), 0), _count(request, "num_preemptions"),
        time.monotonic_ns(), str(getattr(request, "request_id", None) or "").encode()[:64],
        # An aborted request may have no first token.
        _ns(whole - decode) if request.num_generation_tokens else _UNKNOWN_NS,
        _ns(request.queued_time), _ns(request.prefill_time), _ns(decode), _ns(whole),
        _ns(getattr(request, "mean_time_per_output_token", -1.0)) if request.num_generation_tokens > 1 else _UNKNOWN_NS,
        _count(request, "num_prompt_tokens"), _count(request, "num_generation_tokens"),
        _count(request, "num_cached_tokens"), engine_index, b"",
    )  # fmt: skip


def _ns(seconds: float) -> int:
    return int(seconds * 1e9) if 0 <= seconds < 1e9 else _UNKNOWN_NS


def _count(request: Any, name: str) -> int:
    found = getattr(request, name, None)
    return found if isinstance(found, int) and 0 <= found < _U32 else _U32
