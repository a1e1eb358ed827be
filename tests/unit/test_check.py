"""What `check` says is true: each probe is really tried, and no probe can spoil the others' answer."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from eagle_eye.collector.commands.check import exit_code, missing_needs, row_of
from eagle_eye.collector.config import load
from eagle_eye.collector.trial import try_probes
from eagle_eye.native.errors import BpfLoadError, UnavailableError
from eagle_eye.probes.needs import NEEDS
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Sample, Spec
from eagle_eye.probes.registry import PROBES

NO_BPF = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"]


class Trivial:
    def __init__(self, sample=Sample(), closed=None):
        self._sample = sample
        self._closed = closed

    def sample(self, now_ns):
        if isinstance(self._sample, Exception):
            raise self._sample
        return self._sample

    def wake_fds(self):
        return ()

    def close(self):
        if self._closed is not None:
            self._closed.append(True)


def spec(name, build):
    return Spec(name=name, help="Help.", build=build, metrics=(), cost="nothing")


def fails(error):
    def build(context):
        raise error

    return build


def tried(*specs, flags=None, deadline_s=5.0):
    settings = load(specs, flags or {}, {})
    trials = try_probes(settings, specs, deadline_s)
    return settings, {trial.spec.name: trial for trial in trials}


def test_every_way_to_end_has_its_own_state():
    release = threading.Event()
    _, trials = tried(
        spec("works", lambda context: Trivial()),
        spec("half", lambda context: Trivial(Sample(degraded="no names"))),
        spec("lacking", fails(UnavailableError("this process lacks CAP_BPF", remedy="sudo"))),
        spec("refused", fails(BpfLoadError("the verifier says no", errno=13))),
        spec("broken", fails(ZeroDivisionError("oops"))),
        spec("dies", lambda context: Trivial(ValueError("at the first round"))),
        spec("garbage", lambda context: Trivial("no sample")),
        spec("hangs", lambda context: release.wait(30)),
        deadline_s=0.3,
    )
    release.set()

    assert {name: trial.state for name, trial in trials.items()} == {
        "works": "ok",
        "half": "degraded",
        "lacking": "unavailable",
        "refused": "failing",
        "broken": "failing",
        "dies": "failing",
        "garbage": "failing",
        "hangs": "hung",
    }
    assert (trials["lacking"].reason, trials["lacking"].remedy) == ("this process lacks CAP_BPF", "sudo")
    assert trials["half"].reason == "no names"
    assert trials["broken"].reason == "ZeroDivisionError: oops"
    assert "0.3 s" in trials["hangs"].reason


def test_a_probe_is_closed_whatever_its_round_did():
    closed = []
    tried(
        spec("works", lambda context: Trivial(closed=closed)),
        spec("dies", lambda context: Trivial(ValueError(), closed)),
    )

    assert closed == [True, True]


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({}, 0),
        ({"probes.works.enabled": True}, 0),
        ({"probes.lacking.enabled": True}, 3),
        ({"probes.refused.enabled": True}, 1),
        ({"probes.refused.enabled": True, "probes.lacking.enabled": True}, 3),
        ({"probes.lacking.enabled": False}, 0),
    ],
)
def test_only_what_was_asked_for_decides_the_exit_status(flags, code):
    settings, trials = tried(
        spec("works", lambda context: Trivial()),
        spec("lacking", fails(UnavailableError("no"))),
        spec("refused", fails(BpfLoadError("no"))),
        flags=flags,
    )

    assert exit_code(list(trials.values()), settings) == code


def test_a_row_names_the_need_that_is_missing_and_what_mends_it(tmp_path):
    bare = Paths(proc=tmp_path, sys=tmp_path, dev=tmp_path)
    needy = Spec(name="needy", help="Help.", build=fails(UnavailableError("no BTF")), metrics=(), needs=("btf",))
    settings, trials = tried(needy)
    row = row_of(trials["needy"], settings.probes["needy"], missing_needs(bare))

    assert row["needs"][0]["missing"]
    assert row["remedy"] == NEEDS["btf"].remedy
    assert row["reason"] == "no BTF"


def test_every_need_of_the_registry_is_known():
    for one in PROBES:
        assert set(one.needs) | set(one.optional) <= set(NEEDS), one.name


def command(*words, prefix=()):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "eagle_eye", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_tells_of_every_probe_in_json():
    done = command("check", "-j")
    rows = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert [row["probe"] for row in rows] == [one.name for one in PROBES]
    for row in rows:
        assert row["cost"]
        assert row["state"] == "ok" or row["reason"]


def test_the_text_fits_the_terminal():
    done = command("check")

    assert done.returncode == 0
    assert all(len(line) < 80 for line in done.stdout.splitlines() if "/" not in line)
    for one in PROBES:
        assert f"\n{one.name} " in done.stdout


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv to drop privilege")
def test_without_capabilities_the_answer_names_them_and_asking_is_status_3():
    done = command("check", "-j", prefix=NO_BPF)
    rows = {row["probe"]: row for row in map(json.loads, done.stdout.splitlines())}

    assert done.returncode == 0
    assert rows["sched"]["state"] == "unavailable"
    assert "CAP_BPF" in rows["sched"]["reason"]
    assert "--cap-add BPF --cap-add PERFMON" in rows["sched"]["remedy"]
    assert rows["sched"]["remedy"] == rows["tasks"]["remedy"] == rows["process"]["remedy"]
    assert {need["name"] for need in rows["sched"]["needs"] if need["missing"]} >= {"cap_bpf", "cap_perfmon"}
    assert rows["tasks"]["state"] == "degraded"
    assert rows["pressure"]["state"] == "ok"
    assert command("check", "--sched", prefix=NO_BPF).returncode == 3
    assert command("check", "--pressure", prefix=NO_BPF).returncode == 0
