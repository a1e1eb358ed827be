"""`eagle-eye kmsg decode`: what it prints for people and programs, from files and from pipes that go on."""

import gzip
import json
import os
import pty
import select
import subprocess
import sys
import time

import psutil
import pytest

from eagle_eye.__main__ import main

XID = "[   12.5] NVRM: Xid (PCI:0000:0a:00): 79, pid=77, name=python3, GPU has fallen off the bus."
SXID = "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Fatal, Link 48 LTSSM Fault Up"
MORE = "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Data {0x00000001}"
IDENTITY = "NVRM: GPU at PCI:0000:0a:00: GPU-00000000-1111-2222-3333-444444444444"
OLD_DRIVER = "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:15:33 UTC 2024"
DRIFTED = "NVRM: Xid (PCI:0000:0a:00): 144, words"
PATIENCE_SECONDS = 30


@pytest.fixture
def decode(tmp_path, capsys):
    """Runs the command on a file of lines; gives the exit code and what it printed."""

    def run(lines, *words):
        path = tmp_path / "kern.log"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        code = main(["kmsg", "decode", *words, str(path)])
        return code, capsys.readouterr().out

    return run


def rows(out):
    return [json.loads(line) for line in out.splitlines()]


def test_json_has_the_documented_members(decode):
    code, out = decode(["usb 1-1: new device", XID], "-j")
    (row,) = rows(out)
    fault = row.pop("fault")

    assert code == 0
    assert row == {
        "line": 2,
        "family": "nvidia.xid",
        "code": "79",
        "device": "0000:0a:00.0",
        "fields": {"pid": 77, "process": "python3", "message": "GPU has fallen off the bus."},
        "time": "12.5",
    }
    assert (fault["severity"], fault["pid"], fault["process"]) == ("fatal", 77, "python3")
    assert fault["mnemonic"]
    assert fault["meaning"]
    assert fault["action"] not in ("none", "watch")


def test_what_only_informs_has_no_fault_and_is_not_shown_to_people(decode):
    assert [row["fault"] for row in rows(decode([IDENTITY], "-j")[1])] == [None]
    assert decode([IDENTITY]) == (0, "")


def test_people_get_one_line_per_fault(decode):
    _, out = decode([XID, "nothing", XID, "last message repeated 4 times"])
    lines = out.splitlines()

    assert len(lines) == 3
    assert lines[0].startswith("12.5  0000:0a:00.0  nvidia.xid 79 ")
    assert "fatal, " in lines[0]
    assert "(4 times)" in lines[2]


def test_the_end_of_a_fault_is_told_as_such(decode):
    line = "NVRM: Xid (PCI:0000:0a:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
    (row,) = rows(decode([line], "-j")[1])

    assert (row["fault"]["phase"], row["fault"]["action"]) == ("recovery", "none")
    assert "  over: " in decode([line])[1]


def test_records_of_several_lines_are_one_object(decode):
    (row,) = rows(decode(["a", SXID, "b", MORE], "-j")[1])

    assert (row["line"], row["lines"], row["code"]) == (2, [2, 4], "20034")
    assert row["fields"]["data"] == ["0x00000001"]


def test_all_lines_are_there_in_order_when_asked_for(decode):
    out = rows(decode(["a", SXID, "b", "", MORE, "\udcff\x00c", XID, "d"], "-j", "--all")[1])

    assert [(row["line"], row["family"]) for row in out] == [
        (1, None), (2, "nvidia.sxid"), (3, None), (6, None), (7, "nvidia.xid"), (8, None),
    ]  # fmt: skip
    assert out[3]["fields"] == {"text": "\ufffd\\x00c"}
    assert all(row["fault"] is None for row in out if row["family"] is None)


def test_a_number_means_what_the_driver_means_by_it(decode):
    def mnemonic(lines, *words):
        return rows(decode(lines, "-j", *words)[1])[-1]["fault"]["mnemonic"]

    old, new = mnemonic([DRIFTED], "--driver", "550.54.15"), mnemonic([DRIFTED], "--driver", "575.51.02")

    assert old != new
    assert mnemonic([OLD_DRIVER, DRIFTED]) == old
    assert mnemonic([OLD_DRIVER, DRIFTED], "--driver", "575.51.02") == new


def test_a_device_goes_by_its_uuid_once_the_log_has_told_it(decode):
    before, _, after = rows(decode([XID, IDENTITY, XID], "-j")[1])

    assert before["fault"]["entity"] == "pci:0000:0a:00.0"
    assert after["fault"]["entity"] == "GPU-00000000-1111-2222-3333-444444444444"


def test_an_empty_log_is_fine(decode):
    assert decode([]) == (0, "")
    assert decode([], "-j", "--all") == (0, "")


def test_a_last_line_without_its_end_counts(tmp_path, capsys):
    (tmp_path / "log").write_text(f"a\n{XID}")
    main(["kmsg", "decode", "-j", str(tmp_path / "log")])

    assert rows(capsys.readouterr().out)[0]["line"] == 2


def test_options_may_stand_before_and_behind_the_file(tmp_path, capsys):
    (tmp_path / "log").write_text(f"{XID}\n")
    for words in (["-j", str(tmp_path / "log")], [str(tmp_path / "log"), "-j"]):
        assert main(["kmsg", "decode", *words]) == 0
        assert rows(capsys.readouterr().out)[0]["code"] == "79"


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    (tmp_path / "log.gz").write_bytes(gzip.compress(XID.encode()))
    for path, words in (
        (tmp_path / "nowhere", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "log.gz", "is compressed"),
    ):
        assert main(["kmsg", "decode", str(path)]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert str(path) in said
    assert f"zcat {tmp_path / 'log.gz'} | eagle-eye kmsg decode" in said


def test_usage_is_explained(capsys):
    assert main(["kmsg"]) == 2
    assert main(["kmsg", "encode"]) == 2
    assert main(["kmsg", "decode", "--all", "/dev/null"]) == 2
    assert main(["kmsg", "decode", "--drivers", "5"]) == 2
    assert "--drivers" in capsys.readouterr().err
    assert main(["kmsg", "decode", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 80


def test_a_terminal_is_nothing_to_read():
    main_end, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "eagle_eye", "kmsg", "decode"],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(main_end)
    os.close(terminal)

    assert done.returncode == 2
    assert "dmesg | eagle-eye kmsg decode" in done.stderr


@pytest.fixture
def running():
    """The command on a pipe that stays open."""
    child = subprocess.Popen(
        [sys.executable, "-m", "eagle_eye", "kmsg", "decode", "-j"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    yield child
    child.kill()
    child.wait(PATIENCE_SECONDS)
    child.stdin.close()
    child.stdout.close()


def line_of(child):
    ready, _, _ = select.select([child.stdout], [], [], PATIENCE_SECONDS)
    assert ready, "nothing was printed"
    return json.loads(child.stdout.readline())


def test_a_pipe_is_decoded_as_it_goes(running):
    running.stdin.write(f"{XID}\n".encode())
    assert line_of(running)["code"] == "79"

    # An incomplete record does not wait for the next line.
    running.stdin.write(f"{SXID}\n".encode())
    assert line_of(running)["line"] == 2

    running.stdin.write(XID[:20].encode())
    time.sleep(0.1)
    running.stdin.write(f"{XID[20:]}\n".encode())
    assert line_of(running)["line"] == 3

    running.stdin.close()
    assert running.wait(PATIENCE_SECONDS) == 0


def test_an_endless_line_does_not_fill_the_memory(running):
    for _ in range(64):
        running.stdin.write(b"x" * 1_000_000)
    running.stdin.write(f"\n{XID}\n".encode())

    assert line_of(running)["line"] == 2
    assert psutil.Process(running.pid).memory_info().rss < 150e6


def test_a_reader_that_goes_away_ends_it(tmp_path):
    (tmp_path / "log").write_text(f"{XID}\n" * 20_000)
    child = subprocess.Popen(
        [sys.executable, "-m", "eagle_eye", "kmsg", "decode", str(tmp_path / "log")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline()
    child.stdout.close()

    assert child.wait(PATIENCE_SECONDS) == 1
    assert child.stderr.read() == ""
    child.stderr.close()
