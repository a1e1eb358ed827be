"""The half in vLLM's front end, in each API server: request latencies, and routing messages where no agent is."""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from . import latency, wire
from .direct import Direct, from_environment
from .identity import frontend_handshake
from .ring import Ring, sweep
from .switch import Errors, disabled, log

_SWITCH_NS = 1_000_000_000


class CustomStatLogger(StatLoggerBase):  # type: ignore[misc]
    """Entry point `vllm.stat_logger_plugins`: vLLM makes one for each engine of a front end, on its event loop."""

    _ring: Ring | None = None
    _direct: Direct | None = None

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._index = engine_index
        self._errors = Errors("the watch over request latencies")
        self._next_switch_ns = 0
        self._off = disabled()
        if self._off:
            return
        try:
            self._ring = ring_of(vllm_config)
        except Exception as error:
            log.warning("Eagle Eye does not see request latencies: %r", error)
        try:
            self._direct = from_environment(vllm_config, engine_index)
        except Exception as error:
            log.warning("Eagle Eye does not publish to NATS: %r", error)

    def record(self, scheduler_stats: Any = None, iteration_stats: Any = None, *_args: Any, **_kwargs: Any) -> None:
        if self._off:
            return
        try:
            self._record(scheduler_stats, iteration_stats)
        except Exception as error:
            if self._ring is not None:
                self._ring.drop()
            if self._errors.add(error):
                self._turn_off()

    def _record(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        ring = self._ring
        now = time.monotonic_ns()
        if ring is not None and iteration_stats is not None and ring.lease[0] > now:
            latency.record(ring, iteration_stats, self._index)
        if self._direct is not None:
            self._direct.record(scheduler_stats, iteration_stats)
        if now >= self._next_switch_ns:
            self._next_switch_ns = now + _SWITCH_NS
            if disabled():
                self._turn_off()

    def _turn_off(self) -> None:
        self._off = True
        if self._direct is not None:
            self._direct.close()
        if self._ring is not None:
            self._ring.close()

    def log_engine_initialized(self) -> None:
        """vLLM asks for it; there is nothing to say."""


_rings: dict[int, Ring] = {}
_lock = threading.Lock()


def ring_of(config: Any) -> Ring:
    """The one ring of this process. Raises OSError."""
    with _lock:
        found = _rings.get(os.getpid())
        if found is None or not found.open:
            sweep()
            found = _rings[os.getpid()] = Ring(frontend_handshake(config))
            threading.Thread(target=_beat, args=(found,), name="eagle-eye-heartbeat", daemon=True).start()
            atexit.register(_leave, found)
            log.info("Eagle Eye tells request latencies through %s", found.path)
        return found


def _leave(ring: Ring) -> None:
    ring.close()
    # vLLM kills its engines when their front end ends.
    sweep()


def _beat(ring: Ring) -> None:
    unknown = wire.UNKNOWN
    while ring.open:
        time.sleep(wire.HEARTBEAT_NS / 1e9)
        if ring.wanted():
            try:
                word, half = unknown[wire.U64], unknown[wire.U32]
                ring.tick(time.monotonic_ns(), word, word, half, half, half, half, word, half, 0)
            except ValueError:  # closed in between
                return
