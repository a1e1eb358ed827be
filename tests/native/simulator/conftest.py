"""Simulations, and children whose loader finds the simulated libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from eagle_eye.native.simulator import Simulation

START = """
import ctypes, json, os, sys, time
import pynvml as nvml
gpu = nvml.nvmlDeviceGetHandleByIndex
def error(call, *arguments):
    try:
        call(*arguments)
    except nvml.NVMLError as caught:
        return caught.value
    return 0
def text(other):
    return other.decode() if isinstance(other, bytes) else str(other)
def tell(value):
    print(json.dumps(value, default=text), flush=True)
"""


class Child:
    """Python that speaks JSON, a line per `tell(value)`, and reads lines that `say` writes."""

    def __init__(self, process) -> None:
        self.process = process

    def told(self):
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def say(self, word: str = "") -> None:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@pytest.fixture
def begin():
    """`with begin(simulation, lines) as child`: unmodified pynvml on a simulation, in a process of its own."""

    @contextmanager
    def start(simulation, lines, *, init=True):
        environment = {**os.environ, **simulation.environment()}
        code = START + ("nvml.nvmlInit()\n" if init else "") + lines
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
            try:
                yield Child(process)
            finally:
                process.kill()

    return start


@pytest.fixture
def ask(begin):
    """`ask(simulation, lines)` is what the child told; it ended well."""

    def run(simulation, lines, *, init=True):
        with begin(simulation, lines, init=init) as child:
            answer = child.told()
            assert child.process.wait(30) == 0
            return answer

    return run


@pytest.fixture
def h100x8():
    with Simulation("h100x8") as simulation:
        yield simulation


@pytest.fixture
def a100_mig():
    with Simulation("a100-mig") as simulation:
        yield simulation
