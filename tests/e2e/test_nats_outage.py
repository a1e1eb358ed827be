"""NATS absent, killed, stopped: events are stored once and in order, snapshots are counted, nothing waits."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import msgspec
import pytest


class Load:
    """Produces events and snapshots at steady rates and measures how late the event loop ever was."""

    def __init__(self, publisher, event, *, events_per_s=2000, lossy_per_s=50):
        self.publisher = publisher
        self.event = event
        self.tick_s = 0.01
        self.per_tick = int(events_per_s * self.tick_s)
        self.lossy_every = max(1, int(1 / (lossy_per_s * self.tick_s)))
        self.events = self.snapshots = 0
        self.slowest_call_s = 0.0

    async def run(self, seconds):
        end, tick = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            started = time.monotonic()
            for _ in range(self.per_tick):
                self.events += 1
                self.publisher.publish_event(self.event(self.events))
            if tick % self.lossy_every == 0:
                self.snapshots += 1
                self.publisher.publish_lossy("eagle_eye.v1.c.n_1.snapshot", b"%d" % self.snapshots)
            self.slowest_call_s = max(self.slowest_call_s, time.monotonic() - started)
            tick += 1
            await asyncio.sleep(self.tick_s)


def check_books(statistics):
    """The two equations of PublisherStatistics."""
    assert statistics.events_produced + statistics.events_recovered == (
        statistics.events_acked + sum(statistics.events_dropped.values()) + statistics.events_queued
    )
    assert statistics.lossy_produced == (
        statistics.lossy_published + sum(statistics.lossy_dropped.values()) + statistics.lossy_held
    )


async def test_a_server_that_comes_later_gets_every_event(server, publisher, event, until):
    late = server()
    started = time.monotonic()
    agent = await publisher(late.url)
    assert time.monotonic() - started < 0.5
    for number in range(1, 501):
        agent.publish_event(event(number))
    agent.publish_lossy("x", b"stale")
    await until(lambda: agent.statistics().state == "disconnected")
    waiting = agent.health()
    assert waiting.state == "failing"
    assert "Connection refused" in waiting.reason
    assert "500 events wait" in waiting.reason
    await until(lambda: agent.statistics().events_spooled == 500)

    late.start()
    await until(lambda: agent.statistics().events_acked == 500)
    assert agent.health().state == "ok"
    assert await late.stored_numbers() == list(range(1, 501))
    statistics = agent.statistics()
    assert statistics.lossy_dropped == {"nats_disconnected": 1}
    check_books(statistics)


async def test_what_arrives_is_what_was_said(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    agent.publish_event(event(1, text="größer\n", count=2**40))
    await until(lambda: agent.statistics().events_acked == 1)
    (message,) = await real.stored()
    assert message.subject == "eagle_eye.v1.c.n_1.event.test.happened"
    assert message.headers["Nats-Msg-Id"] == "boot:test:1"
    assert message.headers["Content-Type"] == "application/json"
    payload = json.loads(message.data)
    assert payload["attributes"] == {"text": "größer\n", "count": 2**40}
    assert payload["node"] == "n.1"


async def test_the_streams_are_bounded_and_remember_ids_for_an_hour(server, publisher, until):
    real = server()
    real.start()
    agent = await publisher(real.url, stream_bytes=2**24)
    await until(lambda: agent.statistics().state == "connected")
    async with real.client() as client:
        js = client.jetstream()
        await until(lambda: not agent.statistics().stream_reason)
        for _ in range(100):
            names = {info.config.name for info in await js.streams_info()}
            if len(names) == 2:
                break
            await asyncio.sleep(0.02)
        events = (await js.stream_info("EAGLE_EYE_EVENTS")).config
        findings = (await js.stream_info("EAGLE_EYE_FINDINGS")).config
    assert events.subjects == ["eagle_eye.v1.*.*.event.>", "eagle_eye.v1.*.*.stall"]
    assert findings.subjects == ["eagle_eye.v1.*.*.finding"]
    assert events.max_bytes == 2**24
    assert events.duplicate_window == findings.duplicate_window == 3600
    assert 0 < events.max_age < findings.max_age


async def test_a_stream_that_exists_is_left_alone(server, publisher, event, until):
    real = server()
    real.start()
    async with real.client() as client:
        await client.jetstream().add_stream(name="EAGLE_EYE_EVENTS", subjects=["eagle_eye.v1.*.*.event.>"], max_msgs=7)
    agent = await publisher(real.url)
    for number in range(1, 11):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 10)
    assert await real.stored_numbers() == list(range(4, 11))
    assert agent.health().state == "ok"


async def test_kill_9_and_restart_under_load(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    load = Load(agent, event)
    running = asyncio.create_task(load.run(2.5))
    for _ in range(2):
        await asyncio.sleep(0.5)
        real.kill()
        await asyncio.sleep(0.4)
        real.start()
    await running
    await until(lambda: agent.statistics().events_queued == 0)
    await agent.stop(2.0)
    statistics = agent.statistics()
    assert statistics.connects == 3
    assert await real.stored_numbers() == list(range(1, load.events + 1))
    assert statistics.lossy_produced == load.snapshots
    assert statistics.lossy_dropped["nats_disconnected"] > 0
    assert statistics.lossy_held == 0
    assert load.slowest_call_s < 1.0  # nats-py alone: 10 s
    check_books(statistics)


async def test_a_stopped_server_is_noticed_and_left_behind(server, publisher, event, until):
    """SIGSTOP: the kernel still accepts connections and bytes for it, only nobody answers."""
    real = server()
    real.start()
    agent = await publisher(real.url)
    received = []
    async with real.client() as client:

        async def keep(message):
            received.append(int(message.data))

        await client.subscribe("eagle_eye.v1.c.n_1.snapshot", cb=keep)
        await client.flush()
        await until(lambda: agent.statistics().state == "connected")
        load = Load(agent, event, events_per_s=5000)
        running = asyncio.create_task(load.run(5.0))
        await asyncio.sleep(0.5)
        real.signal(signal.SIGSTOP)
        noticed_s = await until(lambda: agent.statistics().state == "disconnected")
        await asyncio.sleep(max(0.0, 3.5 - noticed_s))
        real.signal(signal.SIGCONT)
        back_s = await until(lambda: agent.statistics().state == "connected")
        await running
        await until(lambda: agent.statistics().events_queued == 0)
        await agent.stop(2.0)
        await client.flush()
        await asyncio.sleep(0.1)
    statistics = agent.statistics()
    assert noticed_s < 4.0  # 2.5 s on an idle machine
    assert back_s < 4.0
    assert await real.stored_numbers() == list(range(1, load.events + 1))
    assert load.slowest_call_s < 1.0  # nats-py alone: 10 s
    check_books(statistics)
    assert statistics.lossy_held == 0
    assert statistics.lossy_published <= len(received) <= statistics.lossy_produced
    assert received == sorted(set(received))


async def test_a_hung_server_never_holds_up_a_stop(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    real.signal(signal.SIGSTOP)
    for number in range(1, 2001):
        agent.publish_event(event(number, size=500))
        agent.publish_lossy("x", b"x" * 5000)
    started = time.monotonic()
    await agent.stop(1.0)
    assert time.monotonic() - started < 1.5
    statistics = agent.statistics()
    assert statistics.events_spooled == statistics.events_queued == 2000
    check_books(statistics)


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x00\x7b" * 20_000,
        b"INFO {}\r\n",
        b"INFO [1, 2]\r\nPONG\r\n",
        b'INFO {"max_payload": "much", "headers": true}\r\nPONG\r\nPONG\r\nMSG a b c d\r\n',
        b"INFO {}\r\nPONG\r\n" + b"MSG _INBOX.x 1 99999999999\r\n" + b"x" * 100_000,
    ],
    ids=["silence", "http", "noise", "half", "list", "types", "endless"],
)
async def test_a_port_that_is_no_nats_server(publisher, until, event, says):
    async def accept(reader, writer):
        writer.write(says)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    agent = await publisher(f"nats://127.0.0.1:{port}")
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().state == "disconnected")
    assert f"nats://127.0.0.1:{port}" in agent.health().reason
    started = time.monotonic()
    await agent.stop(1.0)
    assert time.monotonic() - started < 0.6
    assert agent.statistics().events_spooled == 1
    listener.close()


async def test_books_with_big_and_odd_events(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    agent.publish_event(event(1, size=400_000))
    agent.publish_event(event(2, size=600_000))
    agent.publish_event(event(3, strange=object()))
    agent.publish_event(event(4))
    await until(lambda: agent.statistics().events_queued == 0)
    statistics = agent.statistics()
    assert await real.stored_numbers() == [1, 4]
    assert statistics.events_dropped == {"too_large": 1, "unencodable": 1}
    check_books(statistics)


async def test_an_event_above_the_servers_own_limit_does_not_block_the_others(server, publisher, event, until):
    real = server(max_payload=10_000)
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    for number in range(1, 6):
        agent.publish_event(event(number, size=20_000 if number == 3 else 0))
    agent.publish_lossy("x", b"x" * 20_000)
    await until(lambda: agent.statistics().events_queued == 0)
    assert await real.stored_numbers() == [1, 2, 4, 5]
    assert agent.statistics().events_dropped == {"too_large": 1}
    assert agent.statistics().lossy_dropped == {"too_large": 1}


async def test_a_stream_deleted_under_way_is_made_again(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().events_acked == 1)
    async with real.client() as client:
        await client.jetstream().delete_stream("EAGLE_EYE_EVENTS")
    for number in range(2, 102):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 101)
    assert await real.stored_numbers() == list(range(2, 102))


async def test_a_stream_that_takes_no_more_is_named_and_events_wait(server, publisher, event, until):
    real = server()
    real.start()
    async with real.client() as client:
        stream = client.jetstream()
        subjects = ["eagle_eye.v1.*.*.event.>"]
        await stream.add_stream(name="EAGLE_EYE_EVENTS", subjects=subjects, max_msgs=3, discard="new")
        agent = await publisher(real.url)
        for number in range(1, 11):
            agent.publish_event(event(number))
        await until(lambda: "maximum messages exceeded" in agent.health().reason)
        assert agent.health().state == "degraded"
        assert agent.statistics().events_queued == 7
        config = (await stream.stream_info("EAGLE_EYE_EVENTS")).config
        config.max_msgs = 100
        await stream.update_stream(config)
        await until(lambda: agent.statistics().events_acked == 10)
    assert await real.stored_numbers() == list(range(1, 11))
    assert agent.health().state == "ok"


async def test_an_event_is_heard_without_delay(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    waits_s = []
    async with real.client() as client:

        async def hear(message):
            waits_s.append((time.monotonic_ns() - json.loads(message.data)["at_ns"]) / 1e9)

        await client.subscribe("eagle_eye.v1.c.n_1.event.>", cb=hear)
        await client.flush()
        await asyncio.sleep(0.1)
        for number in range(1, 201):
            agent.publish_event(event(number))
            await asyncio.sleep(0.003)
        await until(lambda: len(waits_s) == 200)
    # The 99th of 100 is the business of the publish benchmark; the median holds whatever else runs here.
    assert sorted(waits_s)[100] < 0.01


async def test_messagepack_is_said_in_the_header(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url, encoding="msgpack")
    agent.publish_event(event(1, text="x"))
    await until(lambda: agent.statistics().events_acked == 1)
    (message,) = await real.stored()
    assert message.headers["Content-Type"] == "application/msgpack"
    assert msgspec.msgpack.decode(message.data)["attributes"] == {"text": "x"}
