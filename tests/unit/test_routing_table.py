"""The router's table: what is newest, how old it is, and who is picked. The clock is the test's."""

import random

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eagle_eye.collector.routing import RoutingTable
from eagle_eye.collector.routing import table as module
from eagle_eye.collector.routing.engine import MAX_SENT, SETTLE_NS
from eagle_eye.probes.model import RoutingMessage

MS, S = 10**6, 10**9


class Time:
    def __init__(self):
        self.ns = 50 * S

    def __call__(self):
        return self.ns


@pytest.fixture
def now():
    return Time()


@pytest.fixture
def table(now):
    return RoutingTable(now_ns=now, random_source=random.Random(1))


# What the senders' clocks show when this one shows 0: hours apart, as the boots of two nodes are.
BOOTED = {"n": 1000 * S, "far": 90_000 * S}


def message(now, instance="e", *, node="n", seq=1, age_ns=0, **fields):
    at_ns = BOOTED.get(node, 0) + now.ns - age_ns
    defaults = {
        "engine": "vllm", "at_ns": at_ns, "kind": "step", "source": "plugin", "cluster": "c", "agent": "a1",
        "boot_id": f"boot of {node}", "at_wall_ns": 0, "max_silence_ns": S, "running": 1, "waiting": 0,
        "input_queue": 0, "waiting_prefill_tokens": 0, "prefill_tokens_per_second": 10_000.0, "health": "ok",
    }  # fmt: skip
    return msgspec.json.encode(
        RoutingMessage(instance=instance, node=node, seq=seq, age_ns=age_ns, **(defaults | fields))
    )


def test_the_newest_wins_whatever_comes_late_or_twice(table, now):
    messages = []
    for seq in range(1, 6):
        messages.append(message(now, seq=seq, waiting=seq))
        now.ns += 20 * MS
    for payload in (messages[0], messages[2], messages[2], messages[1], messages[4], messages[3], messages[0]):
        table.take(payload)
    engine = table.find("e")

    assert (engine.message.seq, engine.message.waiting) == (5, 5)
    assert (table.taken, table.ignored) == (3, 4)
    assert engine.missed == 2, "counted when a later one came"


@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 7), max_size=10))
def test_in_any_order_the_last_one_stays(order, repeats):
    now = Time()
    table = RoutingTable(now_ns=now)
    messages = []
    for seq in range(1, 9):
        messages.append(message(now, seq=seq))
        now.ns += MS
    for index in [number - 1 for number in order] + repeats:
        table.take(messages[index])

    assert table.find("e").message.seq == 8
    assert table.taken + table.ignored == 8 + len(repeats)


def test_ages_do_not_come_from_comparing_clocks(table, now):
    table.take(message(now, "near", age_ns=3 * MS))
    table.take(message(now, "far", node="far", age_ns=4 * MS))
    now.ns += 7 * MS

    assert {engine.instance: engine.age_ns(now.ns) for engine in table} == {"near": 10 * MS, "far": 11 * MS}


def test_a_message_that_was_under_way_for_longer_than_others_is_older_by_that(table, now):
    table.take(message(now, seq=1))
    now.ns += 20 * MS
    slow = message(now, seq=2)
    now.ns += 300 * MS
    engine = table.take(slow)
    assert engine.age_ns(now.ns) == 300 * MS
    now.ns += 20 * MS
    engine = table.take(message(now, seq=3))
    assert engine.age_ns(now.ns) == 0


def test_a_clock_that_lied_is_forgotten(table, now):
    table.take(message(now, "liar", seq=1, at_ns=2**61))
    for seq in range(1, 140):
        now.ns += S
        engine = table.take(message(now, seq=seq))

    assert engine.freshness(now.ns) == "fresh"
    assert engine.age_ns(now.ns) == 0


def test_an_engine_that_was_poisoned_recovers_when_its_silence_is_over(table, now):
    table.take(message(now, seq=2**50, at_ns=2**61))
    now.ns += 500 * MS
    assert table.take(message(now, seq=1)) is None
    now.ns += 501 * MS

    assert table.take(message(now, seq=2)).message.seq == 2


def test_a_last_value_is_as_old_as_it_lay_there(table, now):
    engine = table.take(message(now, age_ns=5 * MS), kept_ns=400 * MS)

    assert engine.age_ns(now.ns) == 405 * MS
    assert engine.freshness(now.ns) == "fresh"
    now.ns += 601 * MS
    assert engine.freshness(now.ns) == "unknown"


def test_a_last_value_never_replaces_what_was_heard(table, now):
    old = message(now, seq=1)
    older_agent = message(now, seq=900, agent="a0", waiting=9)
    now.ns += 2 * S
    table.take(message(now, seq=2))

    assert table.take(old, kept_ns=2 * S) is None
    assert table.take(older_agent, kept_ns=2 * S) is None
    assert table.find("e").message.seq == 2


def test_an_agent_that_was_restarted_is_heard_although_it_counts_from_one(table, now):
    table.take(message(now, seq=5000))
    now.ns += 30 * MS
    engine = table.take(message(now, seq=1, agent="a2", waiting=4))

    assert engine.message.waiting == 4
    assert engine.missed == 0


def test_of_two_agents_on_one_node_the_one_that_spoke_last_is_believed(table, now):
    for seq in range(1, 10):
        first = message(now, seq=seq + 100, agent="a1", waiting=1)
        now.ns += 5 * MS
        second = message(now, seq=seq, agent="a2", waiting=2)
        now.ns += 5 * MS
        table.take(second)
        table.take(first)
        assert table.find("e").message.agent == "a2"
    now.ns += 20 * MS

    assert table.take(message(now, seq=500, agent="a1", waiting=7)).message.waiting == 7, "when the other one died"


@pytest.mark.parametrize(
    ("fields", "wait_ns", "freshness", "load"),
    [
        ({"running": 0}, 0, "fresh", "idle"),
        ({"kind": "idle", "running": None, "waiting": None, "input_queue": None}, 0, "fresh", "idle"),
        ({"running": None, "waiting": None, "input_queue": None}, 0, "fresh", "unknown"),
        ({"running": 3}, S, "fresh", "busy"),
        ({"running": 3}, S + 1, "unknown", "unknown"),
        ({"running": 0}, S + 1, "unknown", "unknown"),
        ({"age_ns": 2 * S}, 0, "stale", "busy"),
        ({"kind": "unknown"}, 0, "unknown", "unknown"),
        ({"kind": "gone"}, 0, "gone", "unknown"),
        ({"kind": "gone"}, 2 * S, "gone", "unknown"),
        ({"running": 8, "max_running": 8, "waiting": 1}, 0, "fresh", "saturated"),
        ({"running": 8, "max_running": 8, "waiting": 0}, 0, "fresh", "busy"),
        ({"kv_usage_ratio": 0.99}, 0, "fresh", "saturated"),
        ({"max_silence_ns": 1}, 90 * MS, "fresh", "busy"),
        ({"max_silence_ns": 2**61}, 61 * S, "unknown", "unknown"),
    ],
)
def test_unknown_idle_and_saturated_are_three_different_things(table, now, fields, wait_ns, freshness, load):
    engine = table.take(message(now, **fields))
    now.ns += wait_ns

    assert (engine.freshness(now.ns), engine.load(now.ns)) == (freshness, load)


def picked(table, n=10, **wishes):
    return [choice.engine.instance for choice in table.pick(n, **wishes)]


def test_the_shortest_way_to_a_first_token_is_picked(table, now):
    table.take(message(now, "queue", waiting=2, waiting_prefill_tokens=5000))
    table.take(message(now, "fast", waiting=2, waiting_prefill_tokens=5000, prefill_tokens_per_second=50_000.0))
    table.take(message(now, "step", kind="tick", in_flight_age_ns=100 * MS, step_duration_ns=300 * MS))
    table.take(message(now, "long step", kind="tick", in_flight_age_ns=900 * MS, step_duration_ns=20 * MS))
    table.take(message(now, "empty"))

    assert picked(table, tokens=100) == ["empty", "fast", "step", "queue", "long step"]
    seconds = {choice.engine.instance: round(choice.seconds, 3) for choice in table.pick(5, tokens=100)}
    assert seconds == {"empty": 0.01, "fast": 0.102, "step": 0.21, "queue": 0.51, "long step": 0.91}


def test_unknown_comes_after_room_and_before_saturated(table, now):
    table.take(message(now, "silent"))
    now.ns += 2 * S
    table.take(message(now, "full", running=4, max_running=4, waiting=1))
    table.take(message(now, "busy", waiting=3, waiting_prefill_tokens=40_000))

    assert picked(table) == ["busy", "silent", "full"]
    assert [choice.seconds is None for choice in table.pick(3)] == [False, True, False]


def test_health_counts(table, now):
    table.take(message(now, "avoid", health="avoid"))
    table.take(message(now, "degraded", health="degraded"))
    table.take(message(now, "ok", waiting=1, waiting_prefill_tokens=300))
    table.take(message(now, "unheard", health="a new word"))

    assert picked(table, tokens=100) == ["unheard", "ok", "degraded"]
    for instance in ("degraded", "ok", "unheard"):
        table.take(message(now, instance, seq=2, health="avoid"))
    assert len(picked(table)) == 4, "when all are to be avoided, some engine is better than none"


def test_who_drains_or_is_gone_is_never_picked(table, now):
    table.take(message(now, "draining", kind="draining"))
    table.take(message(now, "gone", kind="gone"))

    assert table.pick() == []


def test_models_and_roles_are_kept_apart(table, now):
    table.take(message(now, "a", model="a", role="prefill"))
    table.take(message(now, "b", model="b", role="decode"))
    table.take(message(now, "both", model="a"))

    assert sorted(picked(table, model="a")) == ["a", "both"]
    assert sorted(picked(table, role="decode")) == ["b", "both"]
    assert picked(table, model="a", role="prefill", n=1) in (["a"], ["both"])
    assert picked(table, model="none") == []


def test_own_requests_count_until_the_engine_can_tell_of_them(table, now):
    engine = table.take(message(now, seq=1))
    now.ns += 100 * MS
    table.sent(engine, 4000)
    assert engine.own_tokens == 4000
    assert table.pick(tokens=1000)[0].seconds == pytest.approx(0.5)
    now.ns += SETTLE_NS // 2
    table.take(message(now, seq=2))
    assert engine.own_tokens == 4000, "it may not have arrived when this was read"
    now.ns += SETTLE_NS
    table.take(message(now, seq=3, age_ns=SETTLE_NS))
    assert engine.own_tokens == 4000, "the message is new, its state is not"
    table.take(message(now, seq=4))
    assert engine.own_tokens == 0
    assert engine.outstanding == 1
    table.done(engine)
    table.done(engine)
    assert engine.outstanding == 0


def test_engines_that_are_alike_share_the_load_also_between_two_messages(table, now):
    for number in range(8):
        table.take(message(now, f"e{number}"))
    sent = []
    for _ in range(80):
        engine = table.pick(tokens=500)[0].engine
        table.sent(engine, 500)
        sent.append(engine.instance)

    assert {sent.count(f"e{number}") for number in range(8)} == {10}


def test_two_routers_do_not_pick_the_same_of_equals(now):
    firsts = set()
    for seed in range(30):
        table = RoutingTable(now_ns=now, random_source=random.Random(seed))
        for number in range(5):
            table.take(message(now, f"e{number}"))
        firsts.add(picked(table, n=1)[0])

    assert len(firsts) == 5


def test_of_a_large_fleet_a_good_one_is_picked_quickly(table, now):
    for number in range(1000):
        table.take(message(now, f"e{number}", waiting=1, waiting_prefill_tokens=number * 100))
    best = sorted(int(picked(table, n=1)[0][1:]) for _ in range(100))

    assert best[50] < 50
    assert len(table.pick(200)) == 200


def test_requests_without_end_take_no_memory_without_end(table, now):
    engine = table.take(message(now))
    for _ in range(MAX_SENT + 1000):
        table.sent(engine, 2)

    assert engine.own_tokens == 2 * (MAX_SENT + 1000)
    assert len(engine._own) == MAX_SENT


# What others put on the wire

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(RoutingMessage.__struct_fields__), ANYTHING, max_size=6)


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda raw: b"{" + raw))
def test_bytes_of_any_kind_are_refused_and_counted(raw):
    table = RoutingTable()

    assert table.take(raw) is None
    assert sum(table.refused.values()) == 1


@given(FIELDS, st.booleans())
def test_messages_with_any_field_of_any_kind_never_raise_and_never_spoil_a_choice(fields, packed):
    now = Time()
    table = RoutingTable(now_ns=now)
    table.take(message(now, "good"))
    strange = msgspec.json.decode(message(now, "strange")) | fields
    try:
        payload = (msgspec.msgpack if packed else msgspec.json).encode(strange)
    except OverflowError:
        assume(False)  # MessagePack has no integers of more than 64 bits
    table.take(payload)
    now.ns += 3 * MS
    choices = table.pick(5, tokens=100)

    assert "good" in {choice.engine.instance for choice in choices}
    for choice in choices:
        assert choice.seconds is None or choice.seconds >= 0
        assert choice.engine.age_ns(now.ns) >= 0
    assert table.taken + table.ignored + sum(table.refused.values()) == 2


def test_a_flood_of_names_is_bounded_and_drives_nobody_out(now):
    table = RoutingTable(now_ns=now, max_engines=100)
    for number in range(10):
        table.take(message(now, f"real{number}"))
    for number in range(10_000):
        now.ns += MS // 10
        table.take(message(now, f"flood{number}"))
    for number in range(10):
        table.take(message(now, f"real{number}", seq=2))

    assert len(table) == 100
    assert all(table.find(f"real{number}").message.seq == 2 for number in range(10))
    assert table.refused["table_full"] >= 9000


def test_large_messages_are_bounded_together(now):
    large_bytes = len(message(now, "flood999", model="m" * 10_000))
    table = RoutingTable(now_ns=now, max_bytes=len(message(now, "real")) + 20 * large_bytes)
    table.take(message(now, "real"))
    for number in range(1000):
        table.take(message(now, f"flood{number}", model="m" * 10_000))
    real = table.take(message(now, "real", seq=2))

    assert real is not None
    assert len(table) == 21
    assert table.take(message(now, "flood1", seq=2, model="m" * 15_000)) is None
    assert table.take(message(now, "flood1", seq=3, model="m")) is not None, "a smaller one makes room"


def test_room_is_made_of_those_who_are_silent_or_gone(now):
    table = RoutingTable(now_ns=now, max_engines=4)
    for number in range(4):
        table.take(message(now, f"old{number}", kind="gone" if number % 2 else "step"))
    now.ns += 3 * S
    table.take(message(now, "new"))

    assert [engine.instance for engine in table] == ["new"]


def test_a_gone_engine_does_not_come_back_with_a_late_message(table, now):
    late = message(now, seq=1)
    now.ns += MS
    table.take(message(now, seq=2, kind="gone"))

    assert table.take(late) is None
    assert table.pick() == []


def test_too_large_a_message_is_not_even_read(table, now):
    assert table.take(message(now, model="m" * 20_000)) is None
    assert table.refused == {"too_large": 1}


# Evolution


def test_fields_and_words_of_a_newer_sender_are_no_reason_to_refuse(table, now):
    newer = msgspec.json.decode(message(now)) | {"lora_slots": 7, "kind": "sleeping", "health": "so-so", "source": "x"}
    engine = table.take(msgspec.json.encode(newer))

    assert engine.freshness(now.ns) == "unknown", "a kind that is not understood says nothing of the load"
    assert engine.message.health == "so-so"


def test_a_newer_schema_is_told_and_not_guessed_at(table, now, caplog):
    newer = msgspec.json.decode(message(now)) | {"schema": 2}
    other = {"schema": 3, "engines": [1]}
    for payload in (newer, other, newer):
        assert table.take(msgspec.json.encode(payload)) is None

    assert table.refused == {"schema": 3}
    assert len(caplog.records) == 1
    assert "schema 2" in caplog.text


def test_the_least_that_a_sender_must_say(table, now):
    least = {
        "instance": "e", "engine": "x", "at_ns": now.ns, "kind": "idle", "source": "shm", "node": "n", "cluster": "c",
        "boot_id": "b", "seq": 1, "at_wall_ns": 0, "max_silence_ns": S,
    }  # fmt: skip

    assert table.take(msgspec.json.encode(least)).load(now.ns) == "idle"


def test_bounds_are_the_feeds():
    from eagle_eye.collector.routing.feed import MAX_MESSAGE_BYTES

    assert module.MAX_MESSAGE_BYTES == MAX_MESSAGE_BYTES
