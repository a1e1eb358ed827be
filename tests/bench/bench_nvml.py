"""What it costs to sample 8 simulated GPUs at 10 Hz, in all hot groups, beside pynvml.

Each way runs in a process of its own, one after the other; CPU time is that of the whole process while it samples,
waking up included, in the best of a few turns: on a virtual machine it holds time that the host took away.
pynvml is asked the same values: one by one, and with one nvmlDeviceGetFieldValues for each device, the best that
its caller can do.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pynvml

from eagle_eye.native.device import Board, group_mask
from eagle_eye.native.nvml import HOT_GROUPS, Nvml
from eagle_eye.native.simulator import LIBRARIES, Simulation

PROFILE, RATE_HZ, SECONDS, TURNS = "h100x8", 10, 5.0, 4
LIBRARY = LIBRARIES / "libnvidia-ml.so.1"
CPU_LIMIT_RATIO, FACTOR_LIMIT = 0.005, 5

FIELDS = (82, 186, 185, 83, *range(74, 80), 269, 270, 271, 197, 198, 94, 3, 4, 5, 6)
LINK_FIELDS = (165, 138, 139, 163, 161, 162)
LINK_ERRORS = (3, 4)
VALUES_OF_OTHER_CALLS = 17


def ours() -> tuple[Callable[[], None], int]:
    """One round, and how many values it reads."""
    board, nvml, groups = Board.create(), Nvml(LIBRARY), group_mask(HOT_GROUPS)
    nvml.init()
    for slot in range(nvml.count()):
        nvml.watch_index(slot, slot)
    nvml.sample(board, groups)
    nvml.sample(board, groups)
    samples = board.read(nvml.count())
    values = int((samples["status"] == 0).sum() + (samples["link_status"] == 0).sum())
    return lambda: nvml.sample(board, groups) and None, values


def handles() -> list[Any]:
    pynvml.nvmlLib = ctypes.CDLL(str(LIBRARY))
    pynvml.nvmlInit()
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]


def other_calls(gpu: Any) -> None:
    """Values that have no field."""
    pynvml.nvmlDeviceGetUtilizationRates(gpu)
    pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    pynvml.nvmlDeviceGetEncoderUtilization(gpu)
    pynvml.nvmlDeviceGetDecoderUtilization(gpu)
    pynvml.nvmlDeviceGetJpgUtilization(gpu)
    pynvml.nvmlDeviceGetOfaUtilization(gpu)
    pynvml.nvmlDeviceGetTemperature(gpu, 0)
    for domain in range(4):
        pynvml.nvmlDeviceGetClockInfo(gpu, domain)
    pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    pynvml.nvmlDeviceGetPerformanceState(gpu)


def link_errors(gpu: Any, links: int) -> None:
    for link in range(links):
        for kind in LINK_ERRORS:
            pynvml.nvmlDeviceGetNvLinkErrorCounter(gpu, link, kind)


def links_of(gpu: Any) -> int:
    return int(pynvml.nvmlDeviceGetFieldValues(gpu, [91])[0].value.uiVal)


def wanted(links: int) -> list[int | tuple[int, int]]:
    return [*FIELDS, *((field, link) for link in range(links) for field in LINK_FIELDS)]


def theirs(batched: bool) -> tuple[Callable[[], None], int]:
    gpus = [(gpu, links_of(gpu)) for gpu in handles()]

    def one_round() -> None:
        for gpu, links in gpus:
            other_calls(gpu)
            link_errors(gpu, links)
            if batched:
                pynvml.nvmlDeviceGetFieldValues(gpu, wanted(links))
            else:
                for field in wanted(links):
                    pynvml.nvmlDeviceGetFieldValues(gpu, [field])

    per_gpu = [VALUES_OF_OTHER_CALLS + links * len(LINK_ERRORS) + len(wanted(links)) for _, links in gpus]
    return one_round, sum(per_gpu)


WAYS: dict[str, Callable[[], tuple[Callable[[], None], int]]] = {
    "eagle-eye": ours,
    "pynvml, one by one": lambda: theirs(batched=False),
    "pynvml, batched": lambda: theirs(batched=True),
    "nothing but the clock": lambda: (lambda: None, 0),
}


def measure(way: str) -> dict[str, float]:
    """In this process: CPU time of SECONDS at RATE_HZ, and the median wall time of a round."""
    one_round, values = WAYS[way]()
    one_round()
    took_ns, start, cpu = [], time.monotonic(), time.process_time()
    for beat in range(1, int(SECONDS * RATE_HZ) + 1):
        before = time.perf_counter_ns()
        one_round()
        took_ns.append(time.perf_counter_ns() - before)
        time.sleep(max(0.0, start + beat / RATE_HZ - time.monotonic()))
    cpu, wall = time.process_time() - cpu, time.monotonic() - start
    return {"values": values, "cpu_ratio": cpu / wall, "round_us": sorted(took_ns)[len(took_ns) // 2] / 1e3}


def in_a_process(way: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def groups(environment: dict[str, str]) -> dict[str, float]:
    """Mean microseconds that a device's calls of each group take."""
    code = """
import json
from bench_nvml import *
board, nvml = Board.create(), Nvml(LIBRARY)
nvml.init()
for slot in range(nvml.count()):
    nvml.watch_index(slot, slot)
for _ in range(500):
    nvml.sample(board, group_mask(HOT_GROUPS))
times = {name: board.call_times(name) for name in HOT_GROUPS}
print(json.dumps({name: one.sum_ns / one.calls / 1e3 for name, one in times.items()}))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    import os
    from pathlib import Path

    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with Simulation(PROFILE) as simulation:
        environment = {**os.environ, **simulation.environment(), "PYTHONPATH": str(Path(__file__).parent)}
        for _ in range(TURNS):
            for way in WAYS:
                found[way].append(in_a_process(way, environment))
        by_group = groups(environment)
    report({way: min(runs, key=lambda run: run["cpu_ratio"]) for way, runs in found.items()}, by_group)


def report(found: dict[str, dict[str, float]], by_group: dict[str, float]) -> None:
    from harness import finish, table

    mine, one_by_one, batched = (found[way] for way in list(WAYS)[:3])
    assert mine["values"] == one_by_one["values"] == batched["values"], found
    table(
        f"8 GPUs, all hot groups, {RATE_HZ} times a second ({mine['values']} values a round)",
        ("way", "CPU % of a core", "us a round", "times ours"),
        [
            (way, 100 * one["cpu_ratio"], one["round_us"], one["cpu_ratio"] / mine["cpu_ratio"])
            for way, one in found.items()
        ],
    )
    table("A device's calls by group", ("group", "us"), list(by_group.items()))
    finish(
        "nvml",
        {
            "values": mine["values"],
            "cpu_ratio": round(mine["cpu_ratio"], 6),
            "round_us": round(mine["round_us"], 1),
            "pynvml_one_by_one_cpu_ratio": round(one_by_one["cpu_ratio"], 6),
            "pynvml_one_by_one_round_us": round(one_by_one["round_us"], 1),
            "pynvml_batched_cpu_ratio": round(batched["cpu_ratio"], 6),
            "pynvml_batched_round_us": round(batched["round_us"], 1),
            "pynvml_one_by_one_over_ours": round(one_by_one["cpu_ratio"] / mine["cpu_ratio"], 1),
            "pynvml_batched_over_ours": round(batched["cpu_ratio"] / mine["cpu_ratio"], 1),
            "bounds_kept": mine["cpu_ratio"] <= CPU_LIMIT_RATIO
            and one_by_one["cpu_ratio"] >= FACTOR_LIMIT * mine["cpu_ratio"],
            "idle_loop_cpu_ratio": round(found["nothing but the clock"]["cpu_ratio"], 6),
            "group_us": {name: round(us, 2) for name, us in by_group.items()},
        },
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
