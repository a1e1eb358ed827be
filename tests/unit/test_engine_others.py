"""Engines without a plugin: SGLang's load files, and pages of metrics from a real HTTP server."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import UsageError
from eagle_eye.probes.engine import finder, pages
from eagle_eye.probes.engine.layout import RefusedError
from eagle_eye.probes.engine.metric_names import engines, readings
from eagle_eye.probes.engine.pages import Pages
from eagle_eye.probes.engine.sglang import LoadFile, state_of
from eagle_eye.probes.engines import SPEC
from eagle_eye.probes.model import EngineState
from eagle_eye.probes.paths import Paths

DUMPS = Path("../shared/data/metrics")
NAME = "sglang_loads_default_0011aabb.shm"
HOLD = "import os, sys, time; fd = os.open(sys.argv[1], os.O_RDWR); print('open', flush=True); time.sleep(60)"
VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="llama"} 3.0
vllm:num_requests_running{engine="1",model_name="llama"} 4.0
vllm:num_requests_waiting{engine="0",model_name="llama"} 9.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="llama",reason="capacity"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="llama",reason="deferred"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.5
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0
vllm:generation_tokens_total{engine="0",model_name="llama"} 12345.0
"""
OLD_VLLM = """\
vllm:num_requests_running{model_name="m"} 1
vllm:num_requests_waiting{model_name="m"} 2
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
"""
SGLANG = 'sglang:num_running_reqs{model_name="q",tp_rank="0"} 8\nsglang:num_queue_reqs{model_name="q",tp_rank="0"} 4\n'
TRTLLM = """\
trtllm_num_requests_running{model_name="t",engine_type="trtllm"} 5
trtllm_num_requests_waiting{model_name="t",engine_type="trtllm"} 1
trtllm_kv_cache_utilization{model_name="t",engine_type="trtllm"} 0.75
"""
TRITON = """\
nv_trt_llm_request_metrics{model="e",request_type="scheduled",version="1"} 2
nv_trt_llm_request_metrics{model="e",request_type="waiting",version="1"} 6
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="e",version="1"} 6239
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="e",version="1"} 64
"""
LMDEPLOY = """\
lmdeploy:num_requests_running{engine="2",model_name="i"} 1
lmdeploy:num_requests_waiting{engine="2",model_name="i"} 0
"""


def write_loads(path, *loads, ranks=1, slot_bytes=16384, version=2):
    data = bytearray(struct.pack("<4sHHI", b"SLNS", version, ranks, slot_bytes) + bytes(ranks * slot_bytes))
    for load in loads:
        payload = msgspec.msgpack.encode(load)
        offset = 12 + load.get("dp_rank", 0) * slot_bytes
        data[offset : offset + 4 + len(payload)] = struct.pack("<I", len(payload)) + payload
    path.write_bytes(data)


@pytest.fixture
def folder(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


BUSY = {"timestamp": time.time(), "num_running_reqs": 3, "num_waiting_reqs": 2, "max_total_num_tokens": 1000,
        "num_used_tokens": 250, "token_usage": 0.25, "max_running_requests": 64}  # fmt: skip


def test_loads_of_every_rank_are_read(tmp_path, folder):
    write_loads(tmp_path / NAME, BUSY, {"timestamp": 1.0, "dp_rank": 1}, ranks=3)
    file = LoadFile(NAME, folder)
    first, second = file.loads()
    file.close()

    assert (first.num_running_reqs, first.token_usage, second.dp_rank, second.num_running_reqs) == (3, 0.25, 1, 0)


def test_a_writer_that_holds_the_file_is_not_waited_for(tmp_path, folder):
    write_loads(tmp_path / NAME, BUSY)
    file = LoadFile(NAME, folder)
    with (tmp_path / NAME).open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert file.loads() is None
        fcntl.flock(writer, fcntl.LOCK_UN)
        assert len(file.loads()) == 1
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.close()


@pytest.mark.parametrize("change", [{"version": 3}, {"ranks": 65}, {"slot_bytes": 2}])
def test_what_is_no_load_file_is_refused(tmp_path, folder, change):
    write_loads(tmp_path / NAME, **change)
    with pytest.raises(RefusedError):
        LoadFile(NAME, folder)


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_hostile_bytes_in_a_load_file_do_no_harm(tmp_path_factory, noise, length):
    path = tmp_path_factory.mktemp("shm", numbered=True) / NAME
    write_loads(path, BUSY, slot_bytes=1024)
    data = bytearray(path.read_bytes())
    data[12:16] = struct.pack("<I", length if length % 2 else len(noise))
    data[16 : 16 + len(noise)] = noise
    path.write_bytes(data)
    fd = os.open(path.parent, os.O_RDONLY)
    file = LoadFile(NAME, fd)
    for load in file.loads():
        state = state_of(load, "x", time.monotonic_ns(), pid=1, alive=True)
        json.loads(msgspec.json.encode(state))
    file.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("load", "alive", "kind"),
    [
        ({"num_running_reqs": 1}, True, "step"),
        ({}, True, "idle"),
        ({"num_running_reqs": 1, "old": 60}, True, "unknown"),
        ({"old": 60}, True, "idle"),
        ({"old": 60}, None, "unknown"),
        ({}, False, "gone"),
        ({"timestamp": 0.0}, True, "unknown"),
    ],
)
def test_what_rests_is_idle_and_what_fell_silent_is_unknown(tmp_path, folder, load, alive, kind):
    age_s = load.pop("old", 0)
    write_loads(tmp_path / NAME, {"timestamp": time.time() - age_s, **load})
    file = LoadFile(NAME, folder)
    (found,) = file.loads()
    file.close()

    assert state_of(found, "x", time.monotonic_ns(), pid=0, alive=alive).kind == kind


@pytest.fixture
def probe(context, tmp_path, monkeypatch):
    monkeypatch.setattr(finder, "PERIOD_S", 0.02)
    (tmp_path / "dev/shm").mkdir(parents=True)
    made = []

    def make(**options):
        defaults = {o.name: None if o.default is None else o.parse(o.default, o.name) for o in SPEC.options}
        paths = Paths(dev=tmp_path / "dev")
        monkeypatch.setattr(finder.Namespaces, "representatives", lambda _: iter(()))
        made.append(SPEC.build(context("engines", paths, **defaults | options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def rounds(probe, condition, timeout_s=20.0):
    states, end = [], time.monotonic() + timeout_s
    while time.monotonic() < end:
        sample = probe.sample(time.monotonic_ns())
        states += sample.engines
        if condition(states, sample):
            return states, sample
        time.sleep(0.02)
    pytest.fail(f"not true in time: {states[-3:]} {sample.degraded}")


def test_sglang_is_told_until_its_process_dies(probe, tmp_path):
    path = tmp_path / "dev/shm" / NAME
    write_loads(path, {**BUSY, "timestamp": time.time()})
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        watched = probe()
        states, _ = rounds(watched, lambda states, _: states)
        assert (states[0].engine, states[0].source, states[0].pid) == ("sglang", "shm", holder.pid)
        assert (states[0].instance, states[0].running, states[0].waiting) == ("default_0011aabb:0", 3, 2)
        assert (states[0].kv_usage_ratio, states[0].kv_blocks_free, states[0].input_queue) == (0.25, 750, None)
        write_loads(path, {**BUSY, "timestamp": time.time(), "num_running_reqs": 9})
        rounds(watched, lambda states, _: any(state.running == 9 for state in states))
        holder.kill()
    states, _ = rounds(watched, lambda states, _: any(state.kind == "gone" for state in states))
    states += rounds(watched, lambda _, sample: not watched._others)[0]
    assert [state.kind for state in states].count("gone") == 1


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (OLD_VLLM, [("vllm", "m", 0, {"running": 1, "waiting": 2, "kv_usage_ratio": 0.25})]),
        (SGLANG, [("sglang", "q", 0, {"running": 8, "waiting": 4})]),
        (TRTLLM, [("tensorrt-llm", "t", 0, {"running": 5, "waiting": 1, "kv_usage_ratio": 0.75})]),
        (
            TRITON,
            [("tensorrt-llm", "e", 0, {"running": 2, "waiting": 6, "kv_blocks_total": 6239, "kv_block_tokens": 64})],
        ),
        (LMDEPLOY, [("lmdeploy", "i", 2, {"running": 1, "waiting": 0})]),
        ("node_load1 3\n", []),
        ("", []),
    ],
)  # fmt: skip
def test_pages_of_each_engine_are_understood(page, expected):
    assert [(one.engine, one.model, one.dp_rank, one.values) for one in readings(page)] == expected


def test_ranks_are_told_apart_and_info_finds_its_rank():
    first, second = readings(VLLM)

    assert (first.values["running"], second.values["running"]) == (3, 4)
    assert (first.values["waiting"], first.values["deferred"]) == (7, 2)
    assert (first.values["kv_blocks_total"], first.values["kv_block_tokens"]) == (1000, 16)
    assert "waiting" not in second.values


@pytest.mark.skipif(not DUMPS.exists(), reason="the dumps of real engines are not here")
def test_a_real_page_of_vllm():
    (found,) = readings((DUMPS / "vllm.prom").read_text())

    assert (found.engine, found.model, found.values["running"], found.values["kv_block_tokens"]) == (
        "vllm",
        "tiny",
        0,
        128,
    )
    assert (found.values["prefill_tokens_total"], found.values["decode_tokens_total"]) == (12628, 25864)
    assert readings((DUMPS / "ray.prom").read_text()) == []


@given(st.text(max_size=400) | st.text('vllm:num_requests_running{}="\\,# 0123.eE+-NaInf\n', max_size=200))
def test_no_page_is_an_error(text):
    for reading in readings("vllm:num_requests_running" + text + "\n" + text):
        assert all(0 <= value < 2**62 for value in reading.values.values())


def test_the_table_names_fields_that_there_are():
    fields = set(EngineState.__struct_fields__)

    assert {field for engine in engines() for field in engine.fields} <= fields


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.answer(self)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """`serve(answer)` starts an HTTP server; gives its address. `answer(handler)` writes the response."""
    made = []

    def start(answer):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        server.daemon_threads = True
        server.answer = answer
        made.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/metrics"

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def say(text, status=200, **headers):
    def answer(handler):
        body = text if isinstance(text, bytes) else text.encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"#")
        handler.wfile.flush()
        time.sleep(0.05)


def flood(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"# filler\n" * 10_000)


def test_a_page_becomes_states_and_metrics(probe, serve):
    url = serve(say(VLLM))
    watched = probe(metrics_urls=url)
    states, _ = rounds(watched, lambda states, _: len(states) >= 2)
    where = url.removeprefix("http://").removesuffix("/metrics")

    assert {(s.instance, s.source, s.kind, s.running) for s in states} == {
        (f"{where}:0", "metrics", "step", 3),
        (f"{where}:1", "metrics", "step", 4),
    }
    rounds(
        watched, lambda _, sample: any(one.metric.name == "eagle_eye_engine_kv_usage_ratio" for one in sample.series)
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (say("no", 500), "status 500"),
        (say("", 302, Location="http://127.0.0.1:1/"), "status 302"),
        (say("<html>"), "none of the metrics"),
        (drip, "TimeoutError"),
        (flood, "more than"),
        (say(gzip.compress(b"#" * (20 << 20)), Content_Encoding="gzip"), "more than"),
    ],
    ids=["refuses", "redirects", "other", "drips", "floods", "bomb"],
)
def test_a_bad_page_is_told_and_holds_nobody_up(probe, serve, monkeypatch, answer, words):
    monkeypatch.setattr(pages, "DEADLINE_S", 1.0)
    watched = probe(metrics_urls=f"{serve(answer)},{serve(say(OLD_VLLM))}")
    states, sample = rounds(watched, lambda states, sample: states and words in sample.degraded)

    assert states[0].running == 1
    assert sample.degraded.startswith("http://127.0.0.1:")


def test_a_page_that_ends_makes_its_engine_unknown(serve, monkeypatch):
    monkeypatch.setattr(pages, "DEADLINE_S", 0.2)
    news, answers = threading.Event(), [say(OLD_VLLM)]
    followed = Pages([serve(lambda handler: answers[0](handler))], 100_000_000, news.set)
    try:
        assert news.wait(10)
        answers[0] = say("", 500)
        end = time.monotonic() + 20
        while (kinds := {s.kind for s in followed.pages[0].states(time.monotonic_ns(), 100_000_000)}) != {"unknown"}:
            assert time.monotonic() < end, kinds
            time.sleep(0.05)
    finally:
        followed.close()


@pytest.mark.parametrize("urls", ["ftp://x/metrics", "x", ",".join(["http://x"] * 65)])
def test_addresses_that_cannot_be_are_refused(probe, urls):
    with pytest.raises(UsageError, match="metrics_urls"):
        probe(metrics_urls=urls)
