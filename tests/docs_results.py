"""The README's tables of measurements, from the files that `make bench` and `make test-kernels` leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent


def results(bench: str) -> dict[str, Any]:
    return dict(json.loads((TESTS / f"bench/results/{bench}.json").read_text()))


def cost_table() -> str:
    rows = [*drain_rows(), *sched_rows(), *tasks_rows(), *agent_rows(), *publish_rows(), *device_rows(), *decode_rows()]
    rows += [*faults_rows(), *recorder_rows(), *routing_rows()]
    head = "| What | Eagle Eye | Peers, in the same run |\n|---|---|---|"
    return "\n".join([head, *(f"| {what} | {ours} | {peers} |" for what, ours, peers in rows)])


def machine_line() -> str:
    machine = results("agent")["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"


def drain_rows() -> list[tuple[str, str, str]]:
    one = results("drain")["metrics"]
    millions = {name: f"{one[name] / 1e6:.3g} M/s" for name in one if name.endswith("callback_records_per_second")}
    return [
        (
            "ring records of 32 bytes into numpy, one core",
            f"{one['drain_records_per_second'] / 1e6:.0f} M/s",
            f"C callback of libbpf {millions['libbpf_callback_records_per_second']}, "
            f"BCC's Python callback {millions['bcc_callback_records_per_second']}",
        ),
        (
            f"CPU at a steady {one['steady_records_per_second'] / 1e3:.0f} k records/s",
            f"{100 * one['steady_cpu_ratio']:.2f} % of a core",
            f"BCC {100 * one['bcc_steady_cpu_ratio']:.1f} %",
        ),
    ]


def sched_rows() -> list[tuple[str, str, str]]:
    one = results("sched")["metrics"]
    return [
        (
            "`sched`, added to a context switch",
            f"{one['task_storage_added_ns']:.0f} ns; without task storage {one['hash_added_ns']:.0f} ns",
            f"`runqlat` of libbpf-tools {one['runqlat_libbpf_tools_added_ns']:.0f} ns, "
            f"of bcc {one['runqlat_bcc_added_ns']:.0f} ns",
        )
    ]


def tasks_rows() -> list[tuple[str, str, str]]:
    one = results("tasks")["metrics"]
    return [
        (
            f"`tasks`, a sweep over {int(count):,} threads, per task",
            f"{one[f'probe_{count}_ns_per_task'] / 1e3:.2f} µs",
            f"/proc read in C {one[f'proc_c_{count}_ns_per_task'] / 1e3:.1f} µs, "
            f"in Python {one[f'proc_python_{count}_ns_per_task'] / 1e3:.0f} µs",
        )
        for count in ("2000", "10000")
    ]


def agent_rows() -> list[tuple[str, str, str]]:
    one = results("agent")["metrics"]
    peer = one.get("node_exporter_scraped_every_500_ms")
    beside = f"node_exporter scraped as often {usage(peer)}" if peer else "-"
    return [
        ("the whole agent at rest, snapshots every 500 ms", usage(one["agent_500_ms"]), beside),
        ("the same every 100 ms", usage(one["agent_100_ms"]), "-"),
    ]


def usage(one: dict[str, float]) -> str:
    return f"{100 * one['cpu_ratio']:.2f} % of a core, {one['resident_bytes'] / 1e6:.0f} MB"


def publish_rows() -> list[tuple[str, str, str]]:
    one = results("publish")["metrics"]
    ours, peer = one["event_latency"], one["nats_py_latency"]
    return [
        (
            "an event, from the probe to a subscriber of JetStream's subject",
            f"median {ours['p50_ms']:.2f} ms, p99 {ours['p99_ms']:.1f} ms",
            f"bare nats-py median {peer['p50_ms']:.2f} ms, p99 {peer['p99_ms']:.1f} ms",
        )
    ]


def decode_rows() -> list[tuple[str, str, str]]:
    one = results("decode")["metrics"]
    rates, found = one["lines_per_second"], one["found_ratio"]
    peers = ("gpud", "NVSentinel", "node-problem-detector")

    def row(what: str, log: str, ours: str, known: dict[str, str]) -> tuple[str, str, str]:
        thousands = {who: f"{rate / 1e3:,.0f} k/s" for who, rate in rates[log].items()}
        theirs = ", ".join(f"{peer} {thousands[peer]}{known.get(peer, '')}" for peer in peers)
        return f"kernel-log lines, {what}, one core", thousands["eagle_eye"] + ours, f"regular expressions of {theirs}"

    known = {peer: f" ({100 * found[peer]:.0f} % known)" for peer in peers}
    return [
        row("ordinary ones", "ordinary lines", "", {}),
        row("faults", "faults of all families", ", all fields read", known),
    ]


def faults_rows() -> list[tuple[str, str, str]]:
    if not (TESTS / "bench/results/faults.json").exists():
        return []  # not measured on a quiet machine yet
    one = results("faults")["metrics"]
    rest, flood = one["at_rest"], one["in_flood"]
    return [
        (
            what,
            f"median {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.0f} ms; {found['heard']} of {found['written']}",
            "-",
        )
        for what, found in (
            ("a fault, from its line in the kernel log to its incident at a subscriber", rest),
            (f"the same in a flood of {flood['flood_lines_per_second']:,} other lines a second", flood),
        )
    ]


def recorder_rows() -> list[tuple[str, str, str]]:
    if not (TESTS / "bench/results/recorder.json").exists():
        return []  # not measured on a quiet machine yet
    found = {load: one for load, one in results("recorder")["metrics"].items() if isinstance(one, dict)}

    def costs(one: dict[str, float]) -> str:
        return f"{100 * one['cpu_ratio']:.2f} % of a core, {one['bytes_per_hour'] / 1e6:,.0f} MB an hour"

    return [
        (
            f"the black box, {load.replace('_', ' ')}: 2 snapshots/s of {one['snapshot_bytes'] / 1000:.0f} kB",
            costs(one["recorder"]),
            f"JSON lines {costs(one['json_lines'])}; rows in SQLite {costs(one['plain_sqlite'])}",
        )
        for load, one in found.items()
    ]


def routing_rows() -> list[tuple[str, str, str]]:
    if not (TESTS / "bench/results/routing.json").exists():
        return []  # not measured on a quiet machine yet
    found = results("routing")["metrics"]
    steady, blind, fleet = found["steady"], found["blind"], found["fleet"]

    def ms(value: float) -> str:
        return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"

    def times(one: dict[str, float]) -> str:
        return f"median {ms(one['p50_ms'])}, p99 {ms(one['p99_ms'])}"

    def seen(what: str) -> str:
        return f"{sum(blind[what])} of {sum(blind['queue_at_the_end'])} requests"

    return [
        (
            "an engine's step, from its end to a router's callback",
            times(steady["feed"]),
            f"bare nats-py {times(steady['nats_py'])}; a page read every 50 ms {times(steady['scraper_50_ms'])}",
        ),
        (
            "a step of 2 s: what a router knows of the queue behind it, and its greatest age",
            f"{seen('queue_as_the_router_saw_it')}, {ms(blind['feed']['max_ms'])}",
            f"a page read every 50 ms: {seen('queue_as_the_scraper_saw_it')}, {ms(blind['scraper_50_ms']['max_ms'])}",
        ),
        (
            f"1,000 engines, {fleet['messages_per_second']:,} messages a second into one router's table",
            f"age {times(fleet['arrival_age'])}; {fleet['lost']} lost; "
            f"{fleet['router_cpu_us_per_message']:.0f} µs of CPU each",
            "-",
        ),
    ]


def device_rows() -> list[tuple[str, str, str]]:
    one, hung = results("nvml")["metrics"], results("devices")["metrics"]
    return [
        (
            f"8 simulated GPUs, {one['values']} values every 100 ms through NVML",
            f"{100 * one['cpu_ratio']:.2f} % of a core",
            f"pynvml one by one {100 * one['pynvml_one_by_one_cpu_ratio']:.1f} %, "
            f"in batches {100 * one['pynvml_batched_cpu_ratio']:.1f} %",
        ),
        (
            "a driver call that hangs on one of them, deadline 1 s",
            f"told after {hung['event_after_seconds']:.2f} s; p99 of the snapshot interval "
            f"{1e3 * hung['calm_interval_p99_seconds']:.0f} ms before, "
            f"{1e3 * hung['hung_interval_p99_seconds']:.0f} ms meanwhile",
            "-",
        ),
    ]


def kernels_table() -> str:
    import sys

    sys.path.insert(0, str(TESTS / "kernels"))
    from table import markdown

    return str(markdown(json.loads((TESTS / "kernels/results.json").read_text())))
