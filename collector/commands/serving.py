"""What `run` and `agent` share: work until told to stop, then stop in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from ...probes.model import Event, Snapshot
from ...probes.options import mask
from ..agent import Agent
from ..settings import Settings
from ..view.display import Display

INTERRUPTED = 128 + signal.SIGINT


class Stop:
    """Set by the first SIGINT, SIGTERM or SIGHUP (the terminal was closed).

    A second SIGINT ends the process at once, after `last_words`. Under nohup, SIGHUP stays ignored.
    """

    def __init__(self, last_words: Callable[[], None]) -> None:
        self.event = asyncio.Event()
        self.interrupted = False
        self._last_words = last_words
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self.event.set)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._loop.add_signal_handler(signal.SIGHUP, self.event.set)
        self._loop.add_signal_handler(signal.SIGINT, self._interrupt)

    def set_from_thread(self) -> None:
        """Asks for the stop from any thread."""
        self._loop.call_soon_threadsafe(self.event.set)

    def after(self, duration_ns: int | None) -> None:
        if duration_ns is not None:
            self._loop.call_later(duration_ns / 1e9, self.event.set)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.event.set()
        # No longer through the loop: what hangs may be the loop itself.
        self._loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *_: self._die())

    def _die(self) -> None:
        try:
            self._last_words()
        finally:
            os._exit(INTERRUPTED)


async def serve(agent: Agent, stop: Stop, start: Callable[[], Display | None], duration_ns: int | None) -> int:
    """Runs the agent; gives the exit code. `start` is called and the duration begins with the first snapshot."""
    display: Display | None = None
    started = False

    def show(snapshot: Snapshot, events: Sequence[Event]) -> None:
        nonlocal display, started
        if not started:
            started, display = True, start()
            stop.after(duration_ns)
        if display is not None:
            display.add(snapshot, events)

    agent.subscribe(show)
    try:
        await agent.run(stop.event)
    finally:
        if display is not None:
            display.close()
    if display is not None and display.gone:
        raise BrokenPipeError
    return INTERRUPTED if stop.interrupted else 0


def addresses(agent: Agent, settings: Settings) -> dict[str, str]:
    """Where NATS and the metrics are, with the ports that were really taken and without passwords."""
    return {"nats": mask(settings.nats.url or ""), "metrics": f"{agent.web.url}/metrics"}
