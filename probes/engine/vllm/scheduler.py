"""The hook in EngineCore: whatever class vLLM chose as its scheduler, watched.

Every override hands its arguments on as they are, calls the original exactly once, and keeps its own failures.
"""

from __future__ import annotations

import sys
import time
import weakref
from typing import Any

from .identity import engine_handshake
from .ring import Ring, sweep
from .step import Watch
from .switch import disabled, log
from .ticker import Ticker

_FRAMES = 12
_FIRST = "0.11.1"
_monotonic_ns = time.monotonic_ns


def install() -> bool:
    """Makes vLLM choose watched schedulers, once per process. False where this version offers no way."""
    from vllm.config import SchedulerConfig

    choose = getattr(SchedulerConfig, "get_scheduler_cls", None)
    if choose is None:
        log.warning("Eagle Eye sees no scheduler steps in this vLLM: it needs %s or newer", _FIRST)
        return False
    if not hasattr(choose, "eagle_eye"):

        def get_scheduler_cls(self: Any) -> Any:
            return watched(choose(self))

        get_scheduler_cls.eagle_eye = True  # type: ignore[attr-defined]
        SchedulerConfig.get_scheduler_cls = get_scheduler_cls
    return True


def watched(base: Any) -> Any:
    """A subclass of `base` that tells a ring of its steps; `base` itself if it is one or cannot be derived from."""
    if hasattr(base, "eagle_eye_base"):
        return base
    try:
        return _derive(base)
    except Exception as error:
        log.warning("Eagle Eye cannot watch the scheduler %r: %r", base, error)
        return base


def _derive(base: Any) -> Any:
    # `base.method(self)`, not `super()`: a scheduler may be given back its class amid a call.
    class Watched(base):  # type: ignore[misc]
        eagle_eye_base = base
        _eagle_eye: Watch | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            base.__init__(self, *args, **kwargs)
            self._eagle_eye = watch(self)

        def schedule(self, *args: Any, **kwargs: Any) -> Any:
            eye = self._eagle_eye
            try:
                start = eye.begins() if eye is not None else 0
            except Exception as error:
                start = 0
                _failed(self, eye, error)
            output = base.schedule(self, *args, **kwargs)
            if start and eye is not None:
                try:
                    eye.scheduled(output, start)
                except Exception as error:
                    _failed(self, eye, error)
            return output

        def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            eye = self._eagle_eye
            if eye is None or not eye.flights:
                return base.update_from_output(self, scheduler_output, *args, **kwargs)
            began = _monotonic_ns()
            result = base.update_from_output(self, scheduler_output, *args, **kwargs)
            try:
                eye.updated(self, scheduler_output, began)
            except Exception as error:
                _failed(self, eye, error)
            return result

        def make_stats(self, *args: Any, **kwargs: Any) -> Any:
            stats = base.make_stats(self, *args, **kwargs)
            eye = self._eagle_eye
            if stats is not None and eye is not None and eye.flights:
                try:
                    eye.made_stats(stats)
                except Exception as error:
                    _failed(self, eye, error)
            return stats

        def _preempt_request(self, *args: Any, **kwargs: Any) -> Any:
            if (eye := self._eagle_eye) is not None:
                eye.preempted()
            return base._preempt_request(self, *args, **kwargs)

        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            if (eye := self._eagle_eye) is not None:
                try:
                    eye.freed(request)
                except Exception as error:
                    _failed(self, eye, error)
            return base._free_request(self, request, *args, **kwargs)

        def shutdown(self, *args: Any, **kwargs: Any) -> Any:
            if (eye := self._eagle_eye) is not None:
                eye.ring.close()
            return base.shutdown(self, *args, **kwargs)

    Watched.__name__, Watched.__qualname__, Watched.__module__ = base.__name__, base.__qualname__, base.__module__
    return Watched


def _failed(scheduler: Any, eye: Any, error: Exception) -> None:
    eye.ring.drop()
    if eye.errors.add(error):
        take_out(scheduler)


def take_out(scheduler: Any) -> None:
    """Gives a scheduler back the class that vLLM chose, and ends its ring. From any thread."""
    eye, scheduler._eagle_eye = scheduler._eagle_eye, None
    if eye is not None:
        eye.ring.close()
    # Where another plugin has derived from ours, the overrides stay and do nothing.
    if "eagle_eye_base" in vars(type(scheduler)):
        scheduler.__class__ = type(scheduler).eagle_eye_base


def watch(scheduler: Any) -> Watch | None:
    """Begins to watch a scheduler that was just made by EngineCore; None, and a word in the log, where it cannot."""
    if disabled():
        return None
    try:
        return _watch(scheduler)
    except Exception as error:
        log.warning("Eagle Eye does not watch this engine: %r", error)
        return None


def _watch(scheduler: Any) -> Watch:
    engine = _engine_core()
    inputs = _inputs_of(engine)
    lacks = lacking(scheduler, inputs)
    sweep()
    ring = Ring(engine_handshake(scheduler, engine, lacks))
    eye = Watch(ring, scheduler, inputs, finishes="finished" not in lacks, preempts="preemptions" not in lacks)
    weakref.finalize(scheduler, ring.close)
    Ticker(eye, scheduler, engine).start()
    log.info("Eagle Eye watches this engine through %s%s", ring.path, f"; it lacks {', '.join(lacks)}" if lacks else "")
    return eye


def lacking(scheduler: Any, inputs: Any) -> list[str]:
    """What this version of vLLM, or the way it was started, does not tell."""
    base = getattr(type(scheduler), "eagle_eye_base", type(scheduler))
    here = {
        "input_queue": inputs is not None,
        "preemptions": hasattr(base, "_preempt_request"),
        "finished": hasattr(base, "_free_request"),
        "deferred": hasattr(scheduler, "deferred_waiting") or hasattr(scheduler, "skipped_waiting"),
        "kv_blocks": hasattr(getattr(scheduler, "kv_cache_manager", None), "block_pool"),
        "accepted_tokens": getattr(scheduler, "log_stats", False) or not getattr(scheduler, "num_spec_tokens", 0),
    }
    return [name for name, told in here.items() if not told]


def _engine_core() -> Any:
    """The EngineCore that is being made by a caller of ours. vLLM hides it from the garbage collector."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        candidate = frame.f_locals.get("self")
        if any(kind.__name__ == "EngineCore" for kind in type(candidate).__mro__):
            return candidate
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def _inputs_of(engine: Any) -> Any:
    """Requests that have come, but which the scheduler has not seen yet; the engine in one process has none."""
    if engine is None:
        return None
    return getattr(getattr(engine, "input_queue", None), "queue", ())
