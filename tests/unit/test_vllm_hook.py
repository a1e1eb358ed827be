"""The hook around a scheduler that behaves like vLLM's; the real one is in tests/engine."""

import gc
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from eagle_eye.probes.engine.vllm import plugin, ring, scheduler, step, switch, wire
from eagle_eye.probes.engine.vllm.ring import Ring

STEP = wire.format_of(wire.STEP)
NAMES = [name for name, _ in wire.STEP]


class Pool:
    num_gpu_blocks = 101

    def __init__(self):
        self.free = 100

    def get_num_free_blocks(self):
        return self.free


class Scheduler:
    """One request per call of `add`; each step takes all that run one token further."""

    def __init__(self, *, log_stats=False):
        self.log_stats = log_stats
        self.vllm_config = SimpleNamespace(
            instance_id="group",
            model_config=SimpleNamespace(served_model_name=["name"]),
            parallel_config=SimpleNamespace(data_parallel_rank=3),
            scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=100),
        )
        self.kv_cache_manager = SimpleNamespace(block_pool=Pool())
        self.running, self.waiting, self.skipped_waiting = [], [], []

    def get_request_counts(self):
        return len(self.running), len(self.waiting) + len(self.skipped_waiting)

    def schedule(self, throttle=False):
        return output({f"r{n}": 1 for n in range(len(self.running))}, generated=[1] * len(self.running))

    def update_from_output(self, scheduler_output, model_output):
        self.make_stats()
        return model_output

    def make_stats(self):
        return None

    def _preempt_request(self, request, timestamp):
        return request

    def _free_request(self, request, **_):
        return request

    def shutdown(self):
        return "down"


def output(shares, generated=(), new=(), resumed=(), drafts=None):
    """A SchedulerOutput. `new` are (id, prompt tokens, cached tokens) and come last in `shares`."""
    news = [
        SimpleNamespace(req_id=name, prompt_token_ids=[0] * size, num_computed_tokens=hit) for name, size, hit in new
    ]
    cached = [name for name in shares if name not in {name for name, *_ in new}]
    return SimpleNamespace(
        num_scheduled_tokens=shares,
        total_num_scheduled_tokens=sum(shares.values()),
        scheduled_new_reqs=news,
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=cached, num_output_tokens=list(generated), resumed_req_ids=set(resumed)
        ),
        scheduled_spec_decode_tokens=drafts or {},
    )


class EngineCore:
    def __init__(self, choose):
        self.input_queue = SimpleNamespace(queue=[])
        self.scheduler = choose()


@pytest.fixture(autouse=True)
def shared_memory(tmp_path, monkeypatch):
    """Rings go into the folder of the test."""
    monkeypatch.setattr(scheduler, "Ring", lambda handshake: Ring(handshake, str(tmp_path)))
    monkeypatch.setattr(scheduler, "sweep", lambda: ring.sweep(str(tmp_path)))
    monkeypatch.setattr(switch, "OFF_FILE", str(tmp_path / "off"))
    return tmp_path


@pytest.fixture
def engine():
    made = EngineCore(scheduler.watched(Scheduler))
    made.scheduler._eagle_eye.ring._words[wire.LEASE_OFFSET // 8] = time.monotonic_ns() + 10**12
    yield made
    if made.scheduler._eagle_eye is not None:
        made.scheduler._eagle_eye.ring.close()


def told(engine, number=-1):
    """A record, by its number from 0."""
    ring = engine.scheduler._eagle_eye.ring
    number = number if number >= 0 else ring.head + number
    at = wire.RING_OFFSET + number % wire.SLOTS * wire.SLOT_BYTES
    return SimpleNamespace(**dict(zip(NAMES, STEP.unpack_from(ring.memory, at), strict=True)))


def one_step(engine, scheduled=None):
    watched = engine.scheduler
    made = watched.schedule() if scheduled is None else scheduled
    if scheduled is not None:
        start = watched._eagle_eye.begins()
        watched._eagle_eye.scheduled(made, start)
    assert watched.update_from_output(made, "model") == "model"
    return told(engine)


def test_steps_in_flight_are_paired_by_their_output_not_by_order(engine):
    watched = engine.scheduler
    first = watched.schedule()
    second = watched.schedule()
    third = watched.schedule()
    watched.update_from_output(second, None)
    watched.update_from_output(first, None)
    watched.update_from_output(third, None)

    records = [told(engine, number) for number in range(3)]
    assert [record.step for record in records] == [2, 1, 3]
    assert records[1].start_ns < records[0].start_ns < records[0].end_ns < records[1].end_ns
    assert watched._eagle_eye.flights == {}


def test_an_output_that_was_never_scheduled_is_no_step(engine):
    engine.scheduler.schedule()
    engine.scheduler.update_from_output(output({}), None)

    assert engine.scheduler._eagle_eye.ring.head == 0


def test_steps_that_never_end_are_bounded_and_counted(engine):
    for _ in range(200):
        engine.scheduler.schedule()

    eye = engine.scheduler._eagle_eye
    assert len(eye.flights) <= 64
    assert eye.ring._words[wire.offset_of(wire.HEADER, "dropped") // 8] == 192


@pytest.mark.parametrize(
    ("scheduled", "prefill", "decode"),
    [
        (output({"a": 1, "b": 1}, generated=[5, 9]), (0, 0), (2, 2)),
        (output({"a": 1, "b": 30}, generated=[5], new=[("b", 30, 0)]), (1, 30), (1, 1)),
        (output({"a": 64, "b": 1}, generated=[0, 9]), (1, 64), (1, 1)),
        (output({"a": 1, "b": 1}, generated=[0, 9]), (1, 1), (1, 1)),
        (output({"a": 40, "b": 1}, generated=[7, 9], resumed=["a"]), (1, 40), (1, 1)),
        (output({"a": 40, "b": 1}, generated=[7, 9]), (1, 40), (1, 1)),
        (output({"a": 4, "b": 1}, generated=[7, 9], drafts={"a": [1, 2, 3]}), (0, 0), (2, 5)),
        (output({}), (0, 0), (0, 0)),
    ],
    ids=["decode", "new", "chunk", "last-chunk", "resumed", "resumed-chunk", "drafts", "empty"],
)
def test_prefill_and_decode_are_told_apart(engine, scheduled, prefill, decode):
    record = one_step(engine, scheduled)

    assert (record.prefill_requests, record.prefill_tokens) == prefill
    assert (record.decode_requests, record.decode_tokens) == decode


def test_prefix_hits_are_of_new_requests(engine):
    record = one_step(engine, output({"a": 10}, new=[("a", 26, 16)]))

    assert (record.prefix_queries_total, record.prefix_hits_total) == (26, 16)


def test_queues_and_blocks(engine):
    request = SimpleNamespace(num_tokens=100, num_computed_tokens=10)
    watched = engine.scheduler
    watched.running, watched.waiting, watched.skipped_waiting = [request], [request] * 2, [request]
    engine.input_queue.queue += [1, 2, 3]
    watched.kv_cache_manager.block_pool.free = 40
    record = one_step(engine)

    assert (record.running, record.waiting, record.deferred, record.input_queue) == (1, 2, 1, 3)
    assert (record.kv_blocks_free, record.kv_blocks_total) == (40, 100)
    assert (record.waiting_prefill_tokens, record.running_context_tokens) == (180, 10)


def test_edges_come_once(engine):
    watched, pool = engine.scheduler, engine.scheduler.kv_cache_manager.block_pool
    urgent = wire.offset_of(wire.HEADER, "urgent") // 8
    words = watched._eagle_eye.ring._words
    seen = [one_step(engine).edges]
    engine.input_queue.queue.append(1)
    seen += [one_step(engine).edges for _ in range(2)]
    pool.free = 5
    seen += [one_step(engine).edges for _ in range(2)]
    pool.free = 12
    seen += [one_step(engine).edges]
    pool.free = 50
    one_step(engine)
    pool.free = 5
    seen += [one_step(engine).edges]
    watched._preempt_request(None, 0.0)
    seen += [one_step(engine).edges for _ in range(2)]

    queue, kv, preemption = wire.EDGE_QUEUE, wire.EDGE_KV, wire.EDGE_PREEMPTION
    assert seen == [0, queue, 0, kv, 0, 0, kv, preemption, 0]
    assert words[urgent] == 4


def test_requests_finish_for_reasons_that_later_versions_may_add(engine):
    for name in ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_ABORTED", "FINISHED_ERROR", "FINISHED_NEW"):
        engine.scheduler._free_request(SimpleNamespace(status=SimpleNamespace(name=name)))
    record = one_step(engine)

    finished = [getattr(record, f"finished_{name}_total") for name in wire.REASONS[1:]]
    assert finished == [1, 1, 1, 2]


class Oldest:
    """Nothing but what every version has."""

    def __init__(self):
        self.vllm_config = Scheduler().vllm_config
        self.running, self.waiting = [], []

    def get_request_counts(self):
        return 0, 0

    schedule, update_from_output, make_stats = Scheduler.schedule, Scheduler.update_from_output, Scheduler.make_stats


def test_what_is_not_known_is_not_zero():
    alone = scheduler.watched(Oldest)()
    ring = alone._eagle_eye.ring
    ring._words[wire.LEASE_OFFSET // 8] = time.monotonic_ns() + 10**12
    alone.update_from_output(alone.schedule(), None)
    record = told(SimpleNamespace(scheduler=alone))
    ring.close()

    u32, u64 = wire.UNKNOWN["I"], wire.UNKNOWN["Q"]
    assert (record.input_queue, record.deferred, record.kv_blocks_free, record.kv_blocks_total) == (u32,) * 4
    assert {record.preemptions_total, record.finished_stop_total, record.finished_error_total} == {u64}
    assert (record.running, record.waiting) == (0, 0)
    lacks = scheduler.lacking(alone, None)
    assert lacks == ["input_queue", "preemptions", "finished", "deferred", "kv_blocks"]


@pytest.mark.parametrize("method", ["begins", "scheduled", "updated"])
def test_no_failure_of_the_hook_reaches_the_engine(engine, method, caplog):
    watched = engine.scheduler
    eye = watched._eagle_eye
    broken = type("Broken", (step.Watch,), {method: property(lambda self: 1 / 0)})
    eye.__class__ = broken

    with caplog.at_level("WARNING", "vllm.eagle_eye"):
        for _ in range(20):
            assert watched.update_from_output(watched.schedule(), "on") == "on"

    assert type(watched) is Scheduler
    assert len([record for record in caplog.records if "took out" in record.message]) == 1
    assert not eye.ring.open


def test_taken_out_amid_a_call_the_engine_goes_on(engine):
    """The ticker's thread may do so while the engine's thread is inside an override."""
    inner = engine.scheduler

    class Slow(Scheduler):
        def schedule(self, throttle=False):
            scheduler.take_out(self)
            return super().schedule(throttle)

    slow = scheduler.watched(Slow)()
    slow._eagle_eye.ring._words[wire.LEASE_OFFSET // 8] = time.monotonic_ns() + 10**12
    assert slow.schedule().total_num_scheduled_tokens == 0
    assert type(slow) is Slow
    assert type(inner) is not Slow


def test_another_plugins_subclass_is_not_taken_away():
    class Theirs(scheduler.watched(Scheduler)):
        extra = True

    theirs = Theirs()
    scheduler.take_out(theirs)

    assert theirs.extra
    assert theirs.update_from_output(theirs.schedule(), 5) == 5


def test_a_scheduler_is_watched_once():
    watched = scheduler.watched(Scheduler)

    assert scheduler.watched(watched) is watched
    assert issubclass(watched, Scheduler)
    assert watched.__name__ == "Scheduler"


def test_what_cannot_be_derived_from_is_left(caplog):
    assert scheduler.watched(bool) is bool
    assert "cannot watch" in caplog.text


def test_a_scheduler_can_be_freed_and_its_ring_goes_with_it(shared_memory):
    engine = EngineCore(scheduler.watched(Scheduler))
    ring = engine.scheduler._eagle_eye.ring
    del engine
    gc.collect()

    deadline = time.monotonic() + 10
    while ring.open and time.monotonic() < deadline:
        time.sleep(0.02)
        gc.collect()
    assert not ring.open
    assert not list(shared_memory.glob("*.ring"))


def test_shutting_down_says_gone_and_returns_what_vllm_returns(engine):
    ring = engine.scheduler._eagle_eye.ring

    assert engine.scheduler.shutdown() == "down"
    assert not ring.open


def test_draining_is_told(engine, shared_memory):
    ring = engine.scheduler._eagle_eye.ring
    engine.shutdown_state = 1
    state = wire.offset_of(wire.HEADER, "state") // 8

    deadline = time.monotonic() + 10
    while ring._words[state] != wire.STATE_DRAINING and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ring._words[state] == wire.STATE_DRAINING


def test_tokens_of_the_input_queue_are_told_mid_step(engine):
    request = SimpleNamespace(num_prompt_tokens=50)
    engine.scheduler.schedule()
    engine.input_queue.queue += [("add", (request, 0)), ("add", request), ("abort", ["id"]), ("wake", None)]
    tick = wire.format_of(wire.TICK)
    fields = [name for name, _ in wire.TICK]
    memory = engine.scheduler._eagle_eye.ring.memory

    def latest():
        return dict(zip(fields, tick.unpack_from(memory, wire.TICK_OFFSET), strict=True))

    deadline = time.monotonic() + 10
    while latest()["input_queue"] != 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert latest()["waiting_prefill_tokens"] == 100
    assert latest()["flight_step"] == 1
    assert latest()["running"] == 0


def vllm_with(monkeypatch, config_class):
    module = ModuleType("vllm.config")
    module.SchedulerConfig = config_class
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.config", module)


def test_whatever_class_vllm_chooses_is_watched(monkeypatch):
    class SchedulerConfig:
        def get_scheduler_cls(self):
            return Scheduler

    vllm_with(monkeypatch, SchedulerConfig)
    plugin.register()
    plugin.register()

    chosen = SchedulerConfig().get_scheduler_cls()
    assert chosen.eagle_eye_base is Scheduler


def test_a_version_that_is_too_old_says_so(monkeypatch, caplog):
    vllm_with(monkeypatch, type("SchedulerConfig", (), {}))
    plugin.register()

    assert "needs 0.11.1 or newer" in caplog.text


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_disabled_nothing_is_touched(monkeypatch, value):
    class SchedulerConfig:
        def get_scheduler_cls(self):
            return Scheduler

    vllm_with(monkeypatch, SchedulerConfig)
    monkeypatch.setenv("EAGLE_EYE_DISABLE", value)
    plugin.register()

    assert SchedulerConfig().get_scheduler_cls() is Scheduler
    assert scheduler.watch(Scheduler()) is None


def test_without_vllm_registering_is_harmless(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "vllm.config", None)
    plugin.register()

    assert "does not watch" in caplog.text


def test_the_ticker_ends_with_the_ring(engine):
    names = [thread.name for thread in threading.enumerate()]
    assert "eagle-eye-ticker" in names
    engine.scheduler._eagle_eye.ring.close()

    deadline = time.monotonic() + 10
    while any(thread.name == "eagle-eye-ticker" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(thread.name == "eagle-eye-ticker" for thread in threading.enumerate())
