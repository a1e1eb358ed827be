"""Watches this machine: agent, NATS server and live view in one.

Without --nats it brings its own NATS server with JetStream. On a terminal it
shows one live screen, elsewhere plain lines: one per second for the node, one
per event. It starts with whatever works on this machine and says what does
not; only a probe that was switched on by name must work (exit status 3
otherwise). Ctrl-C stops it in order, a second Ctrl-C at once.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import shutil
import sys
import tempfile
from collections import deque
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from msgspec.structs import replace

from ...native.errors import UsageError
from ...probes.options import Option
from ...probes.registry import PROBES
from ..agent import Agent
from ..flags import add_flags, parse_option, settings_from
from ..logs import Logs
from ..nats_server import NatsServer
from ..settings import Settings
from ..simulated import simulated_devices, tell_simulation
from ..view.display import LEAVE_SCREEN, Display, LineDisplay
from ..web_listener import bind
from .serving import Stop, addresses, serve
from .version import libbpf_version

DURATION = Option("duration", "duration", None, "stop after this time")
KEPT_LOG_LINES = 200
USAGE = "[-d SECONDS] [--plain] [SETTINGS]"
EXAMPLES = """\
  eagle-eye run                                   live on this terminal
  eagle-eye run -d 10 --interval 100ms            ten seconds, ten per second
  eagle-eye run --no-kmsg --sched-long-wait 5ms   probes and their settings
  eagle-eye run --nats nats://nats.example:4222   no server of its own
  eagle-eye run | grep sched.long_wait            who waits, and who ran
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    duration = parse_option(DURATION, "--duration")
    parser.add_argument("-d", "--duration", metavar="SECONDS", type=duration, help=DURATION.help)
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    add_flags(parser, PROBES, defaults={"state_dir": "a temporary one"})


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, os.environ, PROBES)
    _refuse_two_servers(settings)
    live = not arguments.plain and os.isatty(sys.stdout.fileno()) and os.environ.get("TERM") not in (None, "dumb")
    with ExitStack() as stack:
        stack.enter_context(simulated_devices(settings))
        logs = _start_logs(stack, settings, live)
        temporary = _make_temporary(stack) if settings.state_dir is None else None
        settings = _with_free_ports(replace(settings, state_dir=settings.state_dir or temporary))
        return asyncio.run(_run(settings, logs, live, temporary, arguments.duration))


def _start_logs(stack: ExitStack, settings: Settings, live: bool) -> Logs:
    """On the terminal that the live screen has, lines are kept until it ends: warnings, unless told otherwise."""
    kept = _KeptLines() if live and sys.stderr.isatty() else None
    level = settings.log_level
    if kept is not None:
        stack.callback(kept.show)
        level = level if _is_given(settings, "log_level") else "warning"
    logs = Logs(level, settings.log_format, kept)
    stack.callback(logs.close)
    return logs


def _is_given(settings: Settings, key: str) -> bool:
    return any(value.given for value in settings.values if value.setting.key == key)


def _with_free_ports(settings: Settings) -> Settings:
    """A default port that a service of this machine has already is no reason not to start beside it."""
    host, port = settings.listen
    if not _is_given(settings, "listen") and _is_taken(host, port):
        settings = replace(settings, listen=(host, 0))
    if not _is_given(settings, "nats.port") and _is_taken("127.0.0.1", settings.nats.port):
        settings = replace(settings, nats=replace(settings.nats, port=0))
    return settings


def _is_taken(host: str, port: int) -> bool:
    try:
        bind(host, port).close()
    except UsageError:
        return True
    return False


def _make_temporary(stack: ExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="eagle-eye-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


async def _run(settings: Settings, logs: Logs, live: bool, temporary: Path | None, duration_ns: int | None) -> int:
    tell_simulation(settings)
    stop = Stop(lambda: _last_words(temporary, live))
    async with AsyncExitStack() as stack:
        server = await _start_server(stack, settings) if settings.nats.url is None else None
        if server is not None:
            settings = replace(settings, nats=replace(settings.nats, url=server.url))
        helpers = (lambda: {"nats_server": server.pid}) if server else dict
        agent = Agent(settings, PROBES, helpers=helpers, sources=[logs.source()], libbpf=libbpf_version())
        return await serve(agent, stop, lambda: _display(agent, settings, stop, live), duration_ns)


async def _start_server(stack: AsyncExitStack, settings: Settings) -> NatsServer:
    assert settings.state_dir is not None
    server = NatsServer(settings.state_dir, port=settings.nats.port)
    await server.start()
    stack.push_async_callback(server.stop)
    return server


def _display(agent: Agent, settings: Settings, stop: Stop, live: bool) -> Display:
    fd = sys.stdout.fileno()
    where = addresses(agent, settings)
    if live:
        # Costs 10 MB, which those who read plain lines need not pay.
        from ..view.live import LiveDisplay

        return LiveDisplay(fd, stop.set_from_thread, os.uname().release, where)
    return LineDisplay(fd, stop.set_from_thread, where)


def _last_words(temporary: Path | None, live: bool) -> None:
    """For a stop that waits for nothing: the terminal and the temporary folder are given back all the same."""
    if live:
        os.write(sys.stdout.fileno(), LEAVE_SCREEN)
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_two_servers(settings: Settings) -> None:
    asked = {value.setting.key: value for value in settings.values if value.given}
    if "nats.url" in asked and asked.get("nats.port", asked["nats.url"]).source == "flag --nats-port":
        url = asked["nats.url"]
        message = f"--nats-port is for the embedded NATS server, and {url.source} names another: {url.show()}"
        raise UsageError(message, remedy="leave out one of the two")


class _KeptLines(io.StringIO):
    """Log lines held back while the live screen has the terminal; the newest are shown when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=KEPT_LOG_LINES)

    def write(self, text: str) -> int:
        self._lines.extend(text.splitlines(keepends=True))
        return len(text)

    def isatty(self) -> bool:
        return True

    def show(self) -> None:
        sys.stderr.writelines(self._lines)
