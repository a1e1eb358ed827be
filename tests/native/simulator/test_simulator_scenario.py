"""Scenario files, and the command that plays them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle_eye.__main__ import main
from eagle_eye.native.errors import UsageError
from eagle_eye.native.simulator import Timeline, read_scenario

COMMAND = [str(Path(sys.executable).parent / "eagle-eye"), "simulate"]
READ = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetTemperature(n.nvmlDeviceGetHandleByIndex({}), 0))"


@pytest.fixture
def scenario(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "scenario.yaml"
        path.write_text(text)
        return path

    return write


def test_a_scenario_happens_in_its_time(h100x8, begin, scenario):
    path = scenario("""
timeline:
  - {at: 300ms, device: 1, fault: heat, set: {power_watts: 90}}
  - {at: 0, set: {temperature_celsius: 40}}
""")
    lines = "for line in sys.stdin: tell([nvml.nvmlDeviceGetTemperature(gpu(n), 0) for n in (0, 1)])"
    timeline = Timeline(h100x8, read_scenario(path))
    with begin(h100x8, lines) as child:
        child.say()
        child.told()
        timeline.start()
        time.sleep(0.1)
        child.say()
        assert child.told() == [40, 40]
        time.sleep(0.4)
        child.say()
        assert child.told() == [40, 96]
        timeline.stop()
    assert timeline.error is None


def test_a_scenario_that_repeats_begins_again(h100x8, scenario):
    timeline = Timeline(
        h100x8, read_scenario(scenario("repeat: 20ms\ntimeline: [{at: 1ms, device: 0, set: {xid: 63}}]"))
    )
    timeline.start()
    time.sleep(0.5)
    timeline.stop()
    assert 10 <= h100x8._block.state.event_sequence <= 26


def test_what_a_device_does_not_take_stops_the_timeline_and_is_told(h100x8, scenario):
    timeline = Timeline(h100x8, read_scenario(scenario("timeline: [{device: 30, set: {lost: 1}}]")))
    timeline.start()
    time.sleep(0.2)
    timeline.stop()
    assert "'30' is not there" in str(timeline.error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timelin: []", "'timelin' is not known; did you mean timeline"),
        ("timeline: {}", "timeline must be a list"),
        ("timeline: [3]", "step 1 must be a mapping"),
        ("timeline: [{at: 1s}]", "step 1: give `set`, a mapping, or `fault`"),
        ("timeline: [{at: soon, fault: heat}]", "step 1: at: 'soon' is no number"),
        ("timeline: [{at: -1, fault: heat}]", "step 1: at must be a time"),
        ("timeline: [{fault: heat, devise: 1}]", "'devise' is not known; did you mean device"),
        ("repeat: 1s\ntimeline: [{at: 2s, fault: heat}]", "repeat must come after the last step"),
        ("[", "scenario.yaml: "),
        ("- 1", "must be a mapping"),
        ("timeline: !!python/object:os.system {}", "scenario.yaml: "),
    ],
)
def test_mistakes_in_a_scenario_are_named(scenario, text, told):
    with pytest.raises(UsageError, match=told):
        read_scenario(scenario(text))


def test_a_command_runs_on_the_devices_and_gives_its_exit_code():
    code = READ.format(0) + "\nimport sys; sys.exit(7)"
    done = subprocess.run([*COMMAND, "run", "h100x8", "--", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7
    assert 50 < int(done.stdout) < 70
    state = done.stderr.split()[-1]
    assert state.endswith("h100x8.state")
    assert not Path(state).exists()


def test_a_running_simulation_is_changed_from_outside_and_ends_in_order(tmp_path):
    state = tmp_path / "sim"
    with subprocess.Popen([*COMMAND, "run", "h100x8", "--state", state], stdout=subprocess.PIPE, text=True) as running:
        lines = [running.stdout.readline() for _ in range(3)]
        environment = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines[1:])
        assert main(["simulate", "set", str(state), "2", "temperature_celsius=33"]) == 0
        code = READ.format(2)
        reader = [sys.executable, "-c", code]
        assert subprocess.check_output(reader, env={**os.environ, **environment}, text=True) == "33\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    assert not state.exists()


def test_ctrl_c_ends_the_command_first(tmp_path):
    code = "import time\ntry: print('up', flush=True), time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(5)"
    command = [*COMMAND, "run", "h100x8", "--state", tmp_path / "sim", "--", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stdout.readline() == "up\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(10) == 5
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "h100"], 2, "no profile is called 'h100'; did you mean h100x8?"),
        (["run"], 2, "NAME"),
        ([], 2, "ACTION"),
        (["run", "h100x8", "--", "/no/such/command"], 2, "/no/such/command: No such file or directory"),
        (["run", "h100x8", "--scenario", "/no/such/file"], 1, "/no/such/file: No such file or directory"),
        (["set", "/no/such/file", "0", "lost=1"], 1, "/no/such/file: No such file or directory"),
        (["set", "/etc/passwd", "0", "lost=1"], 1, "/etc/passwd is no state file of a simulation"),
        (["set", "/etc/passwd", "0", "lost"], 2, "'lost' is no KEY=VALUE"),
    ],
)
def test_mistakes_on_the_command_line_are_named(words, code, told):
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_list_names_everything_that_can_be_set(capsys):
    assert main(["simulate", "list"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) < 81
    for word in ("h100x8", "a100-mig", "ascend910bx8", "heat", "power_watts", "crc_flit_errors", "call.power.delay"):
        assert word in told
