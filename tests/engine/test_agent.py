"""The agent from this tree beside a real server: its metrics against vLLM's own."""

import contextlib
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import wait_for
from serving import free_port, serving

AGENT = Path(__file__).resolve().parents[2] / ".venv/bin/eagle-eye"

pytestmark = pytest.mark.served


@contextlib.contextmanager
def agent(folder):
    """The port of its metrics."""
    port = free_port()
    command = [
        AGENT, "run", "--plain", "--listen", f"127.0.0.1:{port}", "--state-dir", folder / "state",
    ]  # fmt: skip
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: page(port), 60)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def page(port):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()
    return ""


def value(text, name, **labels):
    """The sum of a metric's series that have these labels; None where there is none."""
    found = []
    for line in text.splitlines():
        matched = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if matched:
            held = dict(re.findall(r'(\w+)="([^"]*)"', matched[1] or ""))
            if labels.items() <= held.items():
                found.append(float(matched[2]))
    return sum(found) if found else None


def test_the_agent_counts_what_vllm_counts(tmp_path):
    if not AGENT.exists():
        pytest.skip("the agent is not built: make build")
    with agent(tmp_path) as port, serving(tmp_path, name="watched") as server:
        for reader in server.readers:
            reader.close()  # the agent alone holds the leases
        wait_for(lambda: value(page(port), "eagle_eye_engine_up", model="watched"), 60)
        time.sleep(1)
        before = server.metrics()

        answers = server.complete_all([f"{n} seen by the agent" for n in range(50)], tokens=16)

        def told():
            text = page(port)
            return text if value(text, "eagle_eye_engine_end_to_end_seconds_count", model="watched") == 50 else None

        ours, theirs = wait_for(told, 30), server.metrics()
        watched = {"model": "watched"}
        for name, their_name in (
            ("time_to_first_token", "time_to_first_token"),
            ("inter_token", "inter_token_latency"),
            ("queue", "request_queue_time"),
        ):
            counted = value(theirs, f"vllm:{their_name}_seconds_count") - value(
                before, f"vllm:{their_name}_seconds_count"
            )
            assert value(ours, f"eagle_eye_engine_{name}_seconds_count", **watched) == counted, name
        finished = value(ours, "eagle_eye_engine_finished_total", reason="length", **watched)
        assert finished == 50
        hits = value(ours, "eagle_eye_engine_prefix_hit_tokens_total", **watched)
        prefill = value(ours, "eagle_eye_engine_tokens_total", kind="prefill", **watched)
        assert prefill == sum(prompt for prompt, _ in answers) - hits
        assert value(ours, "eagle_eye_engine_records_missed_total", **watched) in (0, None)
        assert value(ours, "eagle_eye_engine_requests_running", **watched) == 0
