"""What sampling eight simulated GPUs at 10 Hz costs, and what one hung device costs the other seven."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from harness import finish, table

from eagle_eye.collector.garbage import refuse_garbage
from eagle_eye.collector.self_cost import read_usage
from eagle_eye.collector.snapshot import Composer
from eagle_eye.native.simulator import Simulation
from eagle_eye.probes.devices import SPEC, DevicesProbe, build
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource

PROFILE = "h100x8"
RATE_S = 0.1
CALM_S, HUNG_S = 20.0, 30.0
HUNG = 3


def start() -> DevicesProbe:
    options = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
    events = EventSource("devices", node="bench", cluster="bench", boot_id="bench")
    return build(Context(paths=Paths(), options=options, events=events))


def cpu_seconds(pid: int) -> float:
    """To the nanosecond, from the scheduler."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Watch:
    """Rounds at RATE_S: what they cost this thread, and when each device was sampled."""

    def __init__(self, probe: DevicesProbe, seconds: float) -> None:
        self.events = []
        self.round_seconds: list[float] = []
        self.compose_seconds: list[float] = []
        self.taken: dict[str, list[int]] = {}
        self.ages: dict[str, list[float]] = {}
        composer = Composer(node="bench", cluster="bench", boot_id="bench")
        due = time.monotonic()
        for _ in range(int(seconds / RATE_S)):
            due += RATE_S
            time.sleep(max(0.0, due - time.monotonic()))
            before = time.thread_time()
            sample = probe.sample(time.monotonic_ns())
            after = time.thread_time()
            composer.compose(0, 0, [("devices", 1, refuse_garbage(SPEC, sample))], [])
            self.round_seconds.append(after - before)
            self.compose_seconds.append(time.thread_time() - after)
            self._note(sample)

    def _note(self, sample) -> None:
        self.events += sample.events
        now_ns = time.monotonic_ns()
        for uuid, at_ns in sample.taken_ns.items():
            self.taken.setdefault(uuid, []).append(at_ns)
            self.ages.setdefault(uuid, []).append((now_ns - at_ns) / 1e9)

    def intervals(self, without: str) -> np.ndarray:
        """Seconds between successive samples of each of the other devices."""
        gaps = [
            (after - before) / 1e9
            for uuid, at in self.taken.items()
            if uuid != without
            for before, after in pairwise(sorted(set(at)))
        ]
        return np.array(gaps)


def main() -> None:
    with Simulation(PROFILE) as simulation:
        os.environ.update(simulation.environment())
        probe = start()
        time.sleep(2)
        worker = next(seat.worker for seat in probe.workers._seats if seat.inventory)
        began, used = time.monotonic(), cpu_seconds(worker.pid)
        calm = Watch(probe, CALM_S)
        worker_ratio = (cpu_seconds(worker.pid) - used) / (time.monotonic() - began)
        resident = read_usage(Path("/proc"), worker.pid).resident_bytes
        hung_ns = time.monotonic_ns()
        simulation.set(HUNG, {"call.power.hang": 1})
        hung = Watch(probe, HUNG_S)
        uuid = next(device.uuid for device in probe.sample(0).devices if device.index == HUNG)
        probe.close()
    stuck = next(event for event in hung.events if event.kind == "device.call_stuck")
    report(calm, hung, uuid, worker_ratio, resident, (stuck.at_ns - hung_ns) / 1e9)


def report(calm: Watch, hung: Watch, uuid: str, worker_ratio: float, resident: int, event_s: float) -> None:
    def p99(values) -> float:
        return float(np.quantile(values, 0.99))

    metrics = {
        "worker_cpu_ratio": worker_ratio,
        "worker_resident_bytes": resident,
        "round_seconds": float(np.mean(calm.round_seconds)),
        "check_and_compose_seconds": float(np.mean(calm.compose_seconds)),
        "calm_interval_p99_seconds": p99(calm.intervals(uuid)),
        "hung_interval_p99_seconds": p99(hung.intervals(uuid)),
        "hung_interval_max_seconds": float(hung.intervals(uuid).max()),
        "hung_age_p99_seconds": p99(np.concatenate([ages for one, ages in hung.ages.items() if one != uuid])),
        "event_after_seconds": event_s,
    }
    rows = list(metrics.items())
    table(f"eight simulated GPUs at 10 Hz; one hung for {HUNG_S:g} s (deadline 1 s)", ("figure", "value"), rows)
    finish("devices", metrics)


if __name__ == "__main__":
    main()
