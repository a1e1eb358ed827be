"""The hook in a real scheduler, in one process: what it tells against what was asked for and what came out."""

import itertools
import os
import threading
import time

import pytest
from conftest import in_process, wait_for
from eagle_eye_vllm import scheduler, switch, wire
from rings import ring_files
from vllm import SamplingParams

U32, U64 = wire.UNKNOWN["I"], wire.UNKNOWN["Q"]


def generate(llm, prompts, tokens, **sampling):
    return llm.generate(prompts, SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **sampling}), use_tqdm=False)


def observed(reader, since):
    reader.read()
    return reader.steps[since:]


def test_every_step_and_token_is_told(llm):
    engine, reader = llm
    since = len(observed(reader, 0))
    first = reader.steps[-1].step if reader.steps else 0

    out = generate(engine, [f"{n} hello there" * 5 for n in range(40)], 20)

    steps = observed(reader, since)
    prompt = sum(len(request.prompt_token_ids) for request in out)
    produced = sum(len(request.outputs[0].token_ids) for request in out)
    hits = steps[-1].prefix_hits_total - (reader.steps[since - 1].prefix_hits_total if since else 0)
    assert [step.step for step in steps] == list(range(first + 1, first + 1 + len(steps)))
    assert produced == 40 * 20
    assert sum(step.prefill_tokens for step in steps) == prompt - hits
    assert sum(step.decode_tokens for step in steps) == produced - 40
    assert sum(step.prefill_requests for step in steps) == 40
    assert max(step.running for step in steps) == 40
    assert all(step.start_ns < step.end_ns for step in steps)
    assert all(step.schedule_ns + step.update_ns < step.end_ns - step.start_ns for step in steps)
    assert {step.thread_id for step in steps} == {threading.get_native_id()}
    assert steps[-1].running == steps[-1].waiting == steps[-1].running_context_tokens == 0
    assert reader.header().dropped == 0


def test_times_are_of_the_monotonic_clock(llm):
    engine, reader = llm
    since = len(observed(reader, 0))
    before = time.monotonic_ns()

    generate(engine, ["one"], 3)

    steps = observed(reader, since)
    assert before < steps[0].start_ns < steps[-1].end_ns < time.monotonic_ns()


def test_totals_go_on_from_step_to_step(llm):
    engine, reader = llm
    generate(engine, ["totals"] * 3, 4)
    steps = observed(reader, 0)

    for earlier, later in itertools.pairwise(steps):
        assert later.decode_tokens_total == earlier.decode_tokens_total + later.decode_tokens
        assert later.prefill_tokens_total == earlier.prefill_tokens_total + later.prefill_tokens
        assert later.finished_length_total >= earlier.finished_length_total


def test_a_request_finishes_by_length_by_stop_and_by_abort(llm):
    engine, reader = llm
    generate(engine, ["before"], 2)
    before = observed(reader, 0)[-1]

    generate(engine, ["length"] * 3, 4)
    generate(engine, ["stop"], 500, ignore_eos=False, stop_token_ids=list(range(3, 317)))
    core = engine.llm_engine
    core.add_request("7", "abort", SamplingParams(max_tokens=1000, ignore_eos=True))
    core.step()
    internal = list(core.engine_core.engine_core.scheduler.requests)
    core.abort_request(["7"])
    assert internal
    generate(engine, ["after"], 2)

    after = observed(reader, 0)[-1]
    assert after.finished_length_total - before.finished_length_total == 4
    assert after.finished_stop_total - before.finished_stop_total == 1
    assert after.finished_abort_total - before.finished_abort_total == 1
    assert after.finished_error_total == before.finished_error_total


def test_blocks_of_the_cache_are_counted_as_vllm_does(llm):
    engine, reader = llm
    since = len(observed(reader, 0))
    core = engine.llm_engine
    manager = core.engine_core.engine_core.scheduler.kv_cache_manager
    core.add_request("kv", "blocks " * 300, SamplingParams(max_tokens=2, ignore_eos=True))
    core.step()

    told = observed(reader, since)[0]
    assert 0 < 1 - told.kv_blocks_free / told.kv_blocks_total == pytest.approx(manager.usage)
    while core.has_unfinished_requests():
        core.step()


def test_a_prefix_that_is_cached_is_a_hit(llm):
    engine, reader = llm
    prompt = "a prefix that is long enough for a block of the cache " * 20
    first = generate(engine, [prompt], 1)[0]
    before = observed(reader, 0)[-1]

    second = generate(engine, [prompt], 1)[0]

    after = observed(reader, 0)[-1]
    assert second.num_cached_tokens > 0
    assert after.prefix_hits_total - before.prefix_hits_total == second.num_cached_tokens
    assert after.prefix_queries_total - before.prefix_queries_total == len(first.prompt_token_ids)
    assert after.prefill_tokens == len(first.prompt_token_ids) - second.num_cached_tokens


def test_nobody_reads_and_nothing_is_written(llm):
    engine, reader = llm
    generate(engine, ["x"], 2)
    reader.close()
    head, last = reader.header().head, reader.steps[-1]

    generate(engine, ["nobody reads"], 5)
    assert reader.header().head == head

    reader.__init__(reader.path)
    generate(engine, ["somebody reads"], 5)
    reader.read()
    later = reader.steps[-1]
    assert later.begin == head + 5
    assert later.step == last.step + 10, "steps that nobody watched are counted"


def test_the_ticker_speaks_while_a_step_takes_long(llm, monkeypatch):
    engine, reader = llm
    core = engine.llm_engine.engine_core.engine_core
    execute = core.model_executor.execute_model

    def slowly(*args, **kwargs):
        time.sleep(0.8)
        return execute(*args, **kwargs)

    time.sleep(0.6)  # the ticker looks for readers four times a second
    monkeypatch.setattr(core.model_executor, "execute_model", slowly)
    urgent = reader.header().urgent
    before = len(reader.ticks)
    generate(engine, ["slow"], 1)

    step = observed(reader, 0)[-1]
    ticks = [tick for tick in reader.ticks[before:] if tick.flight_step == step.step]
    assert len(ticks) >= 8
    assert {tick.flight_started_ns for tick in ticks} == {step.start_ns}
    assert {tick.running for tick in ticks} == {1}
    assert all(step.start_ns < tick.at_ns < step.end_ns for tick in ticks)
    assert reader.header().urgent > urgent, "a step that is long on its way is an edge"


def test_an_idle_engine_gives_a_sign_of_life(llm):
    _, reader = llm
    before = len(reader.ticks)

    tick = wait_for(lambda: reader.ticks[before:], 10)[0]

    assert tick.flight_started_ns == U64
    assert tick.running == tick.waiting == tick.input_queue == 0


def test_the_handshake_names_the_engine(llm):
    _, reader = llm
    said = reader.handshake

    assert said["engine"] == "vllm"
    assert said["version"].startswith(os.environ.get("EXPECTED_VLLM", "0.32.0"))
    assert said["instance"] in reader.path.name
    assert said["pid"] == os.getpid() == reader.header().pid
    assert said["max_running"] == 64
    assert said["model"].endswith("build/engine-model")
    assert said["lacks"] == []
    assert oct(reader.path.stat().st_mode & 0o777) == "0o600"
    assert "hello" not in str(said)


def test_preemption_under_a_tiny_cache():
    with in_process(num_gpu_blocks_override=14, block_size=32, max_model_len=400, max_num_batched_tokens=2048) as (
        engine,
        reader,
    ):
        out = generate(engine, [f"{n} tiny cache" for n in range(16)], 120)

        told = sum(step.preemptions_total > earlier.preemptions_total for earlier, step in pairs(reader))
        last = observed(reader, 0)[-1]
        counted = engine.llm_engine.engine_core.engine_core.scheduler
        assert all(len(request.outputs[0].token_ids) == 120 for request in out)
        assert last.preemptions_total > 0
        assert told > 0
        assert last.kv_blocks_total == 13
        edges = [step.edges for step in reader.steps]
        assert any(edge & wire.EDGE_PREEMPTION for edge in edges)
        assert any(edge & wire.EDGE_KV for edge in edges)
        assert any(edge & wire.EDGE_QUEUE for edge in edges)
        assert max(step.waiting for step in reader.steps) > 0
        recomputed = sum(step.prefill_tokens for step in reader.steps)
        assert recomputed > sum(len(request.prompt_token_ids) for request in out), "what was thrown away comes again"
        assert counted.__class__.eagle_eye_base.__name__ in ("Scheduler", "AsyncScheduler")


def pairs(reader):
    reader.read()
    return itertools.pairwise(reader.steps)


@pytest.mark.more
def test_a_hook_that_fails_takes_itself_out_and_the_engine_goes_on(monkeypatch):
    with in_process() as (engine, reader):
        hooked = engine.llm_engine.engine_core.engine_core.scheduler
        monkeypatch.setattr(hooked._eagle_eye, "updated", None)

        out = generate(engine, ["on and on"], 12)

        assert len(out[0].outputs[0].token_ids) == 12
        assert not hasattr(type(hooked), "eagle_eye_base")
        assert reader.header().state == wire.STATE_GONE
        assert reader.header().dropped == switch.MOST_ERRORS
        assert not reader.path.exists()


@pytest.mark.more
def test_the_switch_file_takes_the_hook_out_at_run_time(tmp_path, monkeypatch):
    monkeypatch.setattr(switch, "OFF_FILE", str(tmp_path / "off"))
    with in_process() as (engine, reader):
        (tmp_path / "off").touch()
        wait_for(lambda: reader.header().state == wire.STATE_GONE, 20)

        assert len(generate(engine, ["off"], 3)[0].outputs[0].token_ids) == 3
        assert observed(reader, 0) == []


@pytest.mark.more
def test_disabled_by_the_environment(monkeypatch):
    monkeypatch.setenv("EAGLE_EYE_DISABLE", "1")
    with in_process() as (engine, reader):
        assert reader is None
        assert len(generate(engine, ["off"], 3)[0].outputs[0].token_ids) == 3


@pytest.mark.more
def test_without_shared_memory_the_engine_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "Ring", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with in_process() as (engine, reader):
        assert reader is None
        assert len(generate(engine, ["small"], 3)[0].outputs[0].token_ids) == 3


@pytest.mark.more
def test_an_engine_that_ends_leaves_nothing():
    with in_process() as (_, reader):
        path = reader.path
        assert path in ring_files()

    assert reader.header().state == wire.STATE_GONE
    assert path not in ring_files()
