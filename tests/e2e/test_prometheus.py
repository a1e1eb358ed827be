"""A real Prometheus server scrapes the exporter over TLS with a password, and answers queries from it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from contextlib import contextmanager

import aiohttp
import bcrypt
import numpy as np
import pytest
import yaml

from eagle_eye.collector.exporter import Exporter
from eagle_eye.collector.own_health import build_info, probe_health
from eagle_eye.collector.self_cost import self_cost
from eagle_eye.collector.web import WebServer
from eagle_eye.probes.model import Health
from eagle_eye.probes.probe import Histogram, Metric, Sample, Series, Spec

PASSWORD = "correct horse"
WAITS = Metric("eagle_eye_test_wait_seconds", "histogram", "Waits.", ("cpu",))
SEEN = Metric("eagle_eye_test_seen_total", "counter", "Things seen.", ("kind",))
BOUNDS = tuple(1e-6 * 2.0**power for power in range(25))

for tool in ("prometheus", "promtool"):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: apt install prometheus", allow_module_level=True)


class Waits:
    """A probe's samples: in every bucket up to 1 ms the same number of waits, growing with each look."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(BOUNDS) + 1, dtype=np.uint64)

    def __call__(self) -> dict[str, Sample]:
        self.counts[:10] += np.uint64(100)
        waits = Histogram(BOUNDS, self.counts.copy(), float(self.counts.sum()) * 1e-4)
        return {"test": Sample([Series(WAITS, waits, ("0",)), Series(SEEN, 5, ('evil "kind"\n\\',))])}


def make_exporter() -> Exporter:
    health = [Health("test", "ok", last_success_ns=1, dropped={"ring_full": 3})]
    exporter = Exporter()
    exporter.add_probes([Spec("test", "A test.", lambda context: None, (WAITS, SEEN))], Waits(), lambda: health)
    exporter.add(probe_health(lambda: health))
    exporter.add(self_cost())
    exporter.add(build_info("1.2.3", "1.1"))
    return exporter


@pytest.fixture
async def server(authority, tmp_path):
    authority.issue("server")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(8)).decode()
    config = {
        "tls_server_config": {"cert_file": "server.crt", "key_file": "server.key", "min_version": "TLS13"},
        "basic_auth_users": {"prometheus": hashed},
    }
    (tmp_path / "web.yml").write_text(yaml.safe_dump(config))
    server = WebServer(make_exporter(), ("127.0.0.1", 0), web_config=tmp_path / "web.yml")
    await server.start()
    yield server
    await server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def prometheus(folder, target: str, authority_file, password: str = PASSWORD):
    """A Prometheus server that scrapes `target` each second; gives its URL."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "eagle_eye",
                "scheme": "https",
                "basic_auth": {"username": "prometheus", "password": password},
                "tls_config": {"ca_file": str(authority_file)},
                "static_configs": [{"targets": [target]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={listen}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://{listen}"
        finally:
            process.terminate()
            process.wait(10)


async def ask(url: str, path: str, **parameters: str) -> dict:
    async with aiohttp.ClientSession() as session, session.get(url + path, params=parameters) as response:
        return json.loads(await response.text())["data"]


async def query(url: str, expression: str) -> dict[str, float]:
    """Values by the first label that tells the series apart, "" without."""
    found = (await ask(url, "/api/v1/query", query=expression))["result"]
    skipped = ("__name__", "instance", "job")
    return {
        ",".join(value for label, value in one["metric"].items() if label not in skipped): float(one["value"][1])
        for one in found
    }


async def until_answered(url: str, expression: str, seconds: float = 30.0) -> dict[str, float]:
    async with asyncio.timeout(seconds):
        while True:
            try:
                if answer := await query(url, expression):
                    return answer
            except (aiohttp.ClientError, KeyError, ValueError):
                pass
            await asyncio.sleep(0.2)


async def test_prometheus_scrapes_over_tls_and_computes_quantiles(server, authority, tmp_path):
    with prometheus(tmp_path, server.url.removeprefix("https://"), authority.file) as url:
        quantile = "histogram_quantile(0.5, sum by (le) (rate(eagle_eye_test_wait_seconds_bucket[10s])))"
        answer = await until_answered(url, quantile)
        # Ten buckets hold the same number: the median is the upper bound of the fifth.
        assert answer[""] == pytest.approx(BOUNDS[4], rel=0.05)
        assert await query(url, "up") == {"": 1}
        assert await query(url, "eagle_eye_test_seen_total") == {'evil "kind"\ufffd\\': 5}
        assert await query(url, "eagle_eye_probe_up") == {"test": 1}
        assert await query(url, 'eagle_eye_probe_state{state="ok"} == 1') == {"test,ok": 1}
        assert await query(url, "eagle_eye_events_dropped_total") == {"test,ring_full": 3}
        assert (await query(url, "eagle_eye_self_resident_bytes"))["agent"] > 1e6
        assert await query(url, "eagle_eye_series_dropped_total") == {}
        kinds = await ask(url, "/api/v1/metadata")
        assert kinds["eagle_eye_test_wait_seconds"][0] == {"type": "histogram", "help": "Waits.", "unit": ""}
        (target,) = (await ask(url, "/api/v1/targets"))["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        await scrapes_go_on_with_a_new_certificate(server, authority, url)


async def scrapes_go_on_with_a_new_certificate(server, authority, url: str) -> None:
    authority.issue("server")
    async with asyncio.timeout(20):
        while not any(one.labels == ("loaded",) and one.value for one in server._series()):
            await asyncio.sleep(0.1)
    before = await query(url, "eagle_eye_test_wait_seconds_count")
    await asyncio.sleep(3)
    after = await query(url, "eagle_eye_test_wait_seconds_count")
    assert after["0"] > before["0"]
    assert await query(url, "min_over_time(up[20s])") == {"": 1}


async def test_prometheus_with_a_wrong_password_is_told_so(server, authority, tmp_path):
    with prometheus(tmp_path, server.url.removeprefix("https://"), authority.file, "wrong") as url:
        assert await until_answered(url, "up") == {"": 0}
        (target,) = (await ask(url, "/api/v1/targets"))["activeTargets"]
        assert "401 Unauthorized" in target["lastError"] or "429" in target["lastError"]


def test_promtool_is_content():
    exporter = make_exporter()
    page = exporter.render(exporter.gather())
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
