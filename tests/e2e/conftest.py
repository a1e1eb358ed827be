"""A real nats-server per test, which can be killed, stopped, resumed and started again on its port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.collector.nats_server import find_binary
from eagle_eye.collector.publisher import Publisher
from eagle_eye.probes.model import Event


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealServer:
    """nats-server as a child. Keyword arguments are further settings of its configuration."""

    def __init__(self, directory: Path, *, jetstream: bool = True, **config: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self.directory = directory
        settings = {"listen": f"127.0.0.1:{self.port}", "ports_file_dir": str(directory), **config}
        if jetstream:
            settings["jetstream"] = {"store_dir": str(directory), "max_file_store": 2**30}
        (directory / "server.conf").write_text(json.dumps(settings))
        self.process: subprocess.Popen[bytes] | None = None
        self.login: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            command = [find_binary(), "-c", self.directory / "server.conf"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        ports = self.directory / f"nats-server_{self.process.pid}.ports"
        deadline = time.monotonic() + 10
        while not ports.exists():
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "nats-server was not ready in 10 s"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[nats.NATS]:
        client = await nats.connect(self.url, **self.login)
        try:
            yield client
        finally:
            await client.close()

    async def stored(self, stream: str = "EAGLE_EYE_EVENTS") -> list[Any]:
        """Every message of `stream`, in its order."""
        async with self.client() as client:
            js = client.jetstream()
            total = (await js.stream_info(stream)).state.messages
            config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
            reader = await js.pull_subscribe("", stream=stream, config=config)
            messages: list[Any] = []
            while len(messages) < total:
                messages += await reader.fetch(min(1000, total - len(messages)), timeout=5)
            return messages

    async def stored_numbers(self) -> list[int]:
        """The numbers in the ids of the stored events, in the order of the stream."""
        return [int(message.headers["Nats-Msg-Id"].rpartition(":")[2]) for message in await self.stored()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., RealServer]]:
    """`server(**config)` makes one, not started; all are ended with the test."""
    made: list[RealServer] = []

    def make(**config: Any) -> RealServer:
        made.append(RealServer(tmp_path / f"nats{len(made)}", **config))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest_asyncio.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Publisher]]]:
    """`await publisher(url, **settings)` starts one on the state directory of the test; all are stopped with it."""
    made: list[Publisher] = []

    async def make(url: str, *, state_dir: Path | None = None, **settings: Any) -> Publisher:
        identity = {name: settings.pop(name) for name in list(settings) if name in NatsOptions.__struct_fields__}
        options = NatsOptions(servers=(url,), **identity)
        each = Publisher(options, state_dir or tmp_path / "state", node="n.1", cluster="c", **settings)
        await each.start()
        made.append(each)
        return each

    yield make
    for each in made:
        await each.stop(2.0)


def make_event(number: int, size: int = 0, **attributes: Any) -> Event:
    if size:
        attributes["filler"] = "x" * size
    return Event(
        id=f"boot:test:{number}",
        kind="test.happened",
        at_ns=time.monotonic_ns(),
        wall_offset_ns=0,
        node="n.1",
        boot_id="boot",
        entity="host",
        attributes=attributes,
    )


@pytest.fixture
def event() -> Callable[..., Event]:
    """`event(number, size=0, **attributes)`: an event whose id ends in `number`."""
    return make_event


async def _until(condition: Callable[[], Any], timeout_s: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            pytest.fail(f"not true after {timeout_s} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - started


@pytest.fixture
def until() -> Callable[..., Awaitable[float]]:
    """`await until(condition, timeout_s=10)`: the seconds that it took to become true."""
    return _until


@pytest.fixture
def children() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`children(command, **popen)` starts a child that does not outlive the test."""
    made: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **popen: Any) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(command, env={**os.environ}, **popen))
        return made[-1]

    yield start
    for each in made:
        if each.poll() is None:
            each.kill()
        each.communicate()
