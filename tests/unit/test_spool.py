"""The spool keeps order and loses nothing that it acknowledged, whatever dies and whenever."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eagle_eye.collector.spool import Record, Spool
from eagle_eye.collector.state_lock import StateLock
from eagle_eye.native.errors import UsageError


def record(number: int, size: int = 20) -> Record:
    return Record(f"boot:test:{number}", "eagle_eye.v1.c.n.event.test", "application/json", b"x" * size)


def numbers(spool: Spool, after: int = 0) -> list[int]:
    """Every record after `after`, by the number in its id."""
    found, through = spool.read(after, 10**9, 10**12)
    assert through == spool.last
    return [int(each.id.rpartition(":")[2]) for _, each in found]


def test_what_goes_in_comes_out_in_order_with_its_number(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.append([record(1), record(2)]) == 1
    assert spool.append([record(3)]) == 3
    found, through = spool.read(0, 100, 10**6)
    assert found == [(1, record(1)), (2, record(2)), (3, record(3))]
    assert through == 3
    assert spool.read(1, 1, 10**6) == ([(2, record(2))], 2)
    assert spool.read(3, 100, 10**6) == ([], 3)
    spool.close()
    spool.close()


def test_a_reader_follows_a_growing_segment_and_a_new_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    after, seen = 0, []
    for number in range(1, 301):
        spool.append([record(number, 50)])
        found, after = spool.read(after, 2, 10**6)
        seen += [each for each, _ in found]
    assert seen == list(range(1, 301))
    assert len(list(tmp_path.glob("*.seg"))) > 3
    spool.close()


def test_a_later_agent_begins_behind_what_was_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    spool.append([record(number, 100) for number in range(1, 201)])
    spool.append([record(201)])
    spool.ack(150)
    spool.close()
    again = Spool(tmp_path)
    assert (again.acked, again.last, again.torn, again.damaged) == (150, 201, 0, 0)
    assert numbers(again, again.acked) == list(range(151, 202))
    assert again.append([record(202)]) == 202
    again.close()


def test_acknowledged_segments_leave_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    for number in range(1, 1001):
        spool.append([record(number, 100)])
    before = spool.size_bytes
    spool.ack(1000)
    assert spool.size_bytes < 2 * 4096 < before
    assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) == spool.size_bytes
    spool.close()


def test_the_bound_drops_the_oldest_and_says_through_which(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=64 * 1024, segment_bytes=8192)
    for number in range(1, 2001):
        spool.append([record(number, 100)])
        assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) <= 64 * 1024
    assert 0 < spool.dropped_through < 2000
    assert numbers(spool) == list(range(spool.dropped_through + 1, 2001))
    assert spool.damaged == 0
    spool.close()
    again = Spool(tmp_path)
    assert again.acked == spool.dropped_through
    again.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 60])
def test_a_torn_end_is_cut_and_counted(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path)
    spool.append([record(1), record(2), record(3)])
    spool.close()
    segment = next(tmp_path.glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - cut)
    again = Spool(tmp_path)
    assert (again.last, again.torn) == (2, 1)
    assert again.append([record(3)]) == 3
    again.close()
    third = Spool(tmp_path)
    assert (numbers(third), third.torn) == ([1, 2, 3], 0)
    third.close()


def test_a_flipped_bit_costs_the_rest_of_its_segment_and_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    for number in range(1, 101):
        spool.append([record(number, 100)])
    spool.close()
    first, second, *_ = sorted(tmp_path.glob("*.seg"))
    raw = bytearray(first.read_bytes())
    raw[300] ^= 1
    first.write_bytes(raw)
    again = Spool(tmp_path)
    kept = numbers(again)
    assert kept == [1, *range(int(second.name[:20]), 101)]
    assert len(kept) + again.damaged == 100
    again.close()


def test_a_deleted_segment_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    for number in range(1, 101):
        spool.append([record(number, 100)])
    sorted(tmp_path.glob("*.seg"))[1].unlink()
    assert len(numbers(spool)) + spool.damaged == 100
    spool.close()


@pytest.mark.parametrize("junk", [b"", b"\0" * 12, b"\xff" * 12, b"x" * 5, os.urandom(4096)])
def test_a_damaged_cursor_repeats_rather_than_loses(tmp_path: Path, junk: bytes) -> None:
    spool = Spool(tmp_path)
    spool.append([record(1), record(2)])
    spool.ack(1)
    spool.close()
    (tmp_path / "cursor").write_bytes(junk)
    again = Spool(tmp_path)
    assert numbers(again, again.acked) == [1, 2]
    again.close()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.booleans())
def test_any_bytes_in_a_segment_open_without_an_error(junk: bytes, magic: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / f"{5:020}.seg").write_bytes((b"EESPOOL1" if magic else b"") + junk)
        spool = Spool(directory)
        before = spool.last
        assert spool.append([record(1)]) == before + 1
        assert numbers(spool, before) == [1]
        spool.close()


def test_two_agents_never_share_a_directory(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(UsageError, match=rf"pid {os.getpid()}\) uses {tmp_path}") as caught:
        Spool(tmp_path)
    assert "--state-dir" in caught.value.remedy
    spool.close()
    Spool(tmp_path).close()


def test_the_lock_of_a_dead_agent_is_free(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from eagle_eye.collector.state_lock import StateLock\n"
        f"lock = StateLock(Path({str(tmp_path)!r})); print('held', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"pid {child.pid}"):
            StateLock(tmp_path)
        child.kill()
    StateLock(tmp_path).close()


def test_a_refused_write_leaves_no_trace(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel refuse in the middle of a write, as a full disk does."""
    spool = Spool(tmp_path)
    spool.append([record(1, 1000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            spool.append([record(2, 3000), record(3, 3000)])
        assert caught.value.errno == errno.EFBIG
        assert spool.append([record(2, 1000)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.append([record(3, 3000)]) == 3
    assert numbers(spool) == [1, 2, 3]
    spool.close()
    again = Spool(tmp_path)
    assert (numbers(again), again.torn, again.damaged) == ([1, 2, 3], 0, 0)
    again.close()


KILLED = """
import itertools, os, sys
from pathlib import Path
from eagle_eye.collector.spool import Record, Spool

spool = Spool(Path(sys.argv[1]), segment_bytes=16384)
for number in itertools.count(spool.last + 1, 3):
    spool.append([Record(f"b:t:{n}", "s", "application/json", b"x" * (n % 700)) for n in range(number, number + 3)])
    if number % 7 == 0:
        spool.ack(number - 5)
    os.write(1, b"%d\\n" % (number + 2))
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    read_through, seen = 0, []
    for delay_ms in (1, 3, 7, 12, 20, 31):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(delay_ms / 1000)
            child.send_signal(signal.SIGKILL)
            told = int((first + child.stdout.read()).split(b"\n")[-2])
        spool = Spool(tmp_path, segment_bytes=16384)
        assert told <= spool.last <= told + 3
        fresh = numbers(spool, max(read_through, spool.acked))
        assert fresh == list(range(max(read_through, spool.acked) + 1, spool.last + 1))
        seen.append(spool.last)
        read_through = spool.last
        assert spool.damaged == 0
        spool.close()
    assert seen == sorted(set(seen))


class SpoolMachine(RuleBasedStateMachine):
    """Random appends, acknowledgements, reads and crashes against a plain list."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.spool = Spool(self.directory, segment_bytes=4096)
        self.numbers = itertools.count(1)
        self.kept: list[int] = []
        self.read_through = 0

    @rule(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        records = [record(next(self.numbers), size) for size in sizes]
        first = self.spool.append(records)
        assert first == len(self.kept) + 1
        self.kept += [int(each.id.rpartition(":")[2]) for each in records]

    @rule(count=st.integers(1, 10))
    def read(self, count: int) -> None:
        found, through = self.spool.read(self.read_through, count, 10**9)
        expected = self.kept[self.read_through : self.read_through + count]
        assert [int(each.id.rpartition(":")[2]) for _, each in found] == expected
        self.read_through = through

    @precondition(lambda self: self.read_through > 0)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.spool.ack(data.draw(st.integers(1, self.read_through)))

    @rule()
    def die_and_return(self) -> None:
        self._reopen()

    @rule(cut=st.integers(1, 40))
    def die_while_writing(self, cut: int) -> None:
        """A kill cuts the last append, which nobody was told of, somewhere."""
        doomed = record(10**9, 30)
        self.spool.append([doomed])
        newest = max(self.directory.glob("*.seg"))
        os.truncate(newest, newest.stat().st_size - cut)
        self._reopen()
        assert self.spool.torn == 1

    def _reopen(self) -> None:
        acked = self.spool.acked
        self._drop_descriptors()
        self.spool = Spool(self.directory, segment_bytes=4096)
        assert self.spool.acked >= acked
        self.read_through = self.spool.acked

    def _drop_descriptors(self) -> None:
        """What the kernel does at a kill: descriptors close, nothing else runs."""
        spool = self.spool
        for fd in (spool._write_fd, spool._cursor_fd, spool._lock.fd):
            if fd >= 0:
                os.close(fd)

    @invariant()
    def counts_hold(self) -> None:
        assert self.spool.last == len(self.kept)
        assert self.spool.damaged == 0
        on_disk = sum(path.stat().st_size for path in self.directory.glob("*.seg"))
        assert on_disk == self.spool.size_bytes

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            unread = self.kept[self.spool.acked :]
            assert numbers(self.spool, self.spool.acked) == unread
            self.spool.close()
            shutil.rmtree(self.directory)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
