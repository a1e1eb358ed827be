"""The routing feed over a real NATS server: late routers, lost servers, agents that die, two agents, many engines."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.publisher import Publisher
from eagle_eye.collector.routing import RoutingClient, RoutingTable
from eagle_eye.collector.routing.feed import Feed, FeedOptions
from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes.model import EngineState

S = 10**9


class Node:
    """An agent's way to NATS with a feed on it, on node `n.1`."""

    def __init__(self, publisher: Publisher, feed: Feed) -> None:
        self.publisher = publisher
        self.feed = feed

    def say(self, instance: str = "e1", **fields) -> None:
        defaults = {"engine": "vllm", "at_ns": time.monotonic_ns(), "kind": "step", "source": "plugin", "running": 1}
        self.feed.take([EngineState(instance=instance, **(defaults | fields))])

    async def kill(self) -> None:
        """As a SIGKILL looks from outside: nothing more is said, and no goodbye."""
        task = self.publisher._task
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)


@pytest_asyncio.fixture
async def node(tmp_path):
    """`await node(url, **options)`: a feed on the way to that server; all are stopped with the test."""
    made: list[Node] = []

    async def make(url: str, **options) -> Node:
        publisher = Publisher(NatsOptions((url,)), tmp_path / f"state{len(made)}", node="n.1", cluster="c")
        feed = Feed(FeedOptions(**options), node="n.1", cluster="c", boot_id="boot")
        publisher.share(feed)
        await publisher.start()
        made.append(Node(publisher, feed))
        return made[-1]

    yield make
    for each in made:
        await each.publisher.stop(1.0)


@pytest_asyncio.fixture
async def router():
    """`await router(url, **options)`: a connected client; all are closed with the test."""
    made: list[RoutingClient] = []

    async def make(url: str, **options) -> RoutingClient:
        made.append(RoutingClient(url, **options))
        await made[-1].connect(10)
        return made[-1]

    yield make
    for each in made:
        await each.close()


def waiting(client: RoutingClient, instance: str = "e1") -> int | None:
    engine = client.table.find(instance)
    return engine.message.waiting if engine else None


def freshness(client: RoutingClient, instance: str = "e1") -> str:
    engine = client.table.find(instance)
    return engine.freshness(time.monotonic_ns()) if engine else "none"


def check_books(feed: Feed) -> None:
    books = feed.books
    assert books.produced == books.delivered + books.coalesced + sum(books.dropped.values()) + books.held


async def test_the_subscriber_of_the_first_document_gets_json_on_the_first_subject(server, node, until):
    """Nothing of ours on the reader's side: nats-py and json."""
    real = server()
    real.start()
    heard: dict[str, list[dict]] = {"all": [], "one": []}
    async with real.client() as client:

        async def message_handler(message) -> None:
            heard["all"].append(json.loads(message.data.decode("utf-8")))

        async def on_one(message) -> None:
            heard["one"].append(json.loads(message.data))

        await client.subscribe("eagle_eye.routing_metrics", cb=message_handler)
        await client.subscribe("eagle_eye.routing_metrics.n_1.e1", cb=on_one)
        await client.flush()
        await client.flush()
        agent = await node(real.url)
        agent.say(waiting=3, max_running=8)
        await until(lambda: heard["all"] and heard["one"])

    assert heard["all"][0] == heard["one"][0]
    assert {"node": "n.1", "instance": "e1", "waiting": 3, "max_running": 8, "seq": 1}.items() <= heard["all"][
        0
    ].items()


async def test_a_router_that_comes_late_knows_at_once_what_was_said_and_how_old_it_is(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url, max_silence_ns=20 * S)
    agent.say(waiting=3)
    agent.say("e2", kind="idle", running=0, waiting=0)
    await until(lambda: agent.feed.last_values.written == 2)
    said = time.monotonic()
    await asyncio.sleep(0.3)
    late = await router(real.url)
    now_ns = time.monotonic_ns()

    assert len(late.table) == 2
    assert late.last_values_reason == ""
    engine = late.table.find("e1")
    assert 0.25e9 < engine.age_ns(now_ns) < (time.monotonic() - said + 2) * 1e9
    assert (engine.freshness(now_ns), engine.load(now_ns)) == ("fresh", "busy")
    assert late.table.find("e2").load(now_ns) == "idle"


async def test_an_engine_that_is_gone_is_told_and_late_routers_never_hear_of_it(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url)
    client = await router(real.url)
    agent.say("stays")
    agent.say("leaves")
    await until(lambda: freshness(client, "leaves") == "fresh" and agent.feed.last_values.written >= 2)
    agent.say("leaves", kind="gone")
    await until(lambda: freshness(client, "leaves") == "gone")
    async with real.client() as raw:
        bucket = await raw.jetstream().key_value("EAGLE_EYE_ROUTING")
        async with asyncio.timeout(10):
            while await bucket.keys() != ["n_1.stays"]:
                await asyncio.sleep(0.02)
    late = await router(real.url)

    assert [engine.instance for engine in late.table] == ["stays"]


async def test_a_server_that_is_killed_costs_the_states_of_its_absence_and_nothing_after(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url)
    client = await router(real.url)
    heard: list[int] = []
    await client.subscribe(lambda engine: heard.append(engine.message.waiting))
    agent.say(waiting=1)
    await until(lambda: heard == [1])
    real.kill()
    await until(lambda: agent.publisher.statistics().state == "disconnected" and not client.is_connected)
    for number in range(100, 200):
        agent.say(waiting=number)
    assert agent.feed.books.waiting == 1
    await until(lambda: freshness(client) == "unknown")
    real.start()
    await until(lambda: waiting(client) == 199)

    assert [number for number in heard if 100 <= number < 199] == [], "what is old is not told"
    assert freshness(client) in ("fresh", "stale"), "as old as it is by now"
    await until(lambda: agent.feed.books.held == 0)
    check_books(agent.feed)
    agent.say(waiting=5)
    await until(lambda: waiting(client) == 5)


async def test_a_server_that_hangs_never_holds_up_the_agent(server, node, until):
    real = server()
    real.start()
    agent = await node(real.url)
    agent.say()
    await until(lambda: agent.feed.books.delivered == 1)
    real.signal(signal.SIGSTOP)
    slowest_s = 0.0
    for number in range(2000):
        started = time.thread_time()
        for instance in range(20):
            agent.say(f"e{instance}", waiting=number % 7, model="m" * 1000)
        slowest_s = max(slowest_s, time.thread_time() - started)
        if number % 10 == 0:
            await asyncio.sleep(0.01)
    await until(lambda: agent.publisher.statistics().state == "disconnected")
    assert slowest_s < 0.5
    assert agent.feed.books.waiting <= 20
    check_books(agent.feed)
    real.signal(signal.SIGCONT)
    await until(lambda: agent.feed.books.held == 0)
    check_books(agent.feed)


async def test_without_jetstream_the_feed_goes_on_and_both_sides_say_what_is_missing(server, node, router, until):
    real = server(jetstream=False)
    real.start()
    agent = await node(real.url)
    client = await router(real.url)
    agent.say(waiting=2)
    await until(lambda: waiting(client) == 2)

    assert "JetStream is off" in client.last_values_reason
    await until(lambda: "JetStream is off" in agent.feed.last_values.reason)


async def test_a_router_may_come_before_the_server_and_the_agents(server, node, until):
    real = server()
    client = RoutingClient(real.url)
    with pytest.raises(UnavailableError, match="Connection refused"):
        await client.connect(0.5)
    patient = asyncio.create_task(client.connect())
    await asyncio.sleep(0.1)
    assert not patient.done()
    real.start()
    await asyncio.wait_for(patient, 10)
    assert "not found" in client.last_values_reason
    agent = await node(real.url)
    agent.say(waiting=4)
    await until(lambda: waiting(client) == 4)
    await client.close()


async def test_an_agent_that_dies_leaves_its_engines_unknown_and_its_successor_is_believed(server, node, router, until):
    real = server()
    real.start()
    client = await router(real.url)
    first = await node(real.url, max_silence_ns=S)
    for number in range(5):
        first.say(waiting=number)
        await until(lambda number=number: waiting(client) == number)
    await first.kill()
    await until(lambda: freshness(client) == "unknown")
    assert client.table.pick()[0].load == "unknown"
    second = await node(real.url, max_silence_ns=S)
    second.say(waiting=9)
    await until(lambda: waiting(client) == 9)

    assert freshness(client) == "fresh"
    assert client.table.find("e1").message.seq == 1


async def test_an_agent_that_is_stopped_says_that_it_knows_nothing_any_more(server, node, router, until):
    real = server()
    real.start()
    client = await router(real.url)
    agent = await node(real.url, max_silence_ns=60 * S)
    agent.say(waiting=1)
    await until(lambda: waiting(client) == 1)
    await agent.feed.stop(2.0)
    await until(lambda: freshness(client) == "unknown")
    assert client.table.find("e1").message.waiting is None
    assert agent.feed.books.waiting == 0


async def test_two_agents_on_a_node_are_told_apart_and_either_is_enough(server, node, router, until):
    real = server()
    real.start()
    client = await router(real.url)
    one, other = await node(real.url), await node(real.url)
    agents = set()
    await client.subscribe(lambda engine: agents.add(engine.message.agent))
    for number in range(20):
        one.say(waiting=number)
        other.say(waiting=number)
        await asyncio.sleep(0.02)
    await until(lambda: waiting(client) == 19)
    assert len(agents) == 2
    assert len(client.table) == 1
    await one.kill()
    other.say(waiting=77)
    await until(lambda: waiting(client) == 77)
    assert client.table.find("e1").missed == 0


async def test_a_router_may_listen_to_some_engines_only(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url, max_silence_ns=60 * S)
    agent.say("e1")
    agent.say("e2")
    await until(lambda: agent.feed.last_values.written == 2)
    client = await router(real.url, engines="n_1.e2")
    assert [engine.instance for engine in client.table] == ["e2"]
    agent.say("e1", waiting=1)
    agent.say("e2", waiting=2)
    await until(lambda: waiting(client, "e2") == 2)

    assert len(client.table) == 1


@pytest.mark.parametrize(("aggregate", "per_engine"), [(True, False), (False, True)])
async def test_either_subject_can_be_switched_off(server, node, router, until, aggregate, per_engine):
    real = server()
    real.start()
    agent = await node(
        real.url, subject="my.feed", aggregate=aggregate, per_engine=per_engine, last_values=False, encoding="msgpack"
    )
    all_of_them = await router(real.url, subject="my.feed")
    each = await router(real.url, subject="my.feed", engines="*.*")
    agent.say(waiting=3)
    await until(lambda: waiting(all_of_them if aggregate else each) == 3)
    await asyncio.sleep(0.05)

    assert (len(all_of_them.table), len(each.table)) == (int(aggregate), int(per_engine))


async def test_a_slow_coroutine_gets_the_newest_and_holds_up_nothing(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url)
    client = await router(real.url)
    quick: list[int] = []
    slow: list[int] = []

    async def handler(engine) -> None:
        slow.append(engine.message.waiting)
        await asyncio.sleep(0.2)
        raise RuntimeError("a handler's own mistake")

    await client.subscribe(lambda engine: quick.append(engine.message.waiting))
    await client.subscribe(handler)
    for number in range(40):
        agent.say(waiting=number)
        await until(lambda number=number: waiting(client) == number)
    await until(lambda: slow and slow[-1] == 39)

    assert len(quick) >= 40
    assert 2 <= len(slow) < len(quick)


@asynccontextmanager
async def hostile(url):
    import nats

    client = await nats.connect(url)
    yield client
    await client.close()


async def test_hostile_messages_are_counted_and_the_feed_goes_on(server, node, router, until):
    real = server()
    real.start()
    agent = await node(real.url)
    client = await router(real.url)
    async with hostile(real.url) as other:
        for payload in (b"", b"{", b"\xff" * 100, b"[1]", b"{}", b"x" * 500_000, b'{"schema": 9}'):
            await other.publish("eagle_eye.routing_metrics", payload)
        await other.flush()
    agent.say(waiting=1)
    await until(lambda: waiting(client) == 1)

    assert client.table.refused == {"malformed": 5, "too_large": 1, "schema": 1}


async def test_a_server_that_forbids_it_is_quoted(server, until):
    denied = {"subscribe": {"deny": ["eagle_eye.routing_metrics"]}}
    real = server(authorization={"users": [{"user": "r", "password": "p", "permissions": denied}]})
    real.start()
    client = RoutingClient(f"nats://r:p@127.0.0.1:{real.port}")
    assert client.trouble == "not connected yet"
    await client.connect(10)
    await until(lambda: "permissions violation" in client.trouble.lower())
    assert "eagle_eye.routing_metrics" in client.trouble
    await client.close()


async def test_a_bucket_that_was_taken_away_or_belongs_to_another_is_no_harm(server, node, router, until):
    real = server()
    real.start()
    async with real.client() as raw:
        await raw.jetstream().create_key_value(bucket="EAGLE_EYE_ROUTING", history=5)
        agent = await node(real.url)
        agent.say(waiting=1)
        await until(lambda: agent.feed.last_values.written >= 1)
        late = await router(real.url)
        assert waiting(late) == 1
        assert (await raw.jetstream().stream_info("KV_EAGLE_EYE_ROUTING")).config.max_msgs_per_subject == 5


async def test_a_thousand_engines_lose_nothing_that_is_not_counted(server, node, router, until):
    real = server()
    real.start()
    client = await router(real.url, table=RoutingTable())
    agent = await node(real.url, last_values=False, per_engine=False)
    await until(lambda: agent.publisher.statistics().state == "connected")
    for number in range(5):
        for engine in range(1000):
            agent.say(f"e{engine}", waiting=number + 1, step=number + 1)
        await asyncio.sleep(0.05)
    await until(lambda: agent.feed.books.held == 0, 30)
    await until(lambda: client.table.taken >= agent.feed.books.delivered, 30)
    books = agent.feed.books

    check_books(agent.feed)
    assert books.produced == 5000
    assert sum(books.dropped.values()) == 0
    assert len(client.table) == 1000
    assert sum(engine.missed for engine in client.table) == 0
    assert {engine.message.waiting for engine in client.table} == {5}
