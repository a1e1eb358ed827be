"""What the plugin costs in a real engine in one process; prints one JSON object. Runs in the engine's environment.

CPU time of the engine's own thread, less what the clock itself takes.
"""

import json
import os
import statistics
import sys
import time
import types
from collections import defaultdict

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1",
    VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR",
)  # fmt: skip

from conftest import MODEL
from eagle_eye_vllm.statlogger import CustomStatLogger
from rings import Reader, ring_files
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.metrics.loggers import LoggingStatLogger, PrometheusStatLogger

BATCH, TOKENS = 64, 200
PAIRS = 6
HOT_ROUNDS = 20_000
thread_ns = time.thread_time_ns


def run(engine, tag, requests=BATCH, tokens=TOKENS):
    """Serves a batch; returns (steps, wall seconds)."""
    for number in range(requests):
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
        engine.add_request(f"{tag}-{number}", f"{tag} {number} " * 8, sampling)
    began, steps = time.perf_counter(), 0
    while engine.has_unfinished_requests():
        engine.step()
        steps += 1
    return steps, time.perf_counter() - began


def clock_cost():
    def once():
        began = thread_ns()
        return thread_ns() - began

    return statistics.median(once() for _ in range(5000))


def timed(spent, name, function):
    """`function`, its thread time added to what `spent` has under `name` for the present step."""

    def wrapper(*args, **kwargs):
        began = thread_ns()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name].append(thread_ns() - began)

    return wrapper


def per_step(spent, names, clock):
    """Microseconds per step of the functions that are called once in each."""
    rows = zip(*(spent[name] for name in names))
    return [sum(max(0, value - clock) for value in row) / 1000 for row in rows]


def summary(values):
    ordered = sorted(values)
    return {
        "median_us": statistics.median(ordered),
        "mean_us": statistics.fmean(ordered),
        "p99_us": ordered[len(ordered) * 99 // 100],
        "steps": len(ordered),
    }


def in_engine(engine, eye, clock):
    """The hook's parts and vLLM's loggers, timed in the same steps."""
    spent = defaultdict(list)
    kept = PrometheusStatLogger.record, LoggingStatLogger.record, CustomStatLogger.record
    eye_class = type(eye)
    hooks = eye_class.begins, eye_class.scheduled, eye_class.updated
    for kind, name in (
        (PrometheusStatLogger, "prometheus"),
        (LoggingStatLogger, "logging"),
        (CustomStatLogger, "front"),
    ):
        kind.record = timed(spent, name, kind.record)
    eye_class.begins, eye_class.scheduled, eye_class.updated = (
        timed(spent, name, hook) for name, hook in zip(("begins", "scheduled", "updated"), hooks)
    )
    for turn in range(4):
        run(engine, f"timed{turn}")
    PrometheusStatLogger.record, LoggingStatLogger.record, CustomStatLogger.record = kept
    eye_class.begins, eye_class.scheduled, eye_class.updated = hooks
    groups = {"hook": ("begins", "scheduled", "updated"), "prometheus": ("prometheus",), "front": ("front",)}
    if spent["logging"]:
        groups["logging"] = ("logging",)
    return {name: summary(per_step(spent, parts, clock)) for name, parts in groups.items()}


def hot(engine, eye, batch):
    """The hook alone on the outputs of a real step of `batch` requests, again and again."""
    scheduler = engine.engine_core.engine_core.scheduler
    caught = []
    update = type(eye).updated

    def catch(self, scheduler, output, began):
        if len(output.num_scheduled_tokens) == batch and not output.scheduled_new_reqs:
            caught.append(output)
        return update(self, scheduler, output, began)

    type(eye).updated = catch
    for number in range(batch):
        engine.add_request(f"hot{batch}-{number}", f"hot {number}", SamplingParams(max_tokens=50, ignore_eos=True))
    for _ in range(8):
        engine.step()
    type(eye).updated = update
    output = caught[-1]
    began = thread_ns()
    for _ in range(HOT_ROUNDS):
        start = eye.begins()
        eye.scheduled(output, start)
        eye.updated(scheduler, output, start)
    took = (thread_ns() - began) / HOT_ROUNDS / 1000
    while engine.has_unfinished_requests():
        engine.step()
    return took


def without_reader(eye, reader):
    """What is left of the hook when nobody has a lease."""
    reader.close()
    began = thread_ns()
    for _ in range(HOT_ROUNDS):
        eye.begins()
    return (thread_ns() - began) / HOT_ROUNDS / 1000


def pairs(engine):
    """Requests per second with and without the plugin's class, one after the other."""
    scheduler = engine.engine_core.engine_core.scheduler
    watched, base = type(scheduler), type(scheduler).eagle_eye_base
    rates = []
    for turn in range(PAIRS):
        row = {}
        for name, kind in (
            (("with", watched), ("without", base)) if turn % 2 else (("without", base), ("with", watched))
        ):
            scheduler.__class__ = kind
            _, seconds = run(engine, f"{name}{turn}", requests=2 * BATCH)
            row[name] = 2 * BATCH / seconds
        scheduler.__class__ = watched
        rates.append(row)
    return rates


def main():
    arguments = EngineArgs(
        model=str(MODEL), enforce_eager=True, dtype="bfloat16", max_model_len=2048, max_num_seqs=256,
        disable_log_stats=False,
    )  # fmt: skip
    engine = LLMEngine.from_engine_args(arguments, stat_loggers=[CustomStatLogger, LoggingStatLogger])
    readers = [Reader(path) for path in ring_files()]
    mine = [reader for reader in readers if reader.handshake["pid"] == os.getpid()]
    steps_of = next(reader for reader in mine if reader.handshake["role"] != "frontend")
    eye = engine.engine_core.engine_core.scheduler._eagle_eye
    for turn in range(2):
        run(engine, f"warm{turn}")
    clock = clock_cost()
    result = {"clock_ns": clock, "batch": BATCH, "in_engine": in_engine(engine, eye, clock)}
    result["throughput"] = pairs(engine)
    for reader in mine:  # their thread would share this one's caches
        reader._stop.set()
        reader.renew(10**12)
    result["hot_us"] = {batch: hot(engine, eye, batch) for batch in (1, 32, 64, 256)}
    result["without_reader_us"] = without_reader(eye, types.SimpleNamespace(close=lambda: steps_of.renew(-1)))
    result["errors"] = eye.errors.count
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
