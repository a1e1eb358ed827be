"""When probes run and snapshots are made: a steady beat that no probe can hold up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from ..probes.model import Health, Snapshot
from .runner import Runner
from .snapshot import Composer

# How long a probe has the beat for itself: several times what a round of most takes.
TURN_S = 0.005

log = structlog.get_logger()


class Schedule:
    """Asks probes for rounds and composes a snapshot every interval.

    Probes with a period of their own run on it; all others run with the snapshot, which waits for
    them for at most half the interval and then goes out with what there is.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        composer: Composer,
        interval_ns: int,
        health: Callable[[], Sequence[Health]],
        on_snapshot: Callable[[Snapshot], None],
    ) -> None:
        self.snapshots = 0
        self.missed_beats = 0
        self._runners = runners
        self._composer = composer
        self._interval_ns = interval_ns
        self._health = health
        self._on_snapshot = on_snapshot

    async def first_round(self, deadline_s: float) -> None:
        """Starts every probe and waits until each has worked or failed once, or the deadline passed."""
        await _wait([runner.start() for runner in self._runners], deadline_s)

    async def run(self) -> None:
        """Beats until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._snapshots())
            for runner in self._runners:
                if runner.spec.period_ns:
                    tasks.create_task(self._pace(runner))

    async def last_round(self, deadline_s: float) -> None:
        """One more round of every probe, so that nothing seen is left in a ring."""
        await self._round(self._runners, deadline_s)
        self._snapshot()

    async def _snapshots(self) -> None:
        with_snapshot = [runner for runner in self._runners if not runner.spec.period_ns]
        async for _, missed in _beats(self._interval_ns):
            self.missed_beats += missed
            await self._round(with_snapshot, self._interval_ns / 2e9)
            self._snapshot()

    async def _pace(self, runner: Runner) -> None:
        async for now_ns, _ in _beats(runner.spec.period_ns):
            runner.request(now_ns)

    async def _round(self, runners: Sequence[Runner], deadline_s: float) -> None:
        """One after another, as all at once would fight for the interpreter; who takes long holds nobody up."""
        ends_ns = time.monotonic_ns() + round(deadline_s * 1e9)
        slow: list[asyncio.Future[None]] = []
        for runner in runners:
            asked = runner.request(time.monotonic_ns())
            if asked is not None:
                await _turn(asked)
                slow += [] if asked.done() else [asked]
        await _wait(slow, max(0.0, (ends_ns - time.monotonic_ns()) / 1e9))

    def _snapshot(self) -> None:
        now_ns = time.monotonic_ns()
        for runner in self._runners:
            runner.watch(now_ns)
        samples = [(runner.spec.name, runner.sample_at_ns, runner.sample) for runner in self._runners]
        snapshot = self._composer.compose(now_ns, self._interval_ns, samples, self._health())
        self.snapshots += 1
        self._on_snapshot(snapshot)


async def _beats(period_ns: int) -> AsyncIterator[tuple[int, int]]:
    """When each beat was due, and how many were left out before it because the last one took too long."""
    due_ns = time.monotonic_ns()
    while True:
        due_ns += period_ns
        missed = max(0, (time.monotonic_ns() - due_ns) // period_ns)
        due_ns += missed * period_ns
        await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        yield due_ns, missed


async def _turn(asked: asyncio.Future[None]) -> None:
    """Until it is done, or for TURN_S. Cheaper than asyncio.wait, as it runs for every probe on every beat."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(TURN_S, end)
    asked.add_done_callback(end)
    try:
        await over
    finally:
        timer.cancel()
        asked.remove_done_callback(end)


async def _wait(futures: Sequence[asyncio.Future[None]], deadline_s: float) -> None:
    if futures:
        await asyncio.wait(futures, timeout=deadline_s)
