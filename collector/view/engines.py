"""A line per inference engine: its load, its cache, its step; many of them in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...probes.model import EngineState, Snapshot
from .words import clean, count, percent, seconds

MOST_LINES = 3
# Of these nothing is shown but the word itself.
WITHOUT_LOAD = ("unknown", "gone")


def engines(snapshot: Snapshot) -> list[tuple[str, bool]]:
    """Text of each line, and whether something is wrong in it."""
    states = snapshot.engines
    if len(states) <= MOST_LINES:
        return [(_one(state), state.kind in WITHOUT_LOAD) for state in states]
    return [(_all(states), any(state.kind in WITHOUT_LOAD for state in states))]


def engine_pairs(snapshot: Snapshot) -> list[str]:
    """For a plain line: how many there are, and what those together do whose load is known."""
    states = [state for state in snapshot.engines if state.kind != "gone"]
    told = [state for state in states if state.kind not in WITHOUT_LOAD]
    if not states:
        return []
    running, waiting = sum(state.running or 0 for state in told), sum(_waiting(state) or 0 for state in told)
    pairs = {"engines": len(states), "engines_simulated": sum(state.simulated for state in states)}
    pairs |= {"engines_unknown": len(states) - len(told)}
    load = [f"requests_running={running}", f"requests_waiting={waiting}"] if told else []
    return [*(f"{name}={number}" for name, number in pairs.items() if number), *load]


def _one(state: EngineState) -> str:
    name = clean(f"{state.engine} {state.model}".strip()) + (f" rank {state.dp_rank}" if state.dp_rank else "")
    return "  ".join([name + (" (simulated)" if state.simulated else ""), state.kind, *_load(state)])


def _load(state: EngineState) -> Iterator[str]:
    if state.kind in WITHOUT_LOAD:
        return
    yield f"running {count(state.running)}"
    yield f"waiting {count(_waiting(state))}"
    if state.kv_usage_ratio is not None:
        yield f"KV {percent(state.kv_usage_ratio)}"
    if state.kind == "tick" and state.in_flight_age_ns is not None:
        yield f"in flight {seconds(state.in_flight_age_ns / 1e9)}"
    elif state.step_duration_ns is not None:
        yield f"step {seconds(state.step_duration_ns / 1e9)}"


def _waiting(state: EngineState) -> int | None:
    known = [number for number in (state.waiting, state.deferred, state.input_queue) if number is not None]
    return sum(known) if state.waiting is not None else None


def _all(states: tuple[EngineState, ...]) -> str:
    kinds = Counter(state.kind for state in states)
    told = [state for state in states if state.kind not in WITHOUT_LOAD]
    worst = max((state.kv_usage_ratio for state in told if state.kv_usage_ratio is not None), default=None)
    simulated = " (simulated)" if any(state.simulated for state in states) else ""
    parts = [
        f"{len(states)}{simulated}: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()),
        f"running {count(sum(state.running or 0 for state in told))}",
        f"waiting {count(sum(_waiting(state) or 0 for state in told))}",
        f"fullest KV {percent(worst)}",
    ]
    return "  ".join(parts)
