"""The feed: when messages leave, what they say, and that every change is accounted for. The clocks are the test's."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.collector.routing.coalesce import EDGE_GAP_NS, Line, Pace, is_edge, silent
from eagle_eye.collector.routing.feed import GONE_KEPT_NS, LOST_NS, MAX_ENGINES, Feed, FeedOptions
from eagle_eye.collector.routing.last_values import MAX_GONE, LastValues
from eagle_eye.probes.model import EngineState, Finding, Incident, RoutingMessage, Snapshot

MS, S = 10**6, 10**9


class Clock:
    """Both clocks of a node; `wall_ns` can be set back."""

    def __init__(self):
        self.now_ns = 1000 * S
        self.wall_ns = 1_700_000_000 * S


def state(clock, instance="e1", **fields):
    defaults = {"engine": "vllm", "at_ns": clock.now_ns, "kind": "step", "source": "shm", "waiting": 0}
    return EngineState(instance=instance, **(defaults | fields))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(clock):
    """`make(**options)`: a feed on the test's clocks, whose probe works unless `last_success_ns` says otherwise."""

    def feed(last_success_ns=None, **options):
        return Feed(
            FeedOptions(**options),
            node="n.1",
            cluster="c",
            boot_id="boot",
            last_success_ns=last_success_ns or (lambda: clock.now_ns),
            now_ns=lambda: clock.now_ns,
            wall_ns=lambda: clock.wall_ns,
        )

    return feed


def due(feed, clock):
    """What leaves now, decoded as a router does it."""
    return [msgspec.json.decode(one.payload, type=RoutingMessage) for one in feed.due(clock.now_ns)]


def check_books(feed):
    books = feed.books
    assert books.produced == books.delivered + books.coalesced + sum(books.dropped.values()) + books.held
    assert books.held >= books.waiting >= 0


def test_the_first_state_leaves_at_once_and_says_everything(make, clock):
    feed = make()
    feed.take([state(clock, model="m", waiting=3, step=7, kv_usage_ratio=0.25)])
    clock.now_ns += 2 * MS
    (outgoing,) = feed.due(clock.now_ns)
    message = json.loads(outgoing.payload)

    assert outgoing.key == "n_1.e1"
    assert message["node"] == "n.1"
    assert (message["seq"], message["coalesced"], message["waiting"], message["steps_total"]) == (1, 0, 3, 7)
    assert message["running"] is None, "what is not known is null, and not left out"
    assert message["age_ns"] == 2 * MS
    assert message["at_wall_ns"] == clock.wall_ns - 2 * MS
    assert message["max_silence_ns"] == S
    assert message["health"] == "unknown"
    assert set(message) == set(RoutingMessage.__struct_fields__)


def test_states_within_the_floor_are_one_message(make, clock):
    feed = make()
    feed.take([state(clock, waiting=1)])
    assert len(due(feed, clock)) == 1
    for number in range(5):
        clock.now_ns += MS
        feed.take([state(clock, waiting=2 + number)])
        assert due(feed, clock) == []
    clock.now_ns += 5 * MS
    (message,) = due(feed, clock)

    assert (message.seq, message.waiting, message.coalesced) == (2, 6, 4)
    assert (feed.books.produced, feed.books.coalesced, feed.books.held) == (6, 4, 2)
    check_books(feed)


def test_steps_that_the_reader_of_the_ring_skipped_count_as_coalesced(make, clock):
    feed = make()
    feed.take([state(clock, step=10)])
    assert due(feed, clock)[0].coalesced == 0
    clock.now_ns += 20 * MS
    feed.take([state(clock, step=14)])

    assert due(feed, clock)[0].coalesced == 3
    assert (feed.books.produced, feed.books.coalesced) == (5, 3)
    check_books(feed)


def test_what_the_probe_has_paced_is_not_held_for_as_long_again(make, clock):
    feed = make()
    feed.take([state(clock, source="plugin", waiting=1)])
    due(feed, clock)
    clock.now_ns += 5 * MS
    feed.take([state(clock, source="plugin", waiting=2)])

    assert len(due(feed, clock)) == 1


EDGES = {
    "end of a long step": ({"kind": "tick"}, {"kind": "step"}),
    "queue": ({"waiting": 0}, {"waiting": 1}),
    "input queue": ({"input_queue": 0}, {"input_queue": 9}),
    "kv": ({"kv_usage_ratio": 0.89}, {"kv_usage_ratio": 0.9}),
    "preemption": ({"preemptions_total": 3}, {"preemptions_total": 4}),
    "in flight": ({"in_flight_age_ns": 99 * MS}, {"in_flight_age_ns": 100 * MS}),
    "kind": ({"kind": "step"}, {"kind": "idle"}),
    "draining": ({"kind": "idle"}, {"kind": "draining"}),
    "gone": ({"kind": "step"}, {"kind": "gone"}),
}


@pytest.mark.parametrize("name", EDGES)
def test_an_edge_does_not_wait_for_the_floor_and_the_way_back_does(make, clock, name):
    before, after = EDGES[name]
    feed = make()
    feed.take([state(clock, **before)])
    assert len(due(feed, clock)) == 1
    clock.now_ns += EDGE_GAP_NS
    feed.take([state(clock, **after)])

    assert len(due(feed, clock)) == 1
    if "kind" not in before:
        assert not is_edge(state(clock, **after), state(clock, **before))


@pytest.mark.parametrize("change", [{"waiting": 7}, {"kind": "tick"}, {"kv_usage_ratio": 0.5}, {"running": 1}])
def test_what_is_no_edge_waits_for_the_floor(make, clock, change):
    feed = make()
    feed.take([state(clock, waiting=5, preemptions_total=3)])
    assert len(due(feed, clock)) == 1
    clock.now_ns += 9 * MS
    feed.take([state(clock, **({"waiting": 5, "preemptions_total": 3} | change))])

    assert due(feed, clock) == []
    clock.now_ns += MS
    assert len(due(feed, clock)) == 1


def test_an_engine_that_flutters_does_not_set_the_rate(make, clock):
    feed = make()
    sent = 0
    for number in range(1000):
        feed.take([state(clock, waiting=number % 2)])
        sent += len(due(feed, clock))
        clock.now_ns += MS // 100
    check_books(feed)

    assert sent <= 11, "10 ms, and edges are at least 1 ms apart"


def test_the_promise_of_silence_is_kept_whatever_the_engine_does(make, clock):
    feed = make()
    feed.take([state(clock, kind="idle")])
    left = [clock.now_ns for _ in due(feed, clock)]
    for _ in range(400):
        clock.now_ns = max(clock.now_ns, int(feed.next_due_ns()))
        left += [clock.now_ns for _ in due(feed, clock)]

    gaps = [after - before for before, after in pairwise(left)]
    assert len(left) > 300
    assert max(gaps) <= S // 2
    assert feed.books.repeats == len(left) - 1
    check_books(feed)


def test_a_busy_engine_does_not_call_the_feed_for_nothing(make, clock):
    feed = make()
    calls = left = 0
    for number in range(300):
        feed.take([state(clock, source="plugin", step=number)])
        next_ns = clock.now_ns + 10 * MS
        while feed.next_due_ns() <= next_ns:
            clock.now_ns = max(clock.now_ns, int(feed.next_due_ns()))
            calls += 1
            left += len(due(feed, clock))
        clock.now_ns = next_ns

    assert left == 300
    assert calls <= left + 3 * S // (S // 2) + 2, "one call per message, and one in half a second for the promise"


def test_an_idle_engine_is_as_old_as_the_last_look_at_it_and_a_busy_one_as_its_state(make, clock):
    feed = make()
    feed.take([state(clock, "idle", kind="idle"), state(clock, "busy", kind="tick")])
    due(feed, clock)
    clock.now_ns += 500 * MS
    ages = {message.instance: message.age_ns for message in due(feed, clock)}

    assert ages == {"idle": 0, "busy": 500 * MS}


def test_a_probe_that_hangs_makes_its_engines_unknown_and_not_idle(make, clock):
    worked_ns = clock.now_ns
    feed = make(last_success_ns=lambda: worked_ns)
    feed.take([state(clock, kind="idle", running=0, kv_usage_ratio=0.0, model="m")])
    due(feed, clock)
    kinds = []
    while clock.now_ns < worked_ns + 2 * LOST_NS:
        clock.now_ns = int(feed.next_due_ns())
        kinds += [(clock.now_ns - worked_ns, message) for message in due(feed, clock)]

    assert {message.kind for age_ns, message in kinds if age_ns <= LOST_NS} == {"idle"}
    assert {message.kind for age_ns, message in kinds if age_ns > LOST_NS} == {"unknown"}
    last = kinds[-1][1]
    assert (last.running, last.waiting, last.kv_usage_ratio, last.model) == (None, None, None, "m")
    check_books(feed)


@pytest.mark.parametrize("kind", ["unknown", "gone"])
def test_who_is_silent_or_gone_has_no_load(make, clock, kind):
    feed = make()
    feed.take([state(clock, kind=kind, model="m", step=7, running=10, waiting=3, kv_usage_ratio=0.5, max_running=9)])
    (message,) = due(feed, clock)

    assert (message.running, message.waiting, message.kv_usage_ratio) == (None, None, None), "which are not zero"
    assert (message.kind, message.model, message.step, message.max_running) == (kind, "m", 7, 9)


def test_a_clock_set_back_changes_no_order_and_no_age(make, clock):
    feed = make()
    messages = []
    for number in range(20):
        feed.take([state(clock, step=number)])
        messages += due(feed, clock)
        clock.now_ns += 20 * MS
        clock.wall_ns += 20 * MS - (3600 * S if number == 10 else 0)

    assert [message.seq for message in messages] == list(range(1, 21))
    assert {message.age_ns for message in messages} == {0}
    assert messages[15].at_wall_ns < messages[5].at_wall_ns, "the wall clock is told as it is"


def test_an_engine_that_is_gone_is_told_again_for_a_while_and_then_forgotten(make, clock):
    feed = make()
    feed.take([state(clock)])
    due(feed, clock)
    feed.take([state(clock, kind="gone")])
    clock.now_ns += EDGE_GAP_NS
    started_ns, kinds = clock.now_ns, []
    while feed.engines:
        kinds += [message.kind for message in due(feed, clock)]
        clock.now_ns = max(clock.now_ns + MS, int(min(feed.next_due_ns(), clock.now_ns + S)))

    assert set(kinds) == {"gone"}
    assert GONE_KEPT_NS <= clock.now_ns - started_ns <= GONE_KEPT_NS + 2 * S
    check_books(feed)


def test_thousands_of_restarts_while_nats_is_away_keep_the_newest(make, clock):
    feed = make()
    for number in range(5000):
        feed.take([state(clock, f"e{number}"), state(clock, f"e{number}", kind="gone")])
    feed.take([state(clock, "alive")])

    assert feed.engines == MAX_ENGINES
    assert feed.books.dropped["gone"] == 5001 - MAX_ENGINES
    check_books(feed)
    assert {message.instance for message in due(feed, clock)} >= {"alive", "e4999"}
    check_books(feed)


def test_last_values_of_engines_that_came_and_went_take_no_room():
    kept = LastValues()
    for number in range(3 * MAX_GONE):
        kept.put(f"n.e{number}", b"{}")
        kept.remove(f"n.e{number}")

    assert (len(kept._values), len(kept._known), len(kept._gone)) == (0, 0, MAX_GONE)


def test_more_engines_than_there_is_room_for_are_counted(make, clock):
    feed = make()
    feed.take([state(clock, f"e{number}") for number in range(MAX_ENGINES + 7)])

    assert feed.books.dropped == {"too_many_engines": 7}
    check_books(feed)


def test_a_message_that_is_too_large_is_counted_and_not_sent(make, clock):
    feed = make()
    feed.take([state(clock, finished_total={f"reason {number}": number for number in range(1000)})])

    assert due(feed, clock) == []
    assert feed.books.dropped == {"too_large": 1}
    check_books(feed)


def test_a_change_of_health_is_an_edge(make, clock):
    feed = make()
    feed.take_snapshot(snapshot(clock))
    feed.take([state(clock)])
    assert [(message.health, message.health_reason) for message in due(feed, clock)] == [("ok", "")]
    clock.now_ns += 2 * MS
    feed.take_incidents([incident(clock)])

    (message,) = due(feed, clock)
    assert message.health == "avoid"
    assert "oom" in message.health_reason
    feed.take_incidents([])
    feed.take_finding(finding("open"))
    clock.now_ns += 2 * MS
    assert due(feed, clock)[0].health == "degraded"
    feed.take_finding(finding("cleared"))
    clock.now_ns += 2 * MS
    assert due(feed, clock)[0].health == "ok"
    assert feed.books.repeats == 3


def snapshot(clock, **fields):
    return Snapshot("n.1", "c", "boot", "a", 1, clock.now_ns, 0, 500 * MS, host=(), health=(), **fields)


def incident(clock, **fields):
    defaults = {
        "id": "i", "node": "n.1", "entity": "host", "family": "mm.oom", "code": "oom", "mnemonic": "",
        "severity": "error", "action": "drain", "state": "open", "opened_wall_ns": 1, "updated_wall_ns": 1,
        "parts": (), "occurrences": 1,
    }  # fmt: skip
    return Incident(**(defaults | fields))


def finding(condition):
    return Finding(
        "f", 1, "host", "slow disk", ("e1",), "warning", 0.9, (), "look at it", action="watch", state=condition
    )


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_both_encodings_are_what_the_schema_says(make, clock, encoding):
    feed = make(encoding=encoding)
    feed.take([state(clock)])
    (outgoing,) = feed.due(clock.now_ns)
    decode = (msgspec.json if encoding == "json" else msgspec.msgpack).decode

    assert decode(outgoing.payload, type=RoutingMessage).instance == "e1"


def test_silence_keeps_who_it_is_and_takes_all_that_it_carries(clock):
    full = state(
        clock,
        running=1, waiting=1, deferred=1, input_queue=1, waiting_prefill_tokens=1, running_context_tokens=1,
        kv_blocks_free=1, kv_usage_ratio=0.1, step_duration_ns=1, schedule_duration_ns=1, prefill_requests=1,
        prefill_tokens=1, decode_requests=1, decode_tokens=1, in_flight_age_ns=1, preemptions_total=5, max_running=9,
    )  # fmt: skip
    quiet = silent(full)

    kept = {name for name in EngineState.__struct_fields__ if getattr(quiet, name) == getattr(full, name)}
    assert {"instance", "engine", "at_ns", "source", "preemptions_total", "max_running"} <= kept
    assert quiet.running is quiet.waiting is quiet.in_flight_age_ns is None
    assert quiet.kind == "unknown"


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["take", "due", "confirm", "lose", "wait"]),
        st.integers(0, 3),
        st.integers(-(2**70), 2**70) | st.integers(0, 30),
        st.sampled_from(["step", "tick", "idle", "draining", "gone", "unknown"]),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_every_change_is_delivered_coalesced_dropped_or_held(operations):
    clock = Clock()
    feed = Feed(
        FeedOptions(), node="n", cluster="c", boot_id="b", now_ns=lambda: clock.now_ns, wall_ns=lambda: clock.wall_ns
    )
    sequences: dict[str, int] = {}
    for what, which, number, kind in operations:
        clock.now_ns += abs(number) % (700 * MS)
        if what == "take":
            feed.take([state(clock, f"e{which}", kind=kind, step=number, waiting=number % 3)])
        elif what == "due":
            for message in due(feed, clock):
                # An engine that was forgotten begins anew.
                assert message.seq in (sequences.get(message.instance, 0) + 1, 1)
                sequences[message.instance] = message.seq
        elif what == "confirm":
            feed.confirm(feed.books.held - feed.books.waiting)
        elif what == "lose":
            feed.detach()
        check_books(feed)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30 * MS)), min_size=1, max_size=50))
def test_the_last_state_of_a_burst_always_leaves_within_the_floor(burst):
    line, now_ns = Line(), 0
    clock = Clock()
    sent = 0
    pace = Pace()
    for waiting, pause_ns in burst:
        clock.now_ns = now_ns
        line.offer(state(clock, waiting=waiting))
        if line.due_ns(pace) <= now_ns:
            line.leave(now_ns)
            sent += 1
        now_ns += pause_ns

    if line.pending:
        assert line.due_ns(pace) <= line.sent_ns + pace.floor_ns
    assert sent >= 1
