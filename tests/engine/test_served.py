"""The plugin in a server: EngineCore, worker and front end each in a process of their own."""

import fcntl
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import wait_for
from eagle_eye_vllm import wire
from eagle_eye_vllm.ring import sweep
from rings import Reader
from serving import serving

pytestmark = pytest.mark.served


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Started with its own statistics off: ours do not need them."""
    with serving(tmp_path_factory.mktemp("server"), "--disable-log-stats", "--max-num-batched-tokens", "16384") as made:
        yield made


def total(reader, field):
    reader.read()
    return getattr(reader.steps[-1], field) if reader.steps else 0


def title(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_one_ring_for_the_engine_and_one_for_the_front_end(server):
    (engine,), (frontend,) = server.engines, server.frontends

    assert engine.handshake["group"] == frontend.handshake["group"] != ""
    assert engine.handshake["model"] == frontend.handshake["model"] == "tiny"
    assert engine.handshake["pid"] != frontend.handshake["pid"]
    assert "EngineCore" in title(engine.handshake["pid"])
    for pid in engine.handshake["worker_pids"]:
        assert "Worker" in title(pid)
    assert engine.handshake["worker_pids"]


def test_every_step_token_and_request_is_told(server):
    (engine,), (frontend,) = server.engines, server.frontends
    engine.read()
    steps, requests = len(engine.steps), len(frontend.requests)
    before = [total(engine, name) for name in ("prefill_tokens_total", "prefix_hits_total", "finished_length_total")]

    answers = server.complete_all([f"{n} tell me of the engine" for n in range(60)], tokens=24)
    wait_for(lambda: len(frontend.requests) >= requests + 60, 20)

    told = engine.steps[steps:]
    numbers = [step.step for step in told]
    after = [total(engine, name) for name in ("prefill_tokens_total", "prefix_hits_total", "finished_length_total")]
    prefill, hits, finished = (later - earlier for later, earlier in zip(after, before))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no step is lost"
    assert prefill == sum(prompt for prompt, _ in answers) - hits
    assert finished == 60
    decoded = sum(step.decode_tokens for step in told)
    needed = sum(produced - 1 for _, produced in answers)
    # Async scheduling runs one step ahead of what has ended.
    assert needed <= decoded <= needed + 60
    assert engine.header().dropped == frontend.header().dropped == 0


def test_a_request_is_told_with_its_name_and_latencies(server):
    (frontend,) = server.frontends
    since = len(frontend.requests)
    counts, sum_before = frontend.histogram("time_to_first_token")
    began = time.monotonic_ns()
    prompt, produced = server.complete("a request with a name", 12, request_id="gateway-17")
    took = time.monotonic_ns() - began

    told = wait_for(lambda: frontend.requests[since:], 20)[0]
    assert b"gateway-17" in told.id
    assert (told.prompt_tokens, told.generated_tokens) == (prompt, produced)
    assert wire.REASONS[told.reason] == "length"
    assert 0 < told.queue_ns + told.prefill_ns <= told.time_to_first_token_ns + 10**6
    assert told.time_to_first_token_ns < told.end_to_end_ns <= took
    assert told.decode_ns == pytest.approx(told.inter_token_ns * (produced - 1), rel=0.01)
    assert began < told.at_ns < time.monotonic_ns()
    later, sum_after = frontend.histogram("time_to_first_token")
    assert sum(later) - sum(counts) == 1
    assert sum_after - sum_before == pytest.approx(told.time_to_first_token_ns, rel=0.2)


def test_histograms_count_what_vllm_counts(server):
    (frontend,) = server.frontends
    server.complete_all(["counted"] * 5, tokens=9)
    wait_for(lambda: sum(frontend.histogram("end_to_end")[0]) >= 5, 20)

    ours = {name: sum(frontend.histogram(name)[0]) for name in wire.HISTOGRAM_NAMES}
    theirs = server.metrics()

    def counted(name):
        return sum(float(line.split()[-1]) for line in theirs.splitlines() if line.startswith(f"vllm:{name}_count"))

    assert ours["time_to_first_token"] == counted("time_to_first_token_seconds")
    assert ours["inter_token"] == counted("inter_token_latency_seconds")
    assert ours["end_to_end"] == counted("e2e_request_latency_seconds")
    assert ours["queue"] == counted("request_queue_time_seconds")


def test_requests_that_the_scheduler_has_not_seen_are_told_during_a_long_step(server):
    """Prompts that fill a step, then thirty that come while it runs."""
    (engine,) = server.engines
    time.sleep(0.5)
    begin = len(engine.ticks)
    long = [" ".join(str(number + turn) for number in range(1200)) for turn in range(6)]
    with ThreadPoolExecutor(40) as pool:
        running = [pool.submit(server.complete, prompt[:3500], 1) for prompt in long]
        time.sleep(0.05)
        running += [pool.submit(server.complete, f"short {turn}", 1) for turn in range(30)]
        assert [one.result()[1] for one in running] == [1] * 36

    engine.read()
    ticks = engine.ticks[begin:]
    assert any(tick.flight_started_ns != wire.UNKNOWN["Q"] for tick in ticks)
    assert max(tick.input_queue for tick in ticks) > 0 or max(step.input_queue for step in engine.steps) > 0
    assert max(tick.waiting_prefill_tokens for tick in ticks) > 0


def is_dead(file):
    """Whether the writer of an open ring has let go of its lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def test_the_end_of_a_server_is_told_and_leaves_nothing(tmp_path):
    """vLLM kills its engine right after it has asked it to end, unless it is told to wait."""
    with serving(tmp_path) as server:
        server.complete("x")
        (engine,), (frontend,) = server.engines, server.frontends
        with engine.path.open("rb") as file:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
            assert frontend.header().state == wire.STATE_GONE
            wait_for(lambda: is_dead(file), 30)
        sweep()
        assert wait_for(lambda: engine.header().state == wire.STATE_GONE, 10)
    assert not any(path.exists() for path in server.paths)


def test_an_engine_that_may_end_its_work_is_draining_and_then_gone(tmp_path):
    steps_alone = {"VLLM_PLUGINS": "eagle_eye"}
    with serving(tmp_path, "--shutdown-timeout", "60", "--disable-log-stats", environment=steps_alone) as server:
        (engine,) = server.engines
        assert server.frontends == []
        assert engine.handshake["log_stats"] is False, "nothing of ours turned vLLM's statistics on"
        time.sleep(0.5)
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(server.complete, "the last one", 3000)
            wait_for(lambda: engine.steps, 30)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: engine.header().state == wire.STATE_DRAINING, 30)
            assert last.result()[1] == 3000
        wait_for(lambda: engine.header().state == wire.STATE_GONE, 60)


def test_an_engine_that_is_killed_lets_go_of_its_lock(tmp_path):
    with serving(tmp_path) as server:
        (engine,) = server.engines
        server.complete("x")
        with engine.path.open("rb") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.kill(engine.handshake["pid"], signal.SIGKILL)
            wait_for(lambda: is_dead(file), 60)
        server.process.wait(120)

    # The next engine of this user does so; an agent on this machine may have been quicker.
    sweep()
    assert not engine.path.exists()


def test_two_api_servers_lose_no_step_and_no_request(tmp_path):
    with serving(tmp_path, "--api-server-count", "2") as server:
        wait_for(lambda: len(server.engines) == 1, 5)
        (engine,) = server.engines
        assert len(server.frontends) == 2
        assert len({reader.handshake["group"] for reader in server.readers}) == 1

        answers = []

        def both_had_some():
            answers.extend(server.complete_all([f"{n} spread over two" for n in range(80)], tokens=16, at_once=40))
            wait_for(lambda: sum(len(frontend.requests) for frontend in server.frontends) == len(answers), 20)
            return all(frontend.requests for frontend in server.frontends)

        wait_for(both_had_some, 120)
        engine.read()
        numbers = [step.step for step in engine.steps]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert total(engine, "finished_length_total") == len(answers)
        hits = total(engine, "prefix_hits_total")
        assert total(engine, "prefill_tokens_total") == sum(prompt for prompt, _ in answers) - hits
        assert all(frontend.header().dropped == 0 for frontend in server.frontends)


def test_switched_off_there_is_nothing(tmp_path):
    with serving(tmp_path, environment={"EAGLE_EYE_DISABLE": "1"}) as server:
        assert server.paths == []
        assert server.complete("off", 3)[1] == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_have_two_rings(tmp_path):
    with serving(tmp_path, "--data-parallel-size", "2", "--api-server-count", "1") as server:
        assert sorted(engine.handshake["dp_rank"] for engine in server.engines) == [0, 1]
        (frontend,) = server.frontends

        server.complete_all([f"{n} over two ranks" for n in range(40)], tokens=12)

        wait_for(lambda: len(frontend.requests) == 40, 30)
        assert {request.engine_index for request in frontend.requests} == {0, 1}
        assert sum(total(engine, "finished_length_total") for engine in server.engines) == 40
        assert all(total(engine, "finished_length_total") for engine in server.engines)


def test_a_reader_that_comes_back_goes_on(server):
    (engine,) = server.engines
    server.complete("before", 4)
    engine.close()
    server.complete("unseen", 4)
    again = Reader(engine.path)
    server.readers[server.readers.index(engine)] = again
    server.complete("after", 4)

    last = wait_for(lambda: again.steps and again.steps[-1], 10)
    assert last.step > engine.steps[-1].step + 4
