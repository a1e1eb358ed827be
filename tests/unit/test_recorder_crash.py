"""A recording outlives its recorder: kills at random points, and power cuts that tear the log."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from eagle_eye.collector.recorder.reading import Reading
from eagle_eye.collector.recorder.segment import SegmentReader, SegmentWriter, mend
from eagle_eye.collector.recorder.store import EMPTY_BYTES

VICTIMS = Path(__file__).with_name("recorder_victims.py")
KILLS = 100


@pytest.fixture
def memory():
    """A folder that syncs fast: what a kill leaves does not depend on the medium."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def test_a_hundred_kills_cost_nothing_that_was_flushed(memory):
    folder = memory / "recorder"
    command = [sys.executable, VICTIMS, folder, str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    stored = {one["victim"]: one["stored"] for one in map(json.loads, done.stdout.splitlines())}
    reading = Reading(folder, "boot")
    events = [json.loads(one.payload) for one in reading.records(kinds={"event"})]
    found = Counter(one["victim"] for one in events if "victim" in one)

    assert min(stored.values()) >= 0, f"a recorder failed of itself: {stored} {done.stderr[-2000:]}"
    assert sum(least > 0 for least in stored.values()) >= KILLS / 2, "the victims lived too short to write"
    assert {victim: found[victim] for victim, least in stored.items() if found[victim] < least} == {}
    for victim in stored:
        numbers = [one["number"] for one in events if one.get("victim") == victim]
        assert numbers == list(range(len(numbers))), "a recording has a hole"
    assert not list(folder.glob("*.damaged"))


def torn(folder: Path, name: str, into: Path, length: int) -> Path:
    """The recording as a power cut leaves it: the log ends anywhere, its last sector may be anything."""
    into.mkdir()
    shutil.copy(folder / name, into)
    body = (folder / f"{name}-wal").read_bytes()[:length]
    if random.random() < 0.5 and len(body) > 512:
        body = body[:-512] + os.urandom(512)
    (into / f"{name}-wal").write_bytes(body)
    return into / name


def test_a_power_cut_costs_the_end_and_never_the_file(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    writer = SegmentWriter(whole / "00000001.sqlite", {"boot_id": "boot"})
    for number in range(60):
        writer.write({"event": [(number, os.urandom(3000))]}, 0)
    log_bytes = (whole / "00000001.sqlite-wal").stat().st_size
    lengths = sorted(random.randrange(log_bytes) for _ in range(40))
    counts = []
    for index, length in enumerate(lengths):
        path = torn(whole, "00000001.sqlite", tmp_path / f"cut{index}", length)
        assert mend(path) == ""
        if path.stat().st_size <= EMPTY_BYTES:
            continue  # cut before anything was written
        reader = SegmentReader(path)
        times = [at for _, _, items in reader.batches(0, 10**9) for at, _ in items]
        reader.close()
        assert times == list(range(len(times))), "what is there is there from the start"
        assert reader.damaged_batches == 0
        counts.append(len(times))
    writer.close()

    assert max(counts) > 20
