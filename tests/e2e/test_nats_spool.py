"""The spool under an agent: crashes, bounds, disks that are full, read-only or silent."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eagle_eye.native.errors import UsageError

AGENT = """
import asyncio, os, sys, time
from pathlib import Path
from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.publisher import Publisher
from eagle_eye.probes.model import Event

async def main(url, state_dir, first):
    agent = Publisher(NatsOptions(servers=(url,)), Path(state_dir), node="n.1", cluster="c")
    await agent.start()
    number = first
    while True:
        for _ in range(20):
            agent.publish_event(Event(id=f"boot:test:{number}", kind="test.happened", at_ns=time.monotonic_ns(),
                                      wall_offset_ns=0, node="n.1", boot_id="boot", entity="host"))
            number += 1
        await asyncio.sleep(0.002)
        now = agent.statistics()
        os.write(1, b"%d %d\\n" % (now.events_acked, now.events_acked + now.events_spooled))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def run_and_kill(children, url, state_dir, first, seconds):
    """Kill -9 an agent; how many of its events it said were safe, and how many acknowledged."""
    with (state_dir.parent / "agent.log").open("ab") as log:
        child = children(
            [sys.executable, "-c", AGENT, url, str(state_dir), str(first)], stdout=subprocess.PIPE, stderr=log
        )
        child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        lines = child.stdout.read().split(b"\n")
    return [int(word) for word in lines[-2].split()]


async def test_an_agent_killed_with_events_in_flight(server, publisher, children, until, tmp_path):
    real = server()
    real.start()
    state_dir = tmp_path / "state"
    _, safe = run_and_kill(children, real.url, state_dir, 1, 0.4)
    agent = await publisher(real.url)
    recovered = agent.statistics().events_recovered
    await until(lambda: agent.statistics().events_queued == 0)
    numbers = await real.stored_numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= safe > 100
    assert agent.statistics().events_acked == recovered


async def test_an_agent_killed_while_nats_is_away(server, publisher, children, until, tmp_path):
    real = server()
    state_dir = tmp_path / "state"
    acked, safe = run_and_kill(children, real.url, state_dir, 1, 0.4)
    assert acked == 0
    assert safe > 100
    agent = await publisher(real.url)
    assert agent.statistics().events_recovered >= safe
    real.start()
    await until(lambda: agent.statistics().events_queued == 0)
    numbers = await real.stored_numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= safe


async def test_what_is_left_at_a_stop_waits_for_the_next_agent(server, publisher, event, until):
    real = server()
    first = await publisher(real.url)
    for number in range(1, 101):
        first.publish_event(event(number))
    await first.stop(1.0)
    second = await publisher(real.url)
    assert second.statistics().events_recovered == 100
    for number in range(101, 201):
        second.publish_event(event(number))
    real.start()
    await until(lambda: second.statistics().events_acked == 200)
    await second.stop(1.0)
    third = await publisher(real.url)
    assert third.statistics().events_recovered == 0
    assert await real.stored_numbers() == list(range(1, 201))


async def test_a_stop_sends_what_it_has(server, publisher, event, until):
    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    for number in range(1, 3001):
        agent.publish_event(event(number))
        agent.publish_lossy("x", b"x")
    started = time.monotonic()
    await agent.stop(5.0)
    assert time.monotonic() - started < 3.0
    statistics = agent.statistics()
    assert statistics.events_acked == 3000
    assert statistics.lossy_held == 0
    assert statistics.lossy_published + sum(statistics.lossy_dropped.values()) == 3000
    assert agent.health().state == "off"
    assert await real.stored_numbers() == list(range(1, 3001))


async def test_two_agents_on_one_state_directory(publisher):
    await publisher("nats://127.0.0.1:1")
    with pytest.raises(UsageError, match=f"pid {os.getpid()}") as caught:
        await publisher("nats://127.0.0.1:1")
    assert "--state-dir" in caught.value.remedy


async def test_over_its_bound_the_spool_drops_the_oldest_and_counts_them(server, publisher, event, until):
    real = server()
    agent = await publisher(real.url, spool_bytes=2**20, memory_bytes=2**18)
    for number in range(1, 5001):
        agent.publish_event(event(number, size=500))
        if number % 50 == 0:
            await until(lambda: agent.statistics().events_dropped.get("memory_full", 0) or not agent._outbox._waiting)
    statistics = agent.statistics()
    assert statistics.spool_bytes <= 2**20
    dropped = statistics.events_dropped["spool_full"]
    assert statistics.events_dropped == {"spool_full": dropped}
    assert 1000 < dropped < 5000
    real.start()
    await until(lambda: agent.statistics().events_queued == 0)
    numbers = await real.stored_numbers()
    assert len(numbers) == 5000 - agent.statistics().events_dropped["spool_full"]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 5000


async def test_a_flood_in_one_moment_is_held_or_counted(server, publisher, event, until):
    """No turn of the loop for the disk in between: memory alone takes it."""
    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    for number in range(1, 50_001):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_queued == 0, 30)
    statistics = agent.statistics()
    refused = statistics.events_dropped.get("memory_full", 0)
    assert statistics.events_acked == 50_000 - refused
    assert await real.stored_numbers() == list(range(1, 50_001 - refused))
    assert refused < 40_000


@contextlib.contextmanager
def mounted(command: list[str], target: Path):
    target.mkdir()
    subprocess.run([*command, target], check=True, capture_output=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)


@pytest.mark.needs_mounts
async def test_a_full_disk(server, publisher, event, until, tmp_path):
    with mounted(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"], tmp_path / "full") as disk:
        real = server()
        agent = await publisher(real.url, state_dir=disk, memory_bytes=2**18)
        for number in range(1, 2001):
            agent.publish_event(event(number, size=200))
            if number % 20 == 0:
                await until(lambda: not agent._outbox._waiting or agent.statistics().spool_reason)
        statistics = agent.statistics()
        assert "No space left on device" in statistics.spool_reason
        assert statistics.events_dropped["memory_full"] > 0
        real.start()
        await until(lambda: agent.statistics().events_queued == 0)
        assert await real.stored_numbers() == list(range(1, agent.statistics().events_acked + 1))
        await until(lambda: not agent.statistics().spool_reason)
        agent.publish_event(event(5000))
        await until(lambda: agent.statistics().events_queued == 0)
        assert agent.health().state == "ok"
        assert agent.statistics().events_acked + agent.statistics().events_dropped["memory_full"] == 2001
        await agent.stop(1.0)


async def test_a_state_directory_that_cannot_be_made(server, publisher, event, until, tmp_path):
    (tmp_path / "file").write_text("")
    real = server()
    agent = await publisher(real.url, state_dir=tmp_path / "file")
    for number in range(1, 101):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().spool_reason)
    assert "Not a directory" in agent.statistics().spool_reason
    real.start()
    await until(lambda: agent.statistics().events_acked == 100)
    assert agent.health().state == "degraded"
    assert await real.stored_numbers() == list(range(1, 101))

    (tmp_path / "file").unlink()
    await until(lambda: agent.health().state == "ok")


async def test_what_is_lost_at_a_stop_is_told(server, publisher, event, tmp_path):
    (tmp_path / "file").write_text("")
    agent = await publisher(server().url, state_dir=tmp_path / "file")
    for number in range(1, 8):
        agent.publish_event(event(number))
    with capture_logs() as lines:
        await agent.stop(1.0)

    told = [line for line in lines if line["event"].startswith("events lost")]
    assert [line["count"] for line in told] == [7]
    assert agent.statistics().events_dropped["stopped"] == 7


@pytest.mark.needs_mounts
async def test_a_disk_that_hangs(server, publisher, event, until, tmp_path):
    """A frozen file system holds every writer for as long as it likes, as a dying disk does."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    real = server()
    real.start()
    with mounted(["mount", "-o", "loop", image], tmp_path / "frozen") as disk:
        agent = await publisher(real.url, state_dir=disk)
        agent.publish_event(event(1))
        await until(lambda: agent.statistics().events_acked == 1)
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        try:
            for number in range(2, 101):
                agent.publish_event(event(number))
            await until(lambda: agent.statistics().events_acked == 100, 2)
            real.kill()
            agent.publish_event(event(101))
            await until(lambda: "has not answered" in agent.statistics().spool_reason, 4)
            real.start()
            await until(lambda: agent.statistics().events_acked == 101)
            assert agent.health().state == "degraded"
            started = time.monotonic()
            await agent.stop(1.0)
            assert time.monotonic() - started < 1.5
        finally:
            subprocess.run(["fsfreeze", "-u", disk], check=True)
        assert await real.stored_numbers() == list(range(1, 102))
