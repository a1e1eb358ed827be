"""Simulated devices and engines for an agent that was asked for them, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog

from .settings import Settings

ENGINES = ("vllm",)
_END_S = 5.0

log = structlog.get_logger()


@contextmanager
def simulated_devices(settings: Settings) -> Iterator[None]:
    """Starts what `--simulate` names, joined by plus signs: devices, engines, or both (`h100x8+vllm`).

    Raises UsageError for an unknown profile, UnavailableError when the libraries were not built.
    """
    names = (settings.simulate or "").split("+") if settings.simulate else []
    with ExitStack() as stack:
        for name in [name for name in names if name not in ENGINES]:
            stack.enter_context(_devices(name))
        for name in [name for name in names if name in ENGINES]:
            stack.enter_context(_engine(name))
        yield


@contextmanager
def _devices(profile: str) -> Iterator[None]:
    """Puts the simulated vendor libraries first for every process that this one starts."""
    # Costs an import of cffi's parser, which only those pay who ask for it.
    from ..native.simulator import Simulation

    before = dict(os.environ)
    with Simulation(profile) as simulation:
        os.environ.update(simulation.environment())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """In a process of its own, as a real one is; it ends with this one, however that ends."""
    command = [sys.executable, "-m", "eagle_eye", "simulate", "engine", name]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:  # noqa: S603 - our own
        try:
            yield
        finally:
            child.terminate()
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()


def tell_simulation(settings: Settings) -> None:
    """Says where the devices can be changed, once there are logs to say it in."""
    if settings.simulate is not None:
        state_file = os.environ.get("EAGLE_EYE_SIMULATION", "")
        log.info("simulated devices", profile=settings.simulate, state_file=state_file)
