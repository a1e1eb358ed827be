from __future__ import annotations

import pytest
from msgspec.structs import replace

from eagle_eye.collector.engines_now import GONE_STAYS_NS, MOST, EnginesNow
from eagle_eye.collector.view.engines import engine_pairs, engines
from eagle_eye.probes.model import EngineState, Snapshot

BUSY = EngineState(
    instance="a", engine="vllm", model="llama", at_ns=1, kind="step", source="plugin", running=12, waiting=3,
    input_queue=5, kv_usage_ratio=0.451, step_duration_ns=9_100_000, simulated=True,
)  # fmt: skip


def snapshot(*states):
    return Snapshot(
        node="n", cluster="c", boot_id="b", agent="a", seq=1, at_ns=1, wall_offset_ns=0, interval_ns=1, host=(),
        health=(), engines=states,
    )  # fmt: skip


def test_an_engine_is_told_with_its_load():
    assert engines(snapshot(BUSY)) == [
        ("vllm llama (simulated)  step  running 12  waiting 8  KV 45.1 %  step 9.10 ms", False)
    ]


@pytest.mark.parametrize("kind", ["unknown", "gone"])
def test_of_an_engine_that_is_silent_no_load_is_told(kind):
    assert engines(snapshot(replace(BUSY, kind=kind))) == [(f"vllm llama (simulated)  {kind}", True)]


def test_a_step_that_goes_on_is_told_with_its_age():
    assert "in flight 2.35 s" in engines(snapshot(replace(BUSY, kind="tick", in_flight_age_ns=2_350_000_000)))[0][0]


def test_many_engines_are_one_line():
    states = [replace(BUSY, instance=str(number), dp_rank=number) for number in range(7)]
    ((line, wrong),) = engines(snapshot(*states, replace(BUSY, kind="unknown")))

    assert line == "8 (simulated): 7 step, 1 unknown  running 84  waiting 56  fullest KV 45.1 %"
    assert wrong


def test_a_plain_line_tells_what_is_not_known():
    pairs = engine_pairs(snapshot(BUSY, replace(BUSY, kind="unknown"), replace(BUSY, kind="gone")))

    assert pairs == [
        "engines=2",
        "engines_simulated=2",
        "engines_unknown=1",
        "requests_running=12",
        "requests_waiting=8",
    ]
    assert engine_pairs(snapshot()) == []


def test_the_snapshot_has_the_latest_of_each_and_the_gone_for_a_while():
    now = EnginesNow()
    now.take([BUSY, replace(BUSY, instance="b", dp_rank=1)], 1)
    now.take([replace(BUSY, kind="gone")], 2)

    assert [(state.instance, state.kind) for state in now.now(3)] == [("a", "gone"), ("b", "step")]
    assert [state.instance for state in now.now(3 + GONE_STAYS_NS)] == ["b"]


def test_the_snapshot_tells_no_load_of_who_is_silent():
    now = EnginesNow()
    now.take([replace(BUSY, kind="unknown")], 1)
    (state,) = now.now(2)

    assert (state.running, state.waiting, state.kv_usage_ratio, state.model) == (None, None, None, BUSY.model)


def test_there_are_never_too_many():
    now = EnginesNow()
    now.take([replace(BUSY, instance="gone", kind="gone")], 0)
    now.take([replace(BUSY, instance=str(number)) for number in range(MOST + 10)], 1)

    kept = {state.instance for state in now.now(2)}
    assert len(kept) == MOST
    assert "gone" not in kept
    assert str(MOST + 9) in kept
