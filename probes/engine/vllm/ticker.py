"""Speaks while the engine's thread does not: during a long step, and when there is nothing to do."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from . import wire
from .step import Flight, Watch
from .switch import OFF_FILE, Errors, disabled, log

_UNKNOWN = wire.UNKNOWN
_RESTING_SECONDS = 0.25  # between looks whether a reader has come
_SWITCH_SECONDS = 1.0
_IN_FLIGHT_MARK_NS = 500_000_000
_MOST_INPUTS = 512


class Ticker:
    """A thread that keeps neither the scheduler nor the engine alive, and ends with their ring."""

    def __init__(self, eye: Watch, scheduler: Any, engine: Any) -> None:
        self._eye = eye
        self._ring = eye.ring
        self._scheduler = weakref.ref(scheduler)
        self._engine = weakref.ref(engine) if engine is not None else lambda: None
        self._errors = Errors("the ticker")
        self._told_ns = 0
        self._told_flight = -1
        self._queued = False
        self._next_switch = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name="eagle-eye-ticker", daemon=True).start()

    def _run(self) -> None:
        while self._ring.open:
            wanted = self._ring.wanted()
            time.sleep(wire.TICK_NS / 1e9 if wanted else _RESTING_SECONDS)
            scheduler = self._scheduler()
            try:
                if scheduler is None or self._is_switched_off(scheduler):
                    return
                self._tell_state()
                if wanted:
                    self.look(scheduler, time.monotonic_ns())
            except Exception as error:
                if self._ring.open and self._errors.add(error):
                    return
            # Else the engine could not be freed while this thread sleeps.
            del scheduler

    def look(self, scheduler: Any, now: int) -> None:
        """Writes a tick if a step is long on its way, if the input queue fills up, or as a sign of life."""
        flight = self._eye.oldest()
        age = now - flight.start_ns if flight is not None else 0
        queued = bool(self._eye.inputs)
        silent = now - max(self._told_ns, self._eye.last_end_ns)
        fills = queued and not self._queued
        self._queued = queued
        if age < wire.TICK_NS and not fills and silent < wire.HEARTBEAT_NS:
            return
        self._tell(scheduler, flight, now)
        self._told_ns = now
        late = flight is not None and age > _IN_FLIGHT_MARK_NS and flight.step != self._told_flight
        if late and flight is not None:
            self._told_flight = flight.step
        if late or fills:
            self._ring.urge()

    def _tell(self, scheduler: Any, flight: Flight | None, now: int) -> None:
        eye = self._eye
        running, waiting = scheduler.get_request_counts()
        deferred = len(eye.deferred(scheduler)) if eye.deferred is not None else 0
        self._ring.tick(
            now,
            flight.step if flight is not None else eye.step,
            flight.start_ns if flight is not None else _UNKNOWN[wire.U64],
            running,
            max(0, waiting - deferred),
            deferred if eye.deferred is not None else _UNKNOWN[wire.U32],
            len(eye.inputs) if eye.inputs is not None else _UNKNOWN[wire.U32],
            eye.waiting_prefill_tokens + _tokens_in(eye.inputs),
            eye.free_blocks(),
            0,
        )

    def _tell_state(self) -> None:
        engine = self._engine()
        # Versions without it go from running to gone.
        if engine is not None and int(getattr(engine, "shutdown_state", 0)) != 0:
            self._ring.state(wire.STATE_DRAINING)

    def _is_switched_off(self, scheduler: Any) -> bool:
        now = time.monotonic()
        if now < self._next_switch:
            return False
        self._next_switch = now + _SWITCH_SECONDS
        if not disabled():
            return False
        from .scheduler import take_out

        take_out(scheduler)
        log.info("Eagle Eye was switched off by %s", OFF_FILE)
        return True


def _tokens_in(inputs: Any) -> int:
    """Prompt tokens of the requests in the input queue; of a long one, as many as its first make likely."""
    waiting = list(inputs or ())
    seen = waiting[:_MOST_INPUTS]
    tokens = sum(_prompt_tokens(item) for item in seen)
    return tokens * len(waiting) // len(seen) if seen else 0


def _prompt_tokens(item: Any) -> int:
    # (kind, request) or (kind, (request, wave)); aborts and calls have no tokens.
    held = item[1] if isinstance(item, tuple) and len(item) > 1 else None
    request = held[0] if isinstance(held, tuple) and held else held
    tokens = getattr(request, "num_prompt_tokens", 0)
    return tokens if isinstance(tokens, int) else 0
