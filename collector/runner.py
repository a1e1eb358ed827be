"""Runs one probe in a thread of its own, so that its failure or hang stays its own."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import structlog

from ..native.errors import UnavailableError
from ..probes.model import Health, HealthState
from ..probes.probe import Context, Probe, Sample, Series, Spec
from .garbage import refuse_garbage

BUILD_DEADLINE_NS = 20_000_000_000
REBUILD_AFTER_FAILURES = 3
FIRST_BACKOFF_NS = 100_000_000
LONGEST_BACKOFF_NS = 30_000_000_000
# Samples that the event loop has not taken yet: beyond, descriptors wake nobody until it has.
MOST_UNHEARD = 2
UNHEARD_POLL_MS = 5

log = structlog.get_logger()


class Runner:
    """One probe, its thread, its latest sample and its health.

    Everything but the probe's own code runs on the event loop. The thread waits for requests and for the
    probe's descriptors itself. A probe past its deadline is `hung` and left alone until it returns; one that
    raises is tried again when asked, later each time, and built anew after three failures in a row.
    """

    def __init__(
        self,
        spec: Spec,
        context: Context,
        on_sample: Callable[[Sample], None],
    ) -> None:
        self.spec = spec
        self.sample = Sample()
        self.sample_at_ns = 0
        self.error: UnavailableError | None = None
        self._context = context
        self._on_sample = on_sample
        self._state: HealthState = "starting"
        self._reason = ""
        self._remedy = ""
        self._events = 0
        self._duration_ns = 0
        self._failures = 0
        self._not_before_ns = 0
        self._busy_since_ns = 0
        self._built = False
        self._closing = False
        self._bell = -1
        self._told = 0
        self._heard = 0
        self._loop = asyncio.get_running_loop()
        self._round = self._loop.create_future()
        self._ended = self._loop.create_future()
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"probe-{spec.name}", daemon=True)

    @property
    def state(self) -> HealthState:
        return self._state

    @property
    def health(self) -> Health:
        return Health(
            probe=self.spec.name,
            state=self._state,
            reason=self._reason,
            remedy=self._remedy,
            events=self._events,
            dropped=dict(self.sample.dropped),
            last_success_ns=self.sample_at_ns,
            duration_ns=self._duration_ns,
        )

    def start(self) -> asyncio.Future[None]:
        """Builds the probe and runs its first round; the future is done when either has ended, well or badly."""
        self._bell = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self._thread.start()
        return self._begin(time.monotonic_ns())

    def request(self, now_ns: int) -> asyncio.Future[None] | None:
        """Asks for a round; None while one is under way, in back-off, or when the probe cannot work here."""
        if self._closing or self._busy_since_ns or self._state == "unavailable" or now_ns < self._not_before_ns:
            return None
        return self._begin(now_ns)

    def watch(self, now_ns: int) -> None:
        """Marks the probe hung when its round is past the deadline."""
        limit_ns = self.spec.deadline_ns if self._built else BUILD_DEADLINE_NS
        if self._busy_since_ns and self._state != "hung" and now_ns - self._busy_since_ns > limit_ns:
            where = _kernel_function(self._thread.native_id)
            self._change("hung", f"a round has not returned for {limit_ns / 1e9:g} s{where}")

    async def stop(self, deadline_s: float) -> bool:
        """Closes the probe; False when its thread did not come back in time and was left behind."""
        if not self._closing and self._bell >= 0:
            self._ring(None)
        self._closing = True
        done, _ = await asyncio.wait({self._ended}, timeout=deadline_s)
        return bool(done)

    # In the probe's thread.

    def _work(self) -> None:
        probe: Probe | None = None
        failures = 0
        checked: Sequence[Series] = ()
        fds: tuple[int, ...] = ()
        while (now_ns := self._wait(fds)) is not None:
            started_ns = time.monotonic_ns()
            self._busy_since_ns = now_ns
            before, fds = fds, ()
            try:
                if probe is None:
                    probe = self._build()
                sample = refuse_garbage(self.spec, probe.sample(now_ns), checked)
                outcome: Sample | Exception = sample
                checked = sample.series
                fds = tuple(probe.wake_fds())
                if fds != before:
                    _refuse_unwatchable(fds)
                failures = 0
            except Exception as error:
                outcome, fds = _without_frames(error), ()
                failures += 1
            if failures >= REBUILD_AFTER_FAILURES:
                _close(probe)
                probe, failures = None, 0
            self._told += 1
            self._tell(self._done, outcome, now_ns, time.monotonic_ns() - started_ns)
        _close(probe)
        os.close(self._bell)
        self._tell(self._ended.set_result, None)

    def _wait(self, fds: tuple[int, ...]) -> int | None:
        """Until a round is asked for or one of `fds` has something; when the round is, None when there are no more.

        What is always readable costs a round per gap at most, and a descriptor that was closed wakes nobody.
        """
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while self._told - self._heard > MOST_UNHEARD and not poll.poll(UNHEARD_POLL_MS):
            pass
        ended_ns = time.monotonic_ns()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        found = dict(poll.poll())
        if self._bell not in found:
            found |= self._rest(ended_ns)
        if self._bell in found:
            os.eventfd_read(self._bell)
            return self._requests.get()
        if any(events & select.POLLNVAL for events in found.values()):
            return self._wait(())
        return time.monotonic_ns()

    def _rest(self, ended_ns: int) -> dict[int, int]:
        """Until the gap since the last round has gone by, or a round is asked for: then the bell."""
        rest_ms = (ended_ns + self.spec.wake_gap_ns - time.monotonic_ns()) / 1e6
        if rest_ms <= 0:
            return {}
        bell = select.poll()
        bell.register(self._bell, select.POLLIN)
        return dict(bell.poll(rest_ms))

    def _build(self) -> Probe:
        probe = self.spec.build(self._context)
        self._built = True
        return probe

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is gone: nobody is left to hear it
            self._loop.call_soon_threadsafe(call, *arguments)

    # On the event loop.

    def _begin(self, now_ns: int) -> asyncio.Future[None]:
        self._busy_since_ns = now_ns
        self._round = self._loop.create_future()
        self._ring(now_ns)
        return self._round

    def _ring(self, request: int | None) -> None:
        self._requests.put(request)
        os.eventfd_write(self._bell, 1)

    def _done(self, outcome: Sample | Exception, at_ns: int, took_ns: int) -> None:
        self._heard += 1
        if self._busy_since_ns == at_ns:  # else the thread has begun another round since
            self._busy_since_ns = 0
        self._duration_ns = took_ns
        if isinstance(outcome, Sample):
            self._succeed(outcome, at_ns)
        elif isinstance(outcome, UnavailableError) and not self._built:
            self.error = outcome
            self._change("unavailable", outcome.message, outcome.remedy)
        else:
            self._fail(outcome)
        if not self._round.done():
            self._round.set_result(None)

    def _succeed(self, sample: Sample, at_ns: int) -> None:
        self.sample, self.sample_at_ns = sample, at_ns
        self._failures = self._not_before_ns = 0
        self._change("degraded" if sample.degraded else "ok", sample.degraded)
        self._events += len(sample.events)
        self._on_sample(sample)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._not_before_ns = time.monotonic_ns() + min(LONGEST_BACKOFF_NS, FIRST_BACKOFF_NS << min(self._failures, 20))
        self._change("failing", f"{type(error).__name__}: {error}"[:500], getattr(error, "remedy", ""))

    def _change(self, state: HealthState, reason: str, remedy: str = "") -> None:
        if state != self._state:
            write = log.info if state == "ok" else log.warning
            write("probe changed state", probe=self.spec.name, state=state, reason=reason, remedy=remedy)
        self._state, self._reason, self._remedy = state, reason, remedy


def _close(probe: Probe | None) -> None:
    if probe is not None:
        with suppress(Exception):
            probe.close()


def _refuse_unwatchable(fds: Sequence[int]) -> None:
    """Raises for what is no descriptor, and for a regular file, which always has something to read."""
    for fd in fds:
        if not isinstance(fd, int) or stat.S_ISREG(os.fstat(fd).st_mode):
            raise TypeError(f"{fd!r} among the descriptors that wake it cannot be waited for")


def _without_frames(error: Exception) -> Exception:
    """Lets go of what a build that failed halfway had opened: the frames of a traceback hold it."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _kernel_function(thread_id: int | None) -> str:
    """Where in the kernel a thread of ours sleeps, as evidence; "" where /proc does not say."""
    try:
        name = Path(f"/proc/self/task/{thread_id}/wchan").read_text()
    except OSError:
        return ""
    return f" (in the kernel: {name})" if name not in ("", "0") else ""
