"""A node with many engines: a feed of its own, whose engines change so many times a second, spread over the second."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.publisher import Publisher
from eagle_eye.collector.routing.feed import Feed, FeedOptions
from eagle_eye.probes.model import EngineState

TICK_S = 0.005


def state(node: str, number: int, step: int) -> EngineState:
    return EngineState(
        instance=f"{node}-{number:032x}", engine="vllm", at_ns=time.monotonic_ns(), kind="step", source="plugin",
        simulated=True, model="a-model-of-8b", step=step, running=31, waiting=step % 7 + 1, input_queue=0,
        waiting_prefill_tokens=step % 7 * 900, kv_blocks_total=6000, kv_blocks_free=2100, kv_usage_ratio=0.65,
        step_duration_ns=18_000_000, prefill_requests=0, prefill_tokens=0, decode_requests=31, decode_tokens=31,
        preemptions_total=0, finished_total={"stop": step},
    )  # fmt: skip


async def main(url: str, node: str, engines: int, rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(NatsOptions((url,)), Path(folder), node=node, cluster="bench")
        feed = Feed(FeedOptions(per_engine=False), node=node, cluster="bench", boot_id=f"boot of {node}")
        publisher.share(feed)
        await publisher.start()
        while publisher.statistics().state != "connected":
            await asyncio.sleep(0.01)
        started, told = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds + 3:
            due = int(elapsed * rate * engines)
            feed.take([state(node, number % engines, number // engines + 1) for number in range(told, due)])
            told = due
            await asyncio.sleep(TICK_S)
        while feed.books.held:
            await asyncio.sleep(0.05)
        books = feed.books
        await publisher.stop(1.0)
    told_of = {name: getattr(books, name) for name in ("produced", "delivered", "coalesced")}
    told_of["cpu_s"] = round(time.process_time(), 2)
    print(json.dumps(told_of | {"dropped": sum(books.dropped.values())}))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    _, url, node, engines, rate, seconds = sys.argv
    asyncio.run(main(url, node, int(engines), float(rate), float(seconds)))
