"""Routing messages from a real server to a real nats-server, without an agent."""

import json
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import wait_for
from serving import free_port, serving

NATS = Path(__file__).resolve().parents[2] / ".venv/bin/nats-server"

pytestmark = pytest.mark.served


class Subscriber:
    """Everything on one subject, parsed."""

    def __init__(self, port, subject):
        self.heard = []
        self._line = socket.create_connection(("127.0.0.1", port), 10)
        self._line.settimeout(None)
        self._line.sendall(f'CONNECT {{"verbose":false}}\r\nSUB {subject} 1\r\n'.encode())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with self._line.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"MSG"):
                    self.heard.append(json.loads(lines.read(int(line.split()[-1]))))
                elif line.startswith(b"PING"):
                    self._line.sendall(b"PONG\r\n")


@pytest.fixture
def nats():
    """The port of a server."""
    if not NATS.exists():
        pytest.skip("no nats-server: make build")
    port = free_port()
    process = subprocess.Popen([NATS, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(10)


def up(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_router_hears_of_load_and_of_its_end(nats, tmp_path):
    wait_for(lambda: up(nats), 30)
    router = Subscriber(nats, "eagle_eye.routing_metrics")
    environment = {"EAGLE_EYE_NATS_URL": f"nats://127.0.0.1:{nats}", "EAGLE_EYE_NODE": "here"}
    with serving(tmp_path, environment=environment) as server:
        server.complete_all([f"{n} routed" for n in range(40)], tokens=32, at_once=40)
        wait_for(lambda: router.heard and router.heard[-1]["kind"] == "idle", 30)
        heard = list(router.heard)

    steps = [message for message in heard if message["kind"] == "step"]
    assert max(message["running"] for message in steps) > 1
    assert sum(1 + message["coalesced"] for message in steps) == heard[-1]["steps_total"]
    assert heard[-1]["decode_tokens_total"] == 40 * 32
    assert (heard[-1]["running"], heard[-1]["waiting"]) == (0, 0)
    assert {(message["node"], message["model"], message["source"]) for message in heard} == {("here", "tiny", "plugin")}
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    assert "routed" not in str(heard)
