"""Routing messages from the plugin in vLLM's front end straight to a real nats-server, without an agent."""

import asyncio
import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import msgspec
import pytest

from eagle_eye.probes.engine.vllm import direct
from eagle_eye.probes.engine.vllm.nats import Line
from eagle_eye.probes.model import RoutingMessage


def config(**parallel):
    return SimpleNamespace(
        instance_id="abc",
        model_config=SimpleNamespace(served_model_name="tiny"),
        parallel_config=SimpleNamespace(**{"data_parallel_rank": 0, "data_parallel_size": 1, **parallel}),
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=100),
        kv_transfer_config=None,
    )


def stats(running=1, waiting=2, kv=0.5):
    prefix = SimpleNamespace(queries=10, hits=4)
    return SimpleNamespace(
        num_running_reqs=running, num_waiting_reqs=waiting, kv_cache_usage=kv, prefix_cache_stats=prefix
    )


def iteration(tokens=3):
    return SimpleNamespace(num_generation_tokens=tokens, num_prompt_tokens=7, num_preempted_reqs=0)


class FrontEnd:
    """As AsyncLLM makes its loggers: with an output processor at hand."""

    def __init__(self, **parallel):
        self.output_processor = Processor()
        self.direct = direct.from_environment(config(**parallel), 0)


class Processor:
    def __init__(self):
        self.request_states = {}


@pytest.fixture(autouse=True)
def no_senders_are_left(monkeypatch):
    monkeypatch.setattr(direct, "_senders", {})
    yield
    for sender in direct._senders.values():
        sender.close()


async def heard(client, subject):
    """A list that fills with what comes on `subject`."""
    found = []

    async def take(message):
        found.append(json.loads(message.data))

    await client.subscribe(subject, cb=take)
    await client.flush()
    return found


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
    return found


async def test_a_message_is_a_routing_message_with_every_field(server, monkeypatch):
    nats = server(jetstream=False)
    nats.start()
    monkeypatch.setenv(direct.URL, nats.url)
    monkeypatch.setenv(direct.NODE, "node.1")
    async with nats.client() as client:
        all_engines, own = await heard(client, direct.DEFAULT_SUBJECT), await heard(client, "*.*.node_1.abc-0")
        front = FrontEnd()
        front.direct.record(stats(), iteration())
        first = (await until(lambda: all_engines))[0]
        await until(lambda: own)

    message = msgspec.convert(first, RoutingMessage)
    assert set(first) == set(RoutingMessage.__struct_fields__)
    assert own[0] == first
    assert (message.node, message.instance, message.model, message.kind) == ("node.1", "abc-0", "tiny", "step")
    assert (message.running, message.waiting, message.kv_usage_ratio) == (1, 2, 0.5)
    assert (message.prefix_queries_total, message.prefix_hits_total, message.decode_tokens_total) == (10, 4, 3)
    assert message.input_queue is None
    assert message.in_flight_age_ns is None
    assert message.health == "unknown"
    assert abs(message.at_wall_ns - time.time_ns()) < 20e9


async def test_the_latest_wins_and_what_it_stands_for_is_counted(server, monkeypatch):
    nats = server(jetstream=False)
    nats.start()
    monkeypatch.setenv(direct.URL, nats.url)
    async with nats.client() as client:
        found = await heard(client, direct.DEFAULT_SUBJECT)
        front = FrontEnd()
        front.output_processor.request_states["x"] = 1
        for number in range(500):
            front.direct.record(stats(running=number + 1), iteration())
        await until(lambda: found and found[-1]["running"] == 500)

    steps = [message for message in found if message["kind"] == "step"]
    assert sum(1 + message["coalesced"] for message in steps) == 500
    assert [message["seq"] for message in found] == list(range(1, len(found) + 1))


async def test_silence_with_requests_under_way_is_a_tick_and_without_is_idle(server, monkeypatch):
    nats = server(jetstream=False)
    nats.start()
    monkeypatch.setenv(direct.URL, nats.url)
    async with nats.client() as client:
        found = await heard(client, direct.DEFAULT_SUBJECT)
        front = FrontEnd()
        front.output_processor.request_states.update(dict.fromkeys(range(34)))
        front.direct.record(stats(running=1, waiting=0), iteration())
        tick = await until(lambda: [message for message in found if message["kind"] == "tick"])
        front.output_processor.request_states.clear()
        idle = await until(lambda: [message for message in found if message["kind"] == "idle"])

    assert (tick[0]["running"], tick[0]["waiting"]) == (1, 33)
    assert tick[0]["in_flight_age_ns"] >= 50e6
    assert (idle[0]["running"], idle[0]["waiting"]) == (0, 0)


async def test_of_several_front_ends_none_claims_that_the_engine_is_idle(server, monkeypatch):
    nats = server(jetstream=False)
    nats.start()
    monkeypatch.setenv(direct.URL, nats.url)
    async with nats.client() as client:
        found = await heard(client, direct.DEFAULT_SUBJECT)
        front = FrontEnd(_api_process_count=2)
        front.direct.record(None, iteration())
        front.direct.record(stats(running=0, waiting=0), iteration())
        await until(lambda: found)
        await asyncio.sleep(1.5)

    assert [message["kind"] for message in found] == ["step"]


async def test_a_server_that_comes_late_and_goes_is_found_again(server, monkeypatch):
    nats = server(jetstream=False)
    monkeypatch.setenv(direct.URL, nats.url)
    front = FrontEnd()
    front.direct.record(stats(), iteration())
    nats.start()
    for _ in range(2):
        async with nats.client() as client:
            found = await heard(client, direct.DEFAULT_SUBJECT)
            number = 0
            while not found:
                number += 1
                front.direct.record(stats(running=number), iteration())
                await asyncio.sleep(0.02)
                assert number < 1000
        nats.kill()
        front.direct.record(stats(), iteration())
        nats.start()

    line = next(iter(direct._senders.values())).line
    assert line.connects >= 2


async def test_password_and_token(server):
    for settings, login in (
        ({"authorization": {"user": "u", "password": "p@ss"}}, "u:p%40ss@"),
        ({"authorization": {"token": "t0"}}, "t0@"),
    ):
        nats = server(jetstream=False, **settings)
        nats.start()
        good = Line(nats.url.replace("//", f"//{login}"), "test")
        bad = Line(nats.url.replace("//", "//who:ever@"), "test")

        assert await asyncio.to_thread(good.publish, [("a", b"b")])
        assert not await asyncio.to_thread(bad.publish, [("a", b"b")])
        assert "Authorization" in bad.problem
        assert (good.sent, bad.dropped) == (1, 1)
        good.close()


async def test_tls_with_an_authority_and_without(server, authority):
    certificate, key = authority.issue("server")
    nats = server(jetstream=False, tls={"cert_file": str(certificate), "key_file": str(key)})
    nats.start()
    trusting = Line(nats.url, "test", str(authority.file))
    doubting = Line(nats.url, "test")

    assert await asyncio.to_thread(trusting.publish, [("a", b"b")])
    assert not await asyncio.to_thread(doubting.publish, [("a", b"b")])
    assert "certificate" in doubting.problem.lower()
    trusting.close()


async def test_the_server_pings_and_is_answered(server):
    nats = server(jetstream=False, ping_interval="200ms", ping_max=2)
    nats.start()
    line = Line(nats.url, "test")
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        await asyncio.to_thread(line.serve)
        await asyncio.sleep(0.02)

    assert line.publish([("a", b"b")])
    assert line.connects == 1
    line.close()


async def test_a_server_that_hangs_holds_up_nobody(server, monkeypatch):
    import signal

    nats = server(jetstream=False)
    nats.start()
    monkeypatch.setenv(direct.URL, nats.url)
    front = FrontEnd()
    front.direct.record(stats(), iteration())
    nats.signal(signal.SIGSTOP)
    cpu = time.thread_time()
    for number in range(20_000):
        front.direct.record(stats(running=number), iteration())
    assert time.thread_time() - cpu < 5

    assert len(direct._senders) == 1
    nats.signal(signal.SIGCONT)


@pytest.mark.parametrize("url", ["http://x", "nats://", "", " , "])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="NATS"):
        Line(url, "test")


async def test_a_server_that_speaks_something_else_is_given_up():
    async def talk(reader, writer):
        writer.write(b"x" * 200_000)
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    line = Line(f"nats://127.0.0.1:{port}", "test")

    assert not await asyncio.to_thread(line.publish, [("a", b"b")])
    assert "speaks something else" in line.problem
    stranger.close()


@pytest.fixture
def stat_logger(monkeypatch, tmp_path):
    """CustomStatLogger on a stand-in for vLLM's base class; rings go into tmp_path."""
    loggers = ModuleType("vllm.v1.metrics.loggers")
    loggers.StatLoggerBase = type("StatLoggerBase", (), {})
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", loggers)
    monkeypatch.delitem(sys.modules, "eagle_eye.probes.engine.vllm.statlogger", raising=False)
    from eagle_eye.probes.engine.vllm import statlogger

    made = statlogger.Ring
    monkeypatch.setattr(statlogger, "Ring", lambda handshake: made(handshake, str(tmp_path)))
    monkeypatch.setattr(statlogger, "_rings", {})
    yield statlogger
    for ring in statlogger._rings.values():
        ring.close()
    monkeypatch.delitem(sys.modules, "eagle_eye.probes.engine.vllm.statlogger", raising=False)


def test_ranks_of_one_front_end_share_a_ring(stat_logger):
    loggers = [stat_logger.CustomStatLogger(config(), rank) for rank in range(3)]

    assert len({id(logger._ring) for logger in loggers}) == 1


def test_a_logger_that_fails_turns_itself_off(stat_logger, caplog):
    logger = stat_logger.CustomStatLogger(config())
    logger._ring._words[64] = 2**63
    broken = SimpleNamespace(time_to_first_tokens_iter=["never"])
    for _ in range(10):
        logger.record(None, broken)

    assert logger._off
    assert not logger._ring.open
    assert len([one for one in caplog.records if "took out" in one.message]) == 1


def test_other_signatures_of_record_do_no_harm(stat_logger):
    logger = stat_logger.CustomStatLogger(config())
    logger._ring._words[64] = 2**63

    logger.record()
    logger.record(stats())
    logger.record(stats(), None, object(), 3)
    logger.record(scheduler_stats=None, iteration_stats=iteration(), mm_cache_stats=None, engine_idx=1, more=2)
    logger.log_engine_initialized()
    assert logger._errors.count == 0
    assert threading.current_thread().is_alive()
