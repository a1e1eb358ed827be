"""The agent's own cost, checked against psutil and on a process that ends."""

from __future__ import annotations

import os
import subprocess
import time

import psutil
import pytest

from eagle_eye.collector.exporter import Exporter
from eagle_eye.collector.self_cost import read_usage, self_cost
from eagle_eye.probes.paths import Paths


def values(source) -> dict[tuple[str, str], float]:
    return {(one.metric.name.removeprefix("eagle_eye_self_"), *one.labels): one.value for one in source.collect()}


def test_the_figures_are_those_of_psutil():
    me = psutil.Process()
    usage = read_usage(Paths().proc, os.getpid())
    times = me.cpu_times()
    assert usage.cpu_seconds == pytest.approx(times.user + times.system, abs=0.05)
    assert usage.resident_bytes == pytest.approx(me.memory_info().rss, rel=0.05)
    assert usage.threads == me.num_threads()
    assert usage.open_fds == pytest.approx(me.num_fds(), abs=1)


def test_burnt_cpu_time_is_counted():
    source = self_cost()
    before = values(source)["cpu_seconds_total", "agent"]
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert values(source)["cpu_seconds_total", "agent"] - before == pytest.approx(0.2, abs=0.05)


def test_the_start_time_is_that_of_the_process():
    assert values(self_cost())["start_time_seconds", "agent"] == pytest.approx(psutil.Process().create_time(), abs=1.1)


def test_a_helper_is_told_apart_and_may_be_gone():
    with subprocess.Popen(["sleep", "60"]) as helper:
        source = self_cost(helpers=lambda: {"nats_server": helper.pid})
        assert values(source)["threads", "nats_server"] == 1
        helper.kill()
        helper.wait()
        after = values(source)
    assert ("threads", "nats_server") not in after
    assert after["resident_bytes", "agent"] > 1e6


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields(tmp_path):
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 4, "3", "0", "1000", "0", "25", *["0"] * 20]
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "0").touch()
    (tmp_path / "7" / "stat").write_text(f"7 (a) b) c 9) {' '.join(fields)}\n")
    usage = read_usage(tmp_path, 7)
    tick = os.sysconf("SC_CLK_TCK")
    assert usage.cpu_seconds == 200 / tick
    assert usage.threads == 3
    assert usage.resident_bytes == 25 * os.sysconf("SC_PAGE_SIZE")
    assert usage.open_fds == 1
    assert usage.started_seconds == 1000 / tick


def test_without_proc_there_are_no_figures_and_no_error(tmp_path):
    exporter = Exporter()
    exporter.add(self_cost(tmp_path))
    assert b"# TYPE eagle_eye_self_cpu_seconds_total counter" in exporter.render(exporter.gather())
    assert not list(exporter._drops())
