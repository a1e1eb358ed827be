"""Where engines are looked for: each tmpfs once, nothing else, and no process looked at again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes.engine import finder, processes
from eagle_eye.probes.engine.finder import Finder
from eagle_eye.probes.engine.processes import Namespaces, holders, pids_outside, shared_memory_device
from eagle_eye.probes.engine.simulator import Scenario, SimulatedEngine, make_fleet
from eagle_eye.probes.paths import Paths

PROC = Path("/proc")
SHM = "24 1 0:{device} / /dev/shm rw,nosuid - {kind} shm rw,size=65536k\n"


class Fake:
    """A /proc of processes that are what a test says; `looks` counts the looks at namespaces."""

    def __init__(self, folder):
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "self/ns").mkdir(parents=True)
        (self.proc / "self/ns/mnt").write_text("")

    def add(self, pid, namespace, *, device=7, kind="tmpfs", shm=None):
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        os.link(namespace, folder / "ns/mnt")
        (folder / "mountinfo").write_text("23 1 0:5 / /dev rw - tmpfs x rw\n" + SHM.format(device=device, kind=kind))
        (folder / "root/dev").mkdir(parents=True)
        if shm is not None:
            shm.rename(folder / "root/dev/shm") if shm.exists() else (folder / "root/dev/shm").mkdir()
        return folder / "root/dev/shm"

    def end(self, pid):
        subprocess.run(["rm", "-rf", self.proc / str(pid)], check=True)


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path)


@pytest.fixture
def namespace(tmp_path):
    """`namespace(name)`: a file whose inode stands for a namespace."""

    def make(name):
        path = tmp_path / f"namespace-{name}"
        path.touch()
        return path

    return make


def test_a_process_is_looked_at_a_few_times_and_not_again(fake, namespace, monkeypatch):
    seen = []
    monkeypatch.setattr(processes, "_namespace", lambda _, pid, kind: seen.append(pid) or 1)
    fake.add(5, namespace("a"))
    found = Namespaces(fake.proc)
    for _ in range(10):
        found.scan()
    assert seen.count(5) == 3
    found.scan(afresh=True)
    assert seen.count(5) == 4


def test_a_namespace_lives_as_long_as_any_process_of_it(fake, namespace):
    one = namespace("one")
    for pid in range(10, 20):
        fake.add(pid, one)
    found = Namespaces(fake.proc)
    found.scan()
    assert len(list(found.representatives())) == 1
    for pid in range(10, 20):
        fake.end(pid)
        found.scan(afresh=True)
        assert len(found) == (pid < 19)


def test_a_process_that_enters_a_namespace_later_is_found_there(fake, namespace):
    found = Namespaces(fake.proc)
    fake.add(5, namespace("host"))
    found.scan()
    fake.end(5)
    fake.add(5, namespace("container"))
    found.scan()

    assert [inode for inode, _ in found.representatives()] == [namespace("container").stat().st_ino]


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", "0:7"), ("fuse", ""), ("ext4", "")])
def test_only_tmpfs_is_looked_into(fake, namespace, kind, expected):
    fake.add(5, namespace("a"), kind=kind)

    assert shared_memory_device(fake.proc, 5) == expected
    assert shared_memory_device(fake.proc, 6) == ""


def found_by(search, count=1, timeout_s=20.0):
    names, end = [], time.monotonic() + timeout_s
    while len(names) < count and time.monotonic() < end:
        for found in search.found():
            names.append(found.file.name)
            finder.discard(found)
        time.sleep(0.01)
    return names


@pytest.fixture
def search(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(finder, "PERIOD_S", 0.02)
    (tmp_path / "dev/shm").mkdir(parents=True)
    made = []

    def make(**options):
        made.append(Finder(Paths(proc=fake.proc, dev=tmp_path / "dev"), limit=8, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_containers_that_share_their_memory_are_looked_into_once(fake, namespace, search, tmp_path):
    shm = fake.add(5, namespace("a"), shm=tmp_path / "none")
    fake.add(6, namespace("b"), shm=tmp_path / "none")
    engine = SimulatedEngine(Scenario(), directory=str(shm))
    looking = search()

    assert found_by(looking) == [os.path.basename(engine.ring.path)]
    engine.close()


def test_a_link_in_a_container_leads_nowhere(fake, namespace, search, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    engine = SimulatedEngine(Scenario(), directory=str(outside))
    fake.add(5, namespace("a"))
    (fake.proc / "5/root/dev/shm").symlink_to(outside)
    looking = search()
    deadline = time.monotonic() + 20
    while looking._rounds < 5 and time.monotonic() < deadline:
        time.sleep(0.01)

    assert found_by(looking, timeout_s=0.1) == []
    engine.close()


def test_pids_are_told_from_outside():
    code = "import os, time; print(os.getpid(), os.stat('/proc/self/ns/pid').st_ino, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        pid, inode = map(int, child.stdout.readline().split())
        assert pids_outside(PROC, inode, [pid, 0, 2**30]) == {pid: child.pid}
        assert pids_outside(PROC, inode + 1, [pid]) == {}
        child.kill()


def test_who_has_a_file_open_is_found(tmp_path):
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    assert os.getpid() not in holders(PROC, (status.st_dev, status.st_ino))
    with path.open():
        assert holders(PROC, (status.st_dev, status.st_ino)) == [os.getpid()]


@pytest.mark.needs_mounts
def test_no_room_in_shared_memory_is_told_and_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", small], check=True)
    try:
        with pytest.raises(UnavailableError, match="no room for a simulated engine"):
            make_fleet(Scenario(), 2, str(small))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_closing_is_safe_twice_and_leaves_nothing(search):
    before = len(os.listdir("/proc/self/fd"))
    looking = search()
    looking.close()
    looking.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_processes_that_may_not_be_looked_at_are_counted(fake, namespace, monkeypatch):
    def look(_, pid, kind):
        raise PermissionError if pid in (1, 6) else ProcessLookupError

    monkeypatch.setattr(processes, "_namespace", look)
    fake.add(1, namespace("a"))
    fake.add(5, namespace("a"))
    fake.add(6, namespace("b"))
    found = Namespaces(fake.proc)
    found.scan()
    assert found.denied == 1, "the first process is in no container"
    fake.end(6)
    found.scan()
    assert found.denied == 0
