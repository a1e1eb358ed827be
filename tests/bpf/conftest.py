"""Probes with their programs loaded into the running kernel, and processes that are known to behave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eagle_eye.native import failures
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource, Spec

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def kernel_allows():
    missing = failures.missing_capabilities()
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing")
    if not failures.BTF_PATH.exists():
        pytest.skip("the kernel has no BTF")


@pytest.fixture(scope="session")
def as_root():
    if os.geteuid() != 0:
        pytest.skip("needs root: cgroups and real-time priorities")


def context_of(spec: Spec, **options) -> Context:
    values = {
        option.name: option.parse(options.get(option.name, option.default), option.name) for option in spec.options
    }
    source = EventSource(spec.name, node="node", cluster="cluster", boot_id="boot")
    return Context(paths=Paths(), options=values, events=source)


@pytest.fixture
def running(kernel_allows):
    """`running(SPEC, long_wait="5ms")` is that probe at work, closed after the test; `build` makes another one."""
    probes = []

    def start(spec: Spec, build: Callable | None = None, **options):
        probes.append((build or spec.build)(context_of(spec, **options)))
        return probes[-1]

    yield start
    for probe in probes:
        probe.close()


@pytest.fixture
def finish():
    """Detaches a probe's programs and takes its last sample: from then on all counts stand still."""

    def last_sample(probe):
        for link in probe._object._links:
            link.close()
        return probe.sample(time.monotonic_ns())

    return last_sample


@pytest.fixture
def process():
    """`process("sleep", "60")` starts a child that is killed after the test; `cpu=`, `fifo=` and `group=` place it."""
    children = []

    def start(*command: object, cpu: int | None = None, fifo: int = 0, group: Path | None = None, **more):
        def place() -> None:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            if fifo:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(fifo))
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        children.append(subprocess.Popen([*map(str, command)], preexec_fn=place, start_new_session=True, **more))
        return children[-1]

    yield start
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture(scope="session")
def workload(tmp_path_factory):
    """The compiled workload.c."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("workload") / "workload"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, HERE / "workload.c"], check=True)
    return program


@pytest.fixture
def cgroup(as_root):
    """`cgroup("memory", "limit_in_bytes", value)` makes a version 1 group; removed when its tasks are gone."""
    groups = []

    def make(controller: str, **files: object) -> Path:
        root = Path("/sys/fs/cgroup") / controller
        if not (root / "cgroup.procs").exists():
            pytest.skip(f"no version 1 hierarchy of the {controller} controller")
        group = root / f"eagle-eye-test-{os.getpid()}-{len(groups)}"
        group.mkdir()
        groups.append(group)
        for name, value in files.items():
            (group / f"{controller}.{name}").write_text(str(value))
        return group

    yield make
    for group in groups:
        eventually(lambda group=group: not _killed(group))
        group.rmdir()


def _killed(group: Path) -> list[str]:
    pids = (group / "cgroup.procs").read_text().split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    return pids


def eventually(condition: Callable[[], object], seconds: float = 5.0):
    """The condition's first true value; an assertion fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


@pytest.fixture(name="eventually")
def eventually_fixture():
    return eventually


class Sampling:
    """Collects what a probe tells over several rounds."""

    def __init__(self, probe) -> None:
        self.probe = probe
        self.events: list = []
        self.last = None

    def round(self, now_ns: int | None = None):
        self.last = self.probe.sample(now_ns or time.monotonic_ns())
        self.events += self.last.events
        return self.last

    def find(self, kind: str, **attributes):
        """Events of that kind with these attributes, over all rounds."""
        return [
            event
            for event in self.events
            if event.kind == kind and all(event.attributes.get(name) == value for name, value in attributes.items())
        ]

    def wait_for(self, kind: str, seconds: float = 5.0, **attributes):
        """The first such event; samples until it is there."""

        def look():
            self.round()
            return self.find(kind, **attributes)

        return eventually(look, seconds)[0]


@pytest.fixture
def sampling():
    return Sampling


@pytest.fixture
def values():
    """`values(sample)` maps (metric name, *labels) to values."""

    def of(sample) -> dict:
        return {(series.metric.name, *series.labels): series.value for series in sample.series}

    return of
