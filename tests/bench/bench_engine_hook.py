"""What the plugin for vLLM adds to a scheduler step of a real engine, beside vLLM's own loggers in the same steps.

The engine runs in its own environment under build/ (tests/engine/install.sh makes it, about 2 GB).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from harness import finish, table

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "tests/engine"
MEDIAN_BOUND_US, HOT_BOUND_US, SHARE_BOUND = 40.0, 10.0, 0.5


def measured() -> dict:
    subprocess.run([ENGINE / "install.sh"], check=True, stdout=sys.stderr)
    python = ROOT / "build/engine-venv/bin/python"
    done = subprocess.run([python, ENGINE / "measure_hook.py"], capture_output=True, text=True, cwd=ENGINE, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    found = measured()
    names = {
        "hook": "Eagle Eye's hook in the scheduler", "front": "Eagle Eye's stat logger",
        "prometheus": "vLLM's PrometheusStatLogger.record", "logging": "vLLM's LoggingStatLogger.record",
    }  # fmt: skip
    parts = found["in_engine"]
    rows = [
        [names[name], part["median_us"], part["mean_us"], part["p99_us"], part["steps"]]
        for name, part in sorted(parts.items(), key=lambda item: list(names).index(item[0]))
    ]
    table(
        f"CPU per step in a real engine, batch {found['batch']}", ["", "median µs", "mean µs", "p99 µs", "steps"], rows
    )
    table("The hook alone, hot caches", ["batch", "µs"], [[batch, took] for batch, took in found["hot_us"].items()])
    table("Nobody reads", ["", "µs"], [["per step", found["without_reader_us"]]])
    pairs = found["throughput"]
    table(
        "Requests per second, one after the other",
        ["pair", "with", "without", "ratio"],
        [[turn, row["with"], row["without"], row["with"] / row["without"]] for turn, row in enumerate(pairs, 1)],
    )
    share = parts["hook"]["median_us"] / parts["prometheus"]["median_us"]
    ratios = [row["with"] / row["without"] for row in pairs]
    finish(
        "engine_hook",
        {
            "hook_median_us": round(parts["hook"]["median_us"], 1),
            "hook_bound_us": MEDIAN_BOUND_US,
            "prometheus_median_us": round(parts["prometheus"]["median_us"], 1),
            "hook_share_of_prometheus": round(share, 2),
            "share_bound": SHARE_BOUND,
            "stat_logger_median_us": round(parts["front"]["median_us"], 1),
            "hot_batch_64_us": round(found["hot_us"]["64"], 1),
            "hot_bound_us": HOT_BOUND_US,
            "without_reader_us": round(found["without_reader_us"], 2),
            "throughput_ratio_median": round(statistics.median(ratios), 3),
            "throughput_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "errors": found["errors"],
        },
    )


if __name__ == "__main__":
    main()
