"""Simulated devices for an agent that was asked for them, and only then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from .settings import Settings

log = structlog.get_logger()


@contextmanager
def simulated_devices(settings: Settings) -> Iterator[None]:
    """Puts the simulated vendor libraries first for every process that this one starts.

    Raises UsageError for an unknown profile, UnavailableError when the libraries were not built.
    """
    if settings.simulate is None:
        yield
        return
    # Costs an import of cffi's parser, which only those pay who ask for it.
    from ..native.simulator import Simulation

    before = dict(os.environ)
    with Simulation(settings.simulate) as simulation:
        os.environ.update(simulation.environment())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def tell_simulation(settings: Settings) -> None:
    """Says where the devices can be changed, once there are logs to say it in."""
    if settings.simulate is not None:
        log.info("simulated devices", profile=settings.simulate, state_file=os.environ["EAGLE_EYE_SIMULATION"])
