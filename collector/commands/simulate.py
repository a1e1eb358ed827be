"""Simulates accelerators: vendor libraries that any program loads as usual.

list  profiles, faults, and what can be set
run   makes the devices of a profile for COMMAND, or until Ctrl-C without one
set   changes a running simulation: DEVICE is a number, all or node
engine  makes inference engines, until Ctrl-C, that agents find like real ones

Everything simulated says so: driver versions end in (simulated).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...native.errors import UsageError
from ...native.simulator import Simulation, Timeline, describe, parse_changes, profile_names, read_scenario, seconds
from ...probes.engine.simulator import PROFILES, Scenario, make_fleet

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
USAGE = "list | run NAME | set STATE DEVICE KEY=VALUE | engine"
EXAMPLES = """\
  eagle-eye simulate run h100x8 -- python3 my_tool.py
  eagle-eye simulate run h100x8 --scenario heat.yaml -- eagle-eye run
  eagle-eye simulate set /tmp/sim/h100x8.state 3 fault=heat power_watts=650
  eagle-eye simulate set /tmp/sim/h100x8.state all call.power.delay=200ms
  eagle-eye simulate engine --ranks 4 --requests 20 --stall-every 10s
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        metavar="ACTION", dest="action", required=True, prog=parser.prog, parser_class=_parser_of(parser)
    )
    actions.add_parser("list", description="Profiles, faults, and what can be set.", help="what there is")
    run = actions.add_parser("run", description="Makes the devices of a profile.", help="make devices")
    run.add_argument("name", metavar="NAME", help=f"one of {', '.join(profile_names())}")
    run.add_argument("--scenario", metavar="FILE", type=Path, help="YAML file of what happens when")
    run.add_argument("--state", metavar="FILE", type=Path, help="where to put the state file (default a temporary one)")
    change = actions.add_parser("set", description="Changes a running simulation.", help="change devices")
    change.add_argument("state", metavar="STATE", type=Path, help="the state file that `run` names")
    change.add_argument("device", metavar="DEVICE", help="number of a device, all, or node")
    change.add_argument("changes", metavar="KEY=VALUE", nargs="+", help="see `eagle-eye simulate list`")
    engine = actions.add_parser("engine", description="Makes inference engines.", help="make engines")
    engine.add_argument("name", metavar="NAME", nargs="?", default=PROFILES[0], choices=PROFILES, help="vllm")
    engine.add_argument("--ranks", metavar="N", type=int, default=1, help="data-parallel ranks (default 1)")
    engine.add_argument("--requests", metavar="N", type=float, default=4.0, help="per second and rank (default 4)")
    engine.add_argument("--stall-every", metavar="TIME", default="0", help="a step hangs so often, for 2 s")
    change.add_argument("--over", metavar="TIME", default="0", help="let quantities move there in this time")


def run(arguments: argparse.Namespace) -> int:
    actions = {"list": _list, "run": _run, "set": _set, "engine": _engine}
    return actions[arguments.action](arguments)


def _list(_: argparse.Namespace) -> int:
    sys.stdout.writelines(f"{line}\n" for line in describe())
    return 0


def _set(arguments: argparse.Namespace) -> int:
    changes = parse_changes(arguments.changes)
    simulation = Simulation.open(arguments.state)
    try:
        simulation.set(arguments.device, changes, over_s=seconds(arguments.over, "--over"))
    finally:
        simulation.close()
    return 0


def _engine(arguments: argparse.Namespace) -> int:
    """Ends with the process that started it, so that none is left behind by an agent that was killed."""
    stall_s, parent = seconds(arguments.stall_every, "--stall-every"), os.getppid()
    scenario = Scenario(requests_per_second=arguments.requests, stall_every_s=stall_s)
    stop = threading.Event()
    for number in ENDS:
        signal.signal(number, lambda *_: stop.set())
    fleet = make_fleet(scenario, arguments.ranks)
    print(f"simulating {arguments.ranks} x {arguments.name}, until Ctrl-C", file=sys.stderr, flush=True)
    try:
        while not stop.is_set() and os.getppid() == parent:
            fleet.run_until(time.monotonic_ns() + 200_000_000)
    finally:
        fleet.close()
    return 0


def _run(arguments: argparse.Namespace) -> int:
    scenario = read_scenario(arguments.scenario) if arguments.scenario else None
    with Simulation(arguments.name, arguments.state) as simulation:
        timeline = Timeline(simulation, scenario) if scenario else None
        try:
            with _playing(timeline):
                return _call(simulation, arguments.command) if arguments.command else _hold(simulation)
        finally:
            simulation.remove()


@contextmanager
def _playing(timeline: Timeline | None) -> Iterator[None]:
    if timeline is None:
        yield
        return
    timeline.start()
    try:
        yield
    finally:
        timeline.stop()
        if timeline.error is not None:
            raise timeline.error


def _call(simulation: Simulation, command: Sequence[str]) -> int:
    """Runs the command; gives its exit code, as a shell would for one that a signal ended."""
    print(f"simulating {simulation.profile}: state file {simulation.path}", file=sys.stderr, flush=True)
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        # Ctrl-C reaches the command by itself; the devices must outlive it.
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    for number in ENDS:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(command, env={**os.environ, **simulation.environment()})  # noqa: S603 - the user's own
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(f"{command[0]}: {error.strerror}") from None
    code = child.wait()
    return code if code >= 0 else 128 - code


def _hold(simulation: Simulation) -> int:
    print(f"# {simulation.profile}: simulated devices, until Ctrl-C; state file {simulation.path}")
    for name, value in simulation.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    sys.stdout.flush()
    ended = threading.Event()
    for number in ENDS:
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    return 0


def _parser_of(parser: argparse.ArgumentParser) -> type[argparse.ArgumentParser]:
    """The parser's own class, with everything after `--` kept as the command."""
    base: Any = type(parser)

    class Splitting(base):  # type: ignore[misc]
        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            words, command = list(args), []
            if "--" in words and self.prog.endswith(" run"):
                at = words.index("--")
                words, command = words[:at], words[at + 1 :]
            namespace, rest = super().parse_known_args(words, namespace)
            namespace.command = command
            return namespace, rest

    return Splitting
