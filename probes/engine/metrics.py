"""What Prometheus hears of engines: aggregates by engine, model, rank and pod, never by request or by process.

Engines that share all labels are one series: counts and totals are added up, of ratios and ages the worst is told.
Totals of engines that ended stay in, so that a restart under the same labels is no reset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..model import EngineState
from ..probe import Histogram, Metric, Series
from .layout import Array
from .rank import STEP_BOUNDS, Rank
from .vllm import wire

LABELS = ("engine", "model", "dp_rank", "pod")
REQUEST_LABELS = ("engine", "model", "pod")
_PREFIX = "eagle_eye_engine_"
_MAX_ENDED = 2000


def _gauge(name: str, help_: str, *more: str) -> Metric:
    return Metric(_PREFIX + name, "gauge", help_, (*LABELS, *more))


def _counter(name: str, help_: str, *more: str) -> Metric:
    return Metric(_PREFIX + name + "_total", "counter", help_, (*LABELS, *more))


INFO = _gauge("info", "1 for each engine that is there.", "version", "role", "source", "simulated")
UP = _gauge("up", "1 while the engine speaks, 0 once it is silent: then its load is unknown, and left out.")
AGE = _gauge("age_seconds", "Age of the engine's latest word.")
IN_FLIGHT = _gauge("in_flight_seconds", "Age of the scheduler step that goes on, 0 between steps.")
KV_USAGE = _gauge("kv_usage_ratio", "Share of the KV cache's blocks that are in use.")
KV_BLOCKS = _gauge("kv_blocks", "Blocks of the KV cache.", "state")
STEPS = _counter("steps", "Scheduler steps.")
TOKENS = _counter("tokens", "Tokens that steps computed.", "kind")
FINISHED = _counter("finished", "Requests that ended.", "reason")
MISSED = _counter("records_missed", "Records that the engine overwrote before they were read.")
DROPPED = _counter("records_dropped", "Records that the engine's plugin could not make.")
_GAUGES = {
    "running": _gauge("requests_running", "Requests in the batch."),
    "waiting": _gauge("requests_waiting", "Requests that wait to be scheduled."),
    "deferred": _gauge("requests_deferred", "Requests that cannot be scheduled yet, whatever is free."),
    "input_queue": _gauge(
        "requests_unseen", "Requests that arrived during a step and that the scheduler has not seen."
    ),
    "waiting_prefill_tokens": _gauge(
        "waiting_prefill_tokens", "Prompt tokens of waiting requests, yet to be computed."
    ),
    "max_running": _gauge("requests_running_max", "Most requests that the engine takes into a batch."),
}
_COUNTERS = {
    "preemptions_total": _counter("preemptions", "Requests put back for want of KV cache."),
    "prefix_queries_total": _counter("prefix_query_tokens", "Tokens looked for in the prefix cache."),
    "prefix_hits_total": _counter("prefix_hit_tokens", "Tokens found in the prefix cache."),
    "draft_tokens_total": _counter("draft_tokens", "Tokens proposed by speculative decoding."),
    "accepted_tokens_total": _counter("accepted_tokens", "Proposed tokens that were accepted."),
}
STEP_SECONDS = Metric(
    _PREFIX + "step_seconds", "histogram", "Duration of steps: prefill, decode, or both (mixed).", (*LABELS, "phase")
)
_REQUEST_HELP = {
    "time_to_first_token": "From a request's arrival to its first token.",
    "inter_token": "Between two tokens of a request.",
    "queue": "From a request's arrival until it is scheduled.",
    "prefill": "From a request's scheduling to its first token.",
    "end_to_end": "From a request's arrival to its end.",
}
REQUEST_SECONDS = {
    name: Metric(f"{_PREFIX}{name}_seconds", "histogram", _REQUEST_HELP[name], REQUEST_LABELS)
    for name in wire.HISTOGRAM_NAMES
}
METRICS = (
    INFO, UP, AGE, IN_FLIGHT, *_GAUGES.values(), KV_USAGE, KV_BLOCKS, STEPS, TOKENS, FINISHED, *_COUNTERS.values(),
    STEP_SECONDS, *REQUEST_SECONDS.values(), MISSED, DROPPED,
)  # fmt: skip
# Of engines that share labels: the largest of these, the smallest of UP.
_WORST = frozenset(metric.name for metric in (INFO, AGE, IN_FLIGHT, KV_USAGE))

Value = float | Histogram
Part = tuple[Metric, tuple[str, ...], Value]


class Ledger:
    """Adds parts up to series; what engines counted that have ended stays in, for the latest 2000 series."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, tuple[str, ...]], Part] = {}

    def end(self, parts: Iterable[Part]) -> None:
        """Keeps the totals among the last parts of an engine."""
        for part in parts:
            if part[0].kind != "gauge":
                key = (part[0].name, part[1])
                before = self._ended.pop(key, None)
                self._ended[key] = (*part[:2], _added(before[2], part[2])) if before else part
        while len(self._ended) > _MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def series(self, parts: Iterable[Part]) -> list[Series]:
        sums = dict(self._ended)
        for metric, labels, value in parts:
            key = (metric.name, labels)
            before = sums.get(key)
            sums[key] = (metric, labels, value if before is None else _combined(metric, before[2], value))
        return [Series(metric, value, labels) for metric, labels, value in sums.values()]


def _combined(metric: Metric, before: Value, value: Value) -> Value:
    if metric is UP:
        return min(before, value)  # type: ignore[type-var]
    if metric.name in _WORST:
        return max(before, value)  # type: ignore[type-var]
    return _added(before, value)


def _added(before: Value, value: Value) -> Value:
    if isinstance(before, Histogram) and isinstance(value, Histogram):
        return Histogram(before.bounds, before.counts + value.counts, before.total + value.total)
    return before + value  # type: ignore[operator]


def labels_of(state: EngineState) -> tuple[str, ...]:
    return state.engine, state.model, str(state.dp_rank), state.pod


def parts_of(state: EngineState, now_ns: int) -> Iterator[Part]:
    """Of an engine as it is known now, whatever the source."""
    labels = labels_of(state)
    simulated = str(state.simulated).lower()
    yield INFO, (*labels, state.version, state.role, state.source, simulated), 1.0
    speaks = state.kind != "unknown"
    yield UP, labels, float(speaks)
    yield AGE, labels, max(0, now_ns - state.at_ns) / 1e9
    if speaks:
        yield from _load(state, labels)
    yield from _totals(state, labels)


def _load(state: EngineState, labels: tuple[str, ...]) -> Iterator[Part]:
    for field, metric in _GAUGES.items():
        if (value := getattr(state, field)) is not None:
            yield metric, labels, float(value)
    if state.in_flight_age_ns is not None:
        yield IN_FLIGHT, labels, state.in_flight_age_ns / 1e9
    if state.kv_usage_ratio is not None:
        yield KV_USAGE, labels, float(state.kv_usage_ratio)
    for kind, blocks in (("total", state.kv_blocks_total), ("free", state.kv_blocks_free)):
        if blocks is not None:
            yield KV_BLOCKS, (*labels, kind), float(blocks)


def _totals(state: EngineState, labels: tuple[str, ...]) -> Iterator[Part]:
    if state.step:
        yield STEPS, labels, float(state.step)
    for field, metric in _COUNTERS.items():
        if (value := getattr(state, field)) is not None:
            yield metric, labels, float(value)
    for kind, tokens in (("prefill", state.prefill_tokens_total), ("decode", state.decode_tokens_total)):
        if tokens is not None:
            yield TOKENS, (*labels, kind), float(tokens)
    for reason, count in state.finished_total.items():
        yield FINISHED, (*labels, reason), float(count)


def parts_of_rank(rank: Rank, state: EngineState) -> Iterator[Part]:
    """What only the ring tells: durations by phase, and what was lost."""
    labels = labels_of(state)
    yield MISSED, labels, float(rank.missed)
    yield DROPPED, labels, float(rank.dropped)
    times = rank.step_times()
    for phase, counts in times.counts.items():
        yield STEP_SECONDS, (*labels, phase), Histogram(STEP_BOUNDS, counts.copy(), times.total_ns[phase] / 1e9)


def parts_of_requests(state: EngineState, histograms: Array) -> Iterator[Part]:
    """Latencies of requests, from the area of a ring that has some. Implausible rows are left out."""
    labels = (state.engine, state.model, state.pod)
    for name, row in zip(wire.HISTOGRAM_NAMES, histograms, strict=True):
        counts, total_ns = row[:-1], int(row[-1])
        if counts.any() and bool((counts < 2**48).all()) and total_ns < 2**63:
            value = Histogram(wire.HISTOGRAM_BOUNDS, counts.astype(np.int64), total_ns / 1e9)
            yield REQUEST_SECONDS[name], labels, value
