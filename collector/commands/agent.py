"""Runs the agent alone, as the service of a node: probes, NATS, metrics, no view.

It starts with whatever works on this machine and says what does not; only a
probe that was switched on by name must work (exit status 3 otherwise). While
NATS is away events wait in the state folder. SIGTERM stops it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import os

import structlog

from ...native.errors import UsageError
from ...probes.registry import PROBES
from ..agent import Agent
from ..flags import add_flags, settings_from
from ..logs import Logs
from ..settings import Settings
from ..simulated import simulated_devices, tell_simulation
from .serving import Stop, addresses, serve
from .version import libbpf_version

DEFAULTS = {"state_dir": "/var/lib/eagle-eye"}
USAGE = "--nats URL [SETTINGS]"
EXAMPLES = """\
  eagle-eye agent --nats nats://nats.example:4222
  eagle-eye agent --config /etc/eagle-eye.yaml --listen :9750
  EAGLE_EYE_NATS_URL=tls://nats.example eagle-eye agent --no-kmsg
"""

log = structlog.get_logger(component="agent")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, PROBES, leave_out=("nats.port",), defaults=DEFAULTS)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, os.environ, PROBES, defaults=DEFAULTS)
    if settings.nats.url is None:
        remedy = "give one with --nats URL, EAGLE_EYE_NATS_URL or nats.url in the file; `run` brings its own"
        raise UsageError("no NATS server is named", remedy=remedy)
    logs = Logs(settings.log_level, settings.log_format)
    try:
        with simulated_devices(settings):
            return asyncio.run(_run(settings, logs))
    finally:
        logs.close()


async def _run(settings: Settings, logs: Logs) -> int:
    tell_simulation(settings)
    agent = Agent(settings, PROBES, sources=[logs.source()], libbpf=libbpf_version())

    def tell() -> None:
        where = {f"{name}_url": address for name, address in addresses(agent, settings).items()}
        log.info("ready", **where, state_dir=str(settings.state_dir))

    return await serve(agent, Stop(lambda: None), tell, None)
