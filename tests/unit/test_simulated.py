"""`--simulate`: devices for the processes that the agent starts, and only when asked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import structlog

from eagle_eye.__main__ import main
from eagle_eye.collector.config import load
from eagle_eye.collector.simulated import simulated_devices, tell_simulation
from eagle_eye.native.errors import UsageError

NAME = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByIndex(7)))"
VARIABLES = ("LD_LIBRARY_PATH", "EAGLE_EYE_SIMULATION")


def test_children_find_the_devices_and_the_environment_is_as_before_afterwards():
    before = dict(os.environ)
    with simulated_devices(load((), {"simulate": "h100x8"}, {})):
        told = subprocess.check_output([sys.executable, "-c", NAME], text=True)
        state = os.environ["EAGLE_EYE_SIMULATION"]
    assert told == "NVIDIA H100 80GB HBM3 (simulated)\n"
    assert not os.path.exists(state)
    assert dict(os.environ) == before


def test_where_the_devices_can_be_changed_is_told():
    settings = load((), {"simulate": "h100x8"}, {})
    with simulated_devices(settings), structlog.testing.capture_logs() as lines:
        tell_simulation(settings)
        change = main(["simulate", "set", lines[0]["state_file"], "3", "power_watts=400"])
    assert (len(lines), lines[0]["profile"], change) == (1, "h100x8", 0)


def test_nothing_is_simulated_unless_asked():
    before = dict(os.environ)
    with simulated_devices(load((), {}, {})), structlog.testing.capture_logs() as lines:
        tell_simulation(load((), {}, {}))
        assert dict(os.environ) == before
    assert lines == []


def test_an_unknown_profile_is_named_with_what_it_may_have_been():
    with pytest.raises(UsageError, match="no profile is called 'h100x4'; did you mean h100x8"):
        simulated_devices(load((), {"simulate": "h100x4"}, {})).__enter__()


def test_the_simulation_of_a_parent_is_no_unknown_setting():
    assert load((), {}, {"EAGLE_EYE_SIMULATION": "/tmp/state"}).simulate is None


@pytest.mark.parametrize("command", ["agent --nats nats://127.0.0.1:1", "run", "check"])
def test_commands_refuse_an_unknown_profile(command, capfd, tmp_path):
    code = main([*command.split(), "--simulate", "h100", "--state-dir", str(tmp_path)])
    assert code == 2
    assert "no profile is called 'h100'; did you mean h100x8?" in capfd.readouterr().err


def test_an_engine_can_be_simulated_beside_the_devices(tmp_path):
    with simulated_devices(load((), {"simulate": "h100x8+vllm"}, {})):
        assert "EAGLE_EYE_SIMULATION" in os.environ
        children = subprocess.check_output(["ps", "-o", "args=", "--ppid", str(os.getpid())], text=True)
        assert "eagle_eye simulate engine vllm" in children
    children = subprocess.check_output(["ps", "-o", "args=", "--ppid", str(os.getpid())], text=True)
    assert "simulate engine" not in children
