"""Scenarios: what happens to a simulated machine, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import UsageError
from .catalog import load_yaml
from .laws import number
from .nearest import nearest
from .simulation import Simulation

STEP_KEYS = ("at", "device", "set", "fault", "over")
STEPS_MAX = 10_000


class Step(Struct, frozen=True):
    """At `at_s` after the start, `changes` of `device`, which may take `over_s` to get there."""

    at_s: float
    device: int | str
    changes: dict[str, Any]
    over_s: float


class Scenario(Struct, frozen=True):
    """Steps in the order of time; with `repeat_s` they begin again that long after their start."""

    steps: tuple[Step, ...]
    repeat_s: float = 0.0


def read_scenario(path: Path) -> Scenario:
    """A YAML file: `timeline`, a list of steps, and perhaps `repeat`.

    Raises UsageError naming the step that is wrong; whether a device takes a change shows when it is made.
    """
    content = load_yaml(path)
    for key in content:
        if key not in ("timeline", "repeat", "help"):
            raise UsageError(f"{path}: {key!r} is not known{nearest(str(key), ('timeline', 'repeat', 'help'))}")
    timeline = content.get("timeline")
    if not isinstance(timeline, list) or len(timeline) > STEPS_MAX:
        raise UsageError(f"{path}: timeline must be a list of at most {STEPS_MAX} steps")
    steps = [_step(f"{path}: step {place}", step) for place, step in enumerate(timeline, 1)]
    repeat_s = number(content.get("repeat", 0), f"{path}: repeat")
    last_s = max((step.at_s for step in steps), default=0.0)
    if not (repeat_s == 0 or last_s < repeat_s < 1e9):
        raise UsageError(f"{path}: repeat must come after the last step, at {last_s:g} s")
    return Scenario(tuple(sorted(steps, key=lambda step: step.at_s)), repeat_s)


def _step(where: str, step: object) -> Step:
    if not isinstance(step, dict):
        raise UsageError(f"{where} must be a mapping of {', '.join(STEP_KEYS)}")
    for key in step:
        if key not in STEP_KEYS:
            raise UsageError(f"{where}: {key!r} is not known{nearest(str(key), STEP_KEYS)}")
    if not isinstance(step.get("set", {}), dict) or not ("set" in step or "fault" in step):
        raise UsageError(f"{where}: give `set`, a mapping, or `fault`, a name, or both")
    fault = {"fault": step["fault"]} if "fault" in step else {}
    at_s, over_s = (_duration(where, step, key) for key in ("at", "over"))
    return Step(at_s, step.get("device", "all"), fault | step.get("set", {}), over_s)


def _duration(where: str, step: dict[str, Any], key: str) -> float:
    seconds = number(step.get(key, 0), f"{where}: {key}")
    if not 0 <= seconds < 1e9:
        raise UsageError(f"{where}: {key} must be a time from 0 on, such as 5s")
    return seconds


class Timeline:
    """Plays a scenario on a simulation in a thread; `error` is what stopped it."""

    def __init__(self, simulation: Simulation, scenario: Scenario) -> None:
        self.error: Exception | None = None
        self._simulation = simulation
        self._scenario = scenario
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="scenario", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _play(self) -> None:
        try:
            for pause_s, step in self._pauses():
                if self._stop.wait(pause_s):
                    return
                self._simulation.set(step.device, step.changes, over_s=step.over_s)
        except Exception as error:  # reported by whoever started the timeline
            self.error = error

    def _pauses(self) -> Iterator[tuple[float, Step]]:
        now_s = 0.0
        while True:
            for step in self._scenario.steps:
                yield step.at_s - now_s, step
                now_s = step.at_s
            if not self._scenario.repeat_s or not self._scenario.steps:
                return
            now_s -= self._scenario.repeat_s
