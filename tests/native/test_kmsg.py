"""The kernel-log reader against a slow reference, hostile input, files that move, and the real log."""

import gc
import os
import re
import resource
import secrets
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import eagle_eye.native
from eagle_eye.native._kmsg import ffi, lib
from eagle_eye.native.errors import UnavailableError
from eagle_eye.native.kmsg import LEVELS, RECORD, KernelLog, decoded

NATIVE = Path(eagle_eye.native.__file__).parent
HEADER = re.compile(rb"([0-9]+),([0-9]+),([0-9]+)(?:,([^,;]*))?((?:,[^,;]*)*);(.*)", re.DOTALL)
CALLER = re.compile(rb"caller=([TC])([0-9]+)")


def reference(data: bytes) -> tuple[list[tuple], int]:
    """Records as (level, facility, seq, time_ns, continuation, caller, text, dict lines), and the malformed."""
    records, malformed = [], 0
    for group in re.split(rb"(?<=\n)(?! )", data):
        if len(group) > 8192:
            malformed += 1
        elif group.endswith(b"\n"):
            record = reference_record(group)
            records += [record] if record else []
            malformed += record is None
    return records, malformed


def reference_record(group: bytes) -> tuple | None:
    line, _, properties = group.partition(b"\n")
    found = HEADER.fullmatch(line)
    if not found:
        return None
    prefix, seq, time_us = int(found[1]), int(found[2]), int(found[3])
    if prefix > 0x7FF or seq >= 2**64 or time_us > (2**63 - 1) // 1000:
        return None
    continuation = (re.findall(rb"[c+]", found[4] or b"") or [b"\0"])[-1]
    caller = (0, 0)
    for field in found[5].split(b","):
        named = CALLER.fullmatch(field)
        if named and int(named[2]) < 2**32:
            caller = (ord(named[1]), int(named[2]))
    return (prefix & 7, prefix >> 3, seq, time_us * 1000, ord(continuation), caller, found[6], properties)


def tuples(batch) -> list[tuple]:
    return [
        (
            int(r["level"]),
            int(r["facility"]),
            int(r["seq"]),
            int(r["time_ns"]),
            int(r["continuation"]),
            (int(r["caller_kind"]), int(r["caller"])),
            batch._bytes(r["text_offset"], r["text_bytes"]),
            batch._bytes(r["dict_offset"], r["dict_bytes"]),
        )
        for r in batch.records
    ]


def read_all(log: KernelLog) -> list[tuple]:
    found = []
    wait(log)
    while True:
        batch = log.read()
        found += tuples(batch)
        if not batch.more:
            return found


def wait(log: KernelLog) -> None:
    if log.wake_fd is not None:
        assert select.select([log.wake_fd], [], [], 2)[0]


@pytest.fixture
def opened(tmp_path):
    logs = []

    def make(data: bytes = b"", *, from_boot: bool = True, name: str = "log") -> KernelLog:
        path = tmp_path / name
        path.write_bytes(data)
        logs.append(KernelLog(path, from_boot=from_boot))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


# ---- layout ----


def test_the_layout_is_the_one_of_the_header():
    assert RECORD.itemsize == 72
    offsets = {name: RECORD.fields[name][1] for name in RECORD.names}
    assert offsets == {
        "seq": 0, "time_ns": 8, "text_hash": 16, "template_hash": 24, "fact_hash": 32, "text_offset": 40,
        "text_bytes": 44, "dict_offset": 48, "dict_bytes": 52, "caller": 56, "facility": 60, "level": 62,
        "caller_kind": 63, "continuation": 64,
    }  # fmt: skip


# ---- the parser against the reference ----

digits = st.integers(0, 2**70).map(str)
flags = st.sampled_from(
    ["", ",", ",-", ",c", ",+", ",-,caller=T12", ",c,caller=C3,x=y", ",-,caller=Tx,caller=T99999999999"]
)
text = st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\n"), max_size=60)
fields = st.lists(st.sampled_from(["SUBSYSTEM=pci", "DEVICE=+pci:0000:3b:00.0", "x", "", "="]), max_size=3)


@st.composite
def lawful(draw) -> bytes:
    prefix, seq, time_us = draw(st.integers(0, 2100)), draw(digits), draw(digits)
    body = f"{prefix},{seq},{time_us}{draw(flags)};{draw(text)}\n" + "".join(f" {line}\n" for line in draw(fields))
    return body.encode("latin-1")


hostile = st.one_of(
    lawful(),
    st.binary(max_size=80),
    st.sampled_from([b"\n", b" \n", b";", b"6,1,1,-;", b"6,1,1,-;x\n", b" K=v\n", b"\0", b"6,,1;x\n", b"-1,1,1;x\n"]),
    st.integers(8100, 8300).map(lambda n: b"6,1,1,-;" + b"x" * n + b"\n"),
    st.integers(2700, 2800).map(lambda n: b"6,1,1,-;x\n" + b" a\n" * n),
)


@given(pieces=st.lists(hostile, max_size=12))
@example(pieces=[b"6,1,1,-;" + b"x" * 9000, b"\n k=v\n6,2,2,-;y\n"])
@example(pieces=[b"6,1,1,-;" + b"x" * 8183 + b"\n"])
@example(pieces=[b"6,1,1,-;" + b"x" * 8184 + b"\n"])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_what_the_reference_gives(opened, pieces):
    data = b"".join(pieces)
    log = opened(data)
    records, malformed = reference(data)
    assert read_all(log) == records
    assert log.malformed == malformed


@given(pieces=st.lists(lawful(), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_written_in_pieces_are_put_together(opened, pieces, cuts):
    data = b"".join(line for piece in pieces for line in piece.splitlines(keepends=True)[:1])
    log = opened()
    found, at = [], 0
    with open(log.path, "ab", buffering=0) as writer:
        for cut in [*cuts, len(data)]:
            writer.write(data[at : at + cut])
            at += cut
            found += read_all(log)
    assert found == reference(data)[0]


@given(data=st.binary(max_size=200))
def test_decoding_never_fails_and_never_gives_a_control_character(data):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", decoded(data))


def test_escapes_are_undone():
    assert decoded(rb"two\x0alines, caf\xc3\xa9, back\x5cslash, \x1b[31mred, \xff") == (
        "two\nlines, café, back\\slash, \\x1b[31mred, �"
    )


# ---- hashes: what counts as the same text ----


def hashes(*texts: str, names=("text_hash", "template_hash")) -> tuple[list[int], ...]:
    data = "".join(f"6,{n},1,-;{text}\n" for n, text in enumerate(texts)).encode()
    records = np.zeros(len(texts), RECORD)
    state, consumed = ffi.new("struct kmsg_log *", {"seed": 1}), ffi.new("uint32_t *")
    view = ffi.from_buffer("struct kmsg_record[]", records)
    assert lib.kmsg_parse(state, data, len(data), 1, view, len(texts), consumed) == len(texts)
    return tuple(records[name].tolist() for name in names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pid 12345 died", "pid 54321 died"),
        ("at 0x7f00", "at 0x7f0123456789"),
        ("fault at deadbeef0", "fault at 0123abcd"),
        ("worker12345 late", "worker99999 late"),
    ],
)
def test_long_numbers_and_addresses_are_alike(one, other):
    texts, templates = hashes(one, other)
    assert texts[0] == texts[1]
    assert templates[0] == templates[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1234", "NVRM: Xid (PCI:0000:3b:00): 31, pid=1234"),
        ("NVRM: Xid (PCI:0000:3b:00): 79", "NVRM: Xid (PCI:0000:86:00): 79"),
        ("NVRM: Xid (PCI:0001:3b:00): 79", "NVRM: Xid (PCI:0000:3b:00): 79"),
        ("eth0: link down", "eth1: link down"),
    ],
)
def test_codes_and_device_names_differ_in_text_but_not_in_template(one, other):
    texts, templates = hashes(one, other)
    assert texts[0] != texts[1]
    assert templates[0] == templates[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1234567", "NVRM: Xid (PCI:0000:3b:00): 79, pid=7654321"),
        ("Xid 79, pid=7, name=x", "Xid 79, pid=65432, name=x"),
        ("I/O error, dev sda, sector 1234567", "I/O error, dev sda, sector 123456789"),
        ("fault at 0x7f0123456789", "fault at 0x7f0123456"),
    ],
)
def test_counters_and_addresses_make_no_other_fact(one, other):
    assert len(set(*hashes(one, other, names=["fact_hash"]))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SXid (PCI:0000:06:00.0): 20034, Fatal", "SXid (PCI:0000:06:00.0): 20035, Fatal"),
        ("145, RLW_REMAP Fatal (0x00000004 0x00000001)", "145, RLW_REMAP Fatal (0x00000004 0x00000002)"),
        ("event_id=0x80e01801", "event_id=0x80e18401"),
        ("Bank 7: cc00008000010092", "Bank 7: cc00008000010093"),
    ],
)
def test_codes_and_registers_make_another_fact(one, other):
    assert len(set(*hashes(one, other, names=["fact_hash"]))) == 2


def test_other_words_differ_in_both():
    texts, templates = hashes("disk full", "disk fuel")
    assert texts[0] != texts[1]
    assert templates[0] != templates[1]


# ---- memory safety ----

DRIVER = r"""
#include "kmsg.h"
#include <stdlib.h>
#include <stdio.h>
int main(void)
{
	struct kmsg_log log = {.seed = 1};
	uint32_t length;

	while (fread(&length, sizeof(length), 1, stdin) == 1) {
		char *data = malloc(length ? length : 1);
		struct kmsg_record *records = malloc(4 * sizeof(*records));
		uint32_t consumed;

		if (fread(data, 1, length, stdin) != length)
			return 3;
		kmsg_parse(&log, data, length, length & 1, records, 4, &consumed);
		if (consumed > length)
			return 4;
		free(records);
		free(data);
	}
	return 0;
}
"""


SANITIZED = ["gcc", "-g", "-O1", "-pthread", "-fno-sanitize-recover=all", f"-I{NATIVE}"]
SOURCES = [NATIVE / "kmsg.c", NATIVE / "kmsg_reader.c"]


@pytest.fixture
def sanitized(tmp_path):
    """Compiles a driver together with the C sources, under a sanitizer."""

    def make(driver: str, sanitizer: str) -> Path:
        flags = [*SANITIZED, f"-fsanitize={sanitizer}"]
        (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
        empty = [*flags, tmp_path / "empty.c", "-o", tmp_path / "empty"]
        if not shutil.which("gcc") or subprocess.run(empty, capture_output=True).returncode:
            pytest.skip(f"no gcc with -fsanitize={sanitizer}")
        (tmp_path / "driver.c").write_text(driver)
        done = subprocess.run([*flags, tmp_path / "driver.c", *SOURCES, "-o", tmp_path / "driver"], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return tmp_path / "driver"

    return make


def test_no_byte_outside_the_buffer_is_touched(sanitized):
    seeds = [
        b"6,1,2,-,caller=T1;a 0x12 0000:3b\n K=v\n", b"6,1,2,-,caller=", b"6,1,2,-,caller=T;",
        b"7,99999999999999999999,1;x\n",
        b"6,1,2;0x\n", b"6,1,2;0", b"6", b"6,1,2,-;" + b"y" * 9000, b" \n", b"\n",
    ]  # fmt: skip
    random = np.random.default_rng(7)
    inputs = list(seeds)
    for _ in range(20_000):
        seed = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 4)):
            seed[random.integers(len(seed))] = random.integers(256)
        inputs.append(bytes(seed[: random.integers(len(seed) + 1)]))
    stream = b"".join(len(data).to_bytes(4, "little") + data for data in inputs)
    done = subprocess.run([sanitized(DRIVER, "address,undefined")], input=stream, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[:2000]


THREADS = r"""
#include "kmsg.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Argument: a FIFO, into which 50 000 records are written meanwhile. Prints how many arrived in order. */
int main(int argc, char **argv)
{
	static char buffer[65536];
	static struct kmsg_record records[512];
	struct kmsg_log log = {.fd = open(argv[argc - 1], O_RDWR | O_NONBLOCK)};
	struct kmsg_reader *reader = kmsg_start(log.fd, 1 << 18);
	struct pollfd wake = {.fd = kmsg_wake_fd(reader), .events = POLLIN};
	uint64_t next = 0;

	while (next < 50000 && poll(&wake, 1, 3000) > 0) {
		do {
			uint32_t count = kmsg_next(&log, reader, buffer, sizeof(buffer), records, 512);

			for (uint32_t i = 0; i < count; i++)
				if (records[i].seq == next)
					next++;
		} while (!log.drained || log.consumed < log.used);
	}
	kmsg_stop(reader);
	printf("%lu", (unsigned long)next);
	return 0;
}
"""


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_reading_thread_loses_nothing_and_races_with_nobody(sanitized, tmp_path, sanitizer):
    os.mkfifo(tmp_path / "fifo")
    reader = subprocess.Popen([sanitized(THREADS, sanitizer), tmp_path / "fifo"], stdout=-1, stderr=-1)
    with open(tmp_path / "fifo", "wb") as fifo:
        fifo.write(b"".join(line(n, f"record {n}") for n in range(50_000)))
        out, err = reader.communicate(timeout=60)
    assert reader.returncode == 0, err.decode()[:2000]
    assert out == b"50000"


# ---- files that move, FIFOs ----


def line(seq: int, text: str = "x") -> bytes:
    return f"6,{seq},{seq},-;{text}\n".encode()


def sequence(log: KernelLog) -> list[int]:
    return [record[2] for record in read_all(log)]


def test_a_file_is_read_from_its_end_by_default_even_in_the_middle_of_a_line(opened):
    log = opened(line(1) + b"6,2,2,-;half", from_boot=False)
    with open(log.path, "ab") as file:
        file.write(b" a line\n" + line(3))
    assert sequence(log) == [3]
    assert log.malformed == 0


def test_a_truncated_file_is_read_from_its_start(opened):
    log = opened(line(1) + line(2) + line(3))
    assert sequence(log) == [1, 2, 3]
    log.path.write_bytes(line(4))
    assert sequence(log) == [4]


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(opened):
    log = opened(line(1))
    assert sequence(log) == [1]
    with open(log.path, "ab") as file:
        file.write(line(2))
    log.path.rename(log.path.with_suffix(".1"))
    log.path.write_bytes(line(3))
    assert sequence(log) + sequence(log) == [2, 3]


def test_a_file_that_is_gone_is_said_to_be_and_picked_up_again(opened):
    log = opened(line(1))
    assert sequence(log) == [1]
    log.path.unlink()
    assert sequence(log) == []
    assert log.missing
    log.path.write_bytes(line(2))
    assert sequence(log) == [2]
    assert not log.missing


def test_a_fifo_survives_its_writers(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    log = KernelLog(tmp_path / "fifo")
    for seq in (1, 2):
        with open(log.path, "wb") as writer:
            writer.write(line(seq))
        assert sequence(log) == [seq]
    log.close()


def test_more_records_than_one_batch_arrive_in_order(opened):
    log = opened(b"".join(line(n) for n in range(10_000)))
    assert sequence(log) == list(range(10_000))


def test_a_missing_log_is_unavailable_and_says_how_to_look(tmp_path):
    with pytest.raises(UnavailableError, match=r"nowhere cannot be opened: No such file") as caught:
        KernelLog(tmp_path / "nowhere")
    assert caught.value.remedy == f"ls -l {tmp_path / 'nowhere'}"


def test_a_directory_is_an_error_and_not_a_hang(tmp_path):
    log = KernelLog(tmp_path)
    with pytest.raises(IsADirectoryError):
        log.read()
    log.close()


def test_a_log_that_cannot_be_read_is_closed_again():
    device = Path("/dev/net/tun")
    if not os.access(device, os.R_OK):
        pytest.skip("needs a device whose reading fails")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        # As an agent that tries again: the error is kept meanwhile.
        with pytest.raises(UnavailableError, match="cannot be read") as kept:
            KernelLog(device)
        assert kept.value.remedy
    assert os.listdir("/proc/self/fd") == before


def test_nothing_leaks(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    def cycle(times: int) -> None:
        for _ in range(times):
            log = KernelLog(tmp_path / "fifo")
            log.read()
            (tmp_path / "fifo").write_bytes(line(1) * 50)
            assert len(read_all(log)) == 50
            log.close()
            log.close()

    cycle(50)
    gc.collect()
    process = psutil.Process()
    threads, fds, resident = (
        process.num_threads(),
        process.num_fds(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    cycle(500)
    gc.collect()
    assert process.num_fds() == fds
    assert process.num_threads() == threads
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 4096


# ---- the real log ----


@pytest.fixture
def kernel_log():
    if os.geteuid() != 0 or not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("needs root and a writable /dev/kmsg")
    log = KernelLog(Path("/dev/kmsg"))
    yield log
    log.close()


def test_a_line_written_to_the_kernel_log_comes_back_with_all_its_parts(kernel_log):
    mark = f"eagle-eye test {secrets.token_hex(8)}"
    before_ns = time.monotonic_ns()
    with open("/dev/kmsg", "wb", buffering=0) as writer:
        writer.write(f"<13>{mark} \x1b ü\n".encode())
    wait(kernel_log)
    batch = kernel_log.read()
    (index,) = (i for i in range(len(batch.records)) if mark in batch.text(i))
    record = batch.records[index]
    assert batch.text(index) == f"{mark} \\x1b ü"
    assert LEVELS[record["level"]] == "notice"
    assert record["facility"] == 1
    assert record["seq"] >= kernel_log.next_sequence
    assert abs(int(record["time_ns"]) - before_ns) < 5_000_000_000


def test_the_whole_log_agrees_with_dmesg():
    if os.geteuid() != 0 or not shutil.which("dmesg"):
        pytest.skip("needs root and dmesg")
    log = KernelLog(Path("/dev/kmsg"), from_boot=True)
    ours = [re.sub(r"\s+", " ", log_text) for log_text in texts_of(log)]
    theirs = subprocess.run(["dmesg", "--syslog", "--notime"], capture_output=True, text=True, errors="replace").stdout
    ordinary = [re.sub(r"\s+", " ", text) for text in theirs.splitlines() if text.isascii() and "\\" not in text]
    log.close()
    assert ordinary
    missing = [text for text in ordinary if text not in ours]
    assert len(missing) <= len(ordinary) // 100, missing[:5]


def texts_of(log: KernelLog) -> list[str]:
    found = []
    while True:
        batch = log.read()
        found += [text for index in range(len(batch.records)) for text in batch.text(index).split("\n")]
        if not batch.more:
            return found


def test_without_cap_syslog_the_error_names_the_capability_and_the_setting():
    if os.geteuid() != 0 or Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() != "1":
        pytest.skip("needs root and kernel.dmesg_restrict=1")
    code = """
import os
from pathlib import Path
from eagle_eye.native.kmsg import KernelLog
os.setgid(65534); os.setuid(65534)
try:
    KernelLog(Path("/dev/kmsg"))
except Exception as error:
    print(type(error).__name__, error, error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UnavailableError" in done.stdout, done.stderr
    assert "CAP_SYSLOG" in done.stdout
    assert "dmesg_restrict=0" in done.stdout
