"""The agent as a whole, where no real probe can show it."""

import asyncio
import threading
import time

from eagle_eye.collector import agent as module
from eagle_eye.collector.agent import Agent
from eagle_eye.collector.config import load
from eagle_eye.probes.probe import Spec


async def test_a_stop_does_not_wait_for_a_probe_that_hangs_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROBE_STOP_S", 0.1)
    release = threading.Event()
    specs = (Spec(name="stuck", help="Help.", build=lambda context: release.wait(30), metrics=(), cost="nothing"),)
    flags = {"state_dir": str(tmp_path), "listen": "127.0.0.1:0", "nats.url": "nats://127.0.0.1:9"}
    agent = Agent(load(specs, flags, {}), specs)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)

    started = time.monotonic()
    await agent.run(stop)
    release.set()

    assert time.monotonic() - started < 5


async def test_routers_hear_of_a_stop_before_the_disk_has_the_last_words(tmp_path, monkeypatch):
    flags = {"state_dir": str(tmp_path), "listen": "127.0.0.1:0", "nats.url": "nats://127.0.0.1:9"}
    agent = Agent(load((), flags, {}), ())
    order = []

    def noted(name, stop):
        async def work(deadline_s):
            order.append(name)
            return await stop(deadline_s)

        return work

    for name, part in (("routing", agent.routing), ("black box", agent.black_box), ("publisher", agent.publisher)):
        monkeypatch.setattr(part, "stop", noted(name, part.stop))
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    await agent.run(stop)

    assert order == ["routing", "black box", "publisher"]
