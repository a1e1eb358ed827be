"""The writer of the shared memory between engine and agent."""

import errno
import fcntl
import json
import mmap
import multiprocessing
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eagle_eye.probes.engine.vllm import wire
from eagle_eye.probes.engine.vllm.ring import GRACE_SECONDS, Ring, sweep

ROOT = Path(__file__).resolve().parents[2]
STEP = wire.format_of(wire.STEP)
NAMES = [name for name, _ in wire.STEP]


@pytest.fixture
def ring(tmp_path):
    made = Ring({"instance": "ab12", "engine": "vllm"}, str(tmp_path))
    yield made
    made.close()


def mapped(path):
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def put(ring, step):
    ring.put(STEP, *[wire.KIND_STEP if name == "kind" else step for name in NAMES[1:-2]], b"")


def slot(memory, number):
    at = wire.RING_OFFSET + number % wire.SLOTS * wire.SLOT_BYTES
    return dict(zip(NAMES, STEP.unpack_from(memory, at), strict=True))


def header(memory):
    return dict(zip((name for name, _ in wire.HEADER), wire.format_of(wire.HEADER).unpack_from(memory, 0), strict=True))


@pytest.mark.parametrize("fields", [wire.HEADER, wire.TICK, wire.STEP, wire.REQUEST])
def test_every_field_lies_at_a_multiple_of_its_size(fields):
    for name, code in fields:
        size = struct.calcsize(f"<{code}")
        assert code[-1] == "s" or wire.offset_of(fields, name) % size == 0, name


def test_areas_do_not_overlap():
    histograms = len(wire.HISTOGRAM_NAMES) * (wire.HISTOGRAM_BUCKETS + 1) * 8

    assert wire.format_of(wire.STEP).size == wire.format_of(wire.REQUEST).size == wire.SLOT_BYTES
    assert wire.format_of(wire.HEADER).size <= wire.TICK_OFFSET
    assert wire.TICK_OFFSET + wire.format_of(wire.TICK).size <= wire.LEASE_OFFSET
    assert wire.HISTOGRAM_OFFSET + histograms <= wire.HANDSHAKE_OFFSET
    assert wire.HANDSHAKE_OFFSET + wire.HANDSHAKE_BYTES <= wire.RING_OFFSET


def test_the_file_is_whole_before_it_has_its_name(ring, tmp_path):
    memory = mapped(ring.path)
    said = header(memory)

    assert os.listdir(tmp_path) == [f"{wire.NAME_PREFIX}ab12.ring"]
    assert os.stat(ring.path).st_mode & 0o777 == 0o600
    assert (said["magic"], said["version_major"], said["slots"]) == (wire.MAGIC, wire.VERSION_MAJOR, wire.SLOTS)
    assert said["pid"] == os.getpid()
    assert len(memory) == wire.FILE_BYTES
    handshake = memory[wire.HANDSHAKE_OFFSET :][: said["handshake_bytes"]]
    assert json.loads(handshake) == {"instance": "ab12", "engine": "vllm"}


def test_a_record_has_its_number_at_both_ends(ring):
    memory = mapped(ring.path)
    for step in range(1, 4):
        put(ring, step)

    assert header(memory)["head"] == 3
    assert [(slot(memory, n)["begin"], slot(memory, n)["step"], slot(memory, n)["end"]) for n in range(3)] == [
        (1, 1, 1),
        (2, 2, 2),
        (3, 3, 3),
    ]


def test_the_ring_goes_round(ring):
    memory = mapped(ring.path)
    for step in range(wire.SLOTS + 5):
        put(ring, step)

    assert header(memory)["head"] == wire.SLOTS + 5
    assert slot(memory, 4)["begin"] == wire.SLOTS + 5
    assert slot(memory, 5)["begin"] == 6


def test_a_record_that_does_not_fit_leaves_the_head(ring):
    put(ring, 1)
    with pytest.raises(struct.error):
        put(ring, 2**40)
    put(ring, 3)

    memory = mapped(ring.path)
    assert header(memory)["head"] == 2
    assert slot(memory, 1)["step"] == 3


def test_it_is_wanted_as_long_as_a_lease_holds(ring):
    memory = mapped(ring.path)
    assert not ring.wanted()

    struct.pack_into("<Q", memory, wire.LEASE_OFFSET, time.monotonic_ns() + 10**10)
    assert ring.wanted()
    struct.pack_into("<Q", memory, wire.LEASE_OFFSET, time.monotonic_ns() - 1)
    assert not ring.wanted()


def test_a_tick_lies_between_equal_even_guards(ring):
    memory = mapped(ring.path)
    for at in (11, 22):
        ring.tick(at, *range(9))
    begin, told, *_, end = wire.format_of(wire.TICK).unpack_from(memory, wire.TICK_OFFSET)

    assert (begin, told, end) == (4, 22, 4)


def test_a_reader_never_sees_half_a_tick(ring):
    """A reader in another process copies while the writer writes: what it believes is of one piece."""
    code = """
import mmap, struct, sys
tick = struct.Struct(sys.argv[2])
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
believed = set()
print("ready", flush=True)
while 3000 not in believed:
    begin, *values, end = tick.unpack_from(memory, 256)
    if begin == end and begin % 2 == 0 and struct.unpack_from("<Q", memory, 256)[0] == begin and begin:
        assert len(set(values)) == 1, values
        believed.add(values[0])
print(len(believed))
"""
    form = wire.format_of(wire.TICK).format
    with subprocess.Popen([sys.executable, "-c", code, ring.path, form], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        for number in range(1, 3001):
            ring.tick(*[number] * 10)
            time.sleep(0.0001)
        assert int(reader.stdout.readline()) > 10
    assert reader.returncode == 0


def test_closing_says_so_and_removes_the_file(ring):
    memory = mapped(ring.path)
    put(ring, 1)
    ring.close()
    ring.close()

    assert header(memory)["state"] == wire.STATE_GONE
    assert header(memory)["urgent"] == 1
    assert not os.path.exists(ring.path)
    put(ring, 2)
    ring.tick(*range(10))
    assert header(memory)["head"] == 1, "whoever still writes, writes to memory of its own"


def test_a_full_file_system_leaves_nothing(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
from eagle_eye.probes.engine.vllm.ring import Ring
try:
    Ring({{"instance": "ab"}}, {str(tmp_path)!r})
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limit


@pytest.mark.needs_mounts
def test_tiny_shared_memory_leaves_nothing_and_kills_nobody(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            Ring({"instance": "ab"}, str(tmp_path))
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.needs_mounts
def test_read_only_shared_memory_is_an_error_of_the_system(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(OSError, match="Read-only"):
            Ring({"instance": "ab"}, str(tmp_path))
        assert sweep(str(tmp_path)) == 0
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        Ring({"instance": "ab"}, str(tmp_path / "nothing"))
    assert sweep(str(tmp_path / "nothing")) == 0


def killed(tmp_path, instance):
    """A process that had a ring and was killed."""
    code = f"""
import time
from eagle_eye.probes.engine.vllm.ring import Ring
ring = Ring({{"instance": {instance!r}}}, {str(tmp_path)!r})
print("made", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "made\n"
        assert sweep(str(tmp_path)) == 0, "it lives"
        child.kill()


def test_files_of_the_killed_are_swept_and_those_of_the_living_stay(ring, tmp_path):
    killed(tmp_path, "dead1")

    assert len(os.listdir(tmp_path)) == 2
    assert sweep(str(tmp_path)) == 1
    assert os.listdir(tmp_path) == [os.path.basename(ring.path)]


def test_thousands_of_restarts_leave_no_file(tmp_path):
    for number in range(2000):
        sweep(str(tmp_path))
        last = Ring({"instance": f"{number:x}"}, str(tmp_path))
        if number % 2:
            last.close()
        else:  # as when killed: the lock goes, the file stays
            last.let_go()
        assert len(os.listdir(tmp_path)) <= 1

    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_what_is_not_ours_is_not_swept(tmp_path):
    unfinished = tmp_path / f".{wire.NAME_PREFIX}ab.tmp"
    others = [tmp_path / "else.ring", tmp_path / f"{wire.NAME_PREFIX}../x", unfinished]
    (tmp_path / f"{wire.NAME_PREFIX}..").mkdir()
    for path in others:
        path.write_text("")
    link = tmp_path / f"{wire.NAME_PREFIX}aa.ring"
    link.symlink_to(others[0])
    assert sweep(str(tmp_path)) == 0
    assert all(path.exists() for path in others), "another one may be making it right now"

    old = time.time() - 2 * GRACE_SECONDS
    os.utime(unfinished, (old, old))
    assert sweep(str(tmp_path)) == 1
    assert others[0].exists()


def test_a_forked_child_writes_nothing_and_holds_no_lock(ring, tmp_path):
    struct.pack_into("<Q", mapped(ring.path), wire.LEASE_OFFSET, time.monotonic_ns() + 10**11)
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()

    def child():
        assert not ring.wanted()
        put(ring, 7)
        ring.close()
        ready.set()
        release.wait(30)

    process = fork.Process(target=child)
    process.start()
    try:
        assert ready.wait(30)
        assert header(mapped(ring.path))["head"] == 0
        assert ring.wanted()
        ring.let_go()
        with open(ring.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        release.set()
        process.join(30)
    assert process.exitcode == 0


def test_a_ticker_that_writes_while_the_ring_closes_harms_nobody(tmp_path):
    for number in range(50):
        ring = Ring({"instance": f"c{number:x}"}, str(tmp_path))
        failures = []

        def tick(ring=ring, failures=failures):
            try:
                while ring.open:
                    ring.tick(*range(10))
            except ValueError:
                pass  # mmap closed: the ticker ends
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=tick)
        thread.start()
        time.sleep(0.0005)
        ring.close()
        thread.join(10)
        assert failures == []


def test_the_plugin_needs_the_standard_library_alone():
    """In an interpreter that sees neither vLLM nor what the agent needs, and as the oldest Python that vLLM knows."""
    code = """
import ast, pathlib, sys
folder = pathlib.Path(sys.argv[1])
for path in folder.glob("*.py"):
    ast.parse(path.read_text(), feature_version=(3, 9))
sys.path.insert(0, str(folder.parent))
import importlib
for path in folder.glob("*.py"):
    if path.stem not in ("__init__", "statlogger"):
        importlib.import_module(f"vllm.{path.stem}")
"""
    folder = ROOT / "probes/engine/vllm"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, folder], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_killed_are_said_to_be_gone_to_those_that_still_read(tmp_path):
    killed(tmp_path, "dead2")
    memory = mapped(next(tmp_path.glob("*.ring")))
    assert header(memory)["state"] == wire.STATE_RUNNING

    sweep(str(tmp_path))
    assert header(memory)["state"] == wire.STATE_GONE
    assert header(memory)["urgent"] == 1


def test_a_file_of_another_content_is_removed_unread(tmp_path):
    (tmp_path / f"{wire.NAME_PREFIX}ab.ring").write_bytes(b"short")
    (tmp_path / f"{wire.NAME_PREFIX}ac.ring").write_bytes(wire.MAGIC)

    assert sweep(str(tmp_path)) == 2
