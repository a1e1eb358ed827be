"""Tries every probe for real, once: built, one round, closed. What is told is true of this machine, now."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from msgspec import Struct

from ..native.errors import EagleEyeError, UnavailableError
from ..probes.model import HealthState
from ..probes.probe import Context, EventSource, Spec
from .garbage import refuse_garbage
from .settings import Settings

DEADLINE_S = 10.0


class Trial(Struct, frozen=True):
    """How one probe did. `reason` is one sentence, `remedy` one command; both are empty when it works."""

    spec: Spec
    state: HealthState
    reason: str = ""
    remedy: str = ""
    took_ns: int = 0


def try_probes(settings: Settings, specs: Sequence[Spec], deadline_s: float = DEADLINE_S) -> list[Trial]:
    """A trial of each spec, all at the same time; one that does not return is `hung` and left behind."""
    trials: dict[str, Trial] = {}
    threads = [
        threading.Thread(target=_keep, args=(trials, spec, _context(settings, spec)), daemon=True) for spec in specs
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [trials.get(spec.name) or _hung(spec, deadline_s) for spec in specs]


def _keep(trials: dict[str, Trial], spec: Spec, context: Context) -> None:
    started_ns = time.monotonic_ns()
    state, reason, remedy = _try(spec, context)
    trials[spec.name] = Trial(spec, state, reason, remedy, time.monotonic_ns() - started_ns)


def _try(spec: Spec, context: Context) -> tuple[HealthState, str, str]:
    try:
        probe = spec.build(context)
        try:
            degraded = refuse_garbage(spec, probe.sample(time.monotonic_ns())).degraded
        finally:
            probe.close()
    except UnavailableError as error:
        return "unavailable", error.message, error.remedy
    except EagleEyeError as error:
        return "failing", error.message, error.remedy
    except Exception as error:
        return "failing", f"{type(error).__name__}: {error}", ""
    return ("degraded" if degraded else "ok"), degraded, ""


def _hung(spec: Spec, deadline_s: float) -> Trial:
    return Trial(spec, "hung", f"did not return within {deadline_s:g} s", took_ns=int(deadline_s * 1e9))


def _context(settings: Settings, spec: Spec) -> Context:
    boot_id = settings.paths.boot_id()
    events = EventSource(spec.name, node=settings.node, cluster=settings.cluster, boot_id=boot_id)
    return Context(paths=settings.paths, options=settings.probes[spec.name].options, events=events)
