"""The host's and Ascend's families before ordinary lines, hostile text, and the real kernel log."""

import json
import os
import select
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eagle_eye.native.errors import UnavailableError
from eagle_eye.native.kmsg import KernelLog
from eagle_eye.probes.decode.families import FAMILIES
from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.decode.grammar import decode, decode_lines
from eagle_eye.probes.decode.record import tokenize

ROOT = Path(__file__).resolve().parents[2]
HOST = [family for family in FAMILIES if not family.name.startswith("nvidia.")]
LINES = [json.loads(line) for line in (ROOT / "tests/fixtures/decode/host_lines.jsonl").read_text().splitlines()]
ORDINARY = (ROOT / "tests/fixtures/decode/ordinary.txt").read_text().splitlines()
PIECES = sorted({trigger for family in HOST for trigger in family.triggers})

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)
hostile = st.lists(st.one_of(words, st.sampled_from(PIECES), st.sampled_from(LINES).map(lambda one: one["line"])))
cut = st.tuples(st.sampled_from(LINES), st.integers(0, 200), st.integers(0, 200), words)


@pytest.mark.parametrize("line", ORDINARY)
def test_an_ordinary_line_is_no_fault(line):
    found = decode(tokenize(line).text)

    assert found is None or found.code == ""


@given(words)
def test_no_fault_is_invented_from_text(text):
    assert decode(text) is None


@given(hostile.map("".join))
def test_no_text_makes_a_parser_raise(text):
    for family in HOST:
        found = family.parse(text)
        assert found is None or is_sound(found)


@given(cut)
def test_a_line_that_was_cut_or_overwritten_makes_no_parser_raise(parts):
    line, start, end, inserted = parts
    text = line["line"][:start] + inserted + line["line"][end:]

    for family in HOST:
        found = family.parse(text)
        assert found is None or is_sound(found)


@given(st.lists(cut, max_size=6))
@example(
    [
        ({"line": "sd 0:0:1:0: [] tag#7 Sense Key : Medium Error"}, 99, 99, ""),
        ({"line": "XFS (sdb)"}, 9, 9, ": log I/O error -5"),
    ]
)
@example([({"line": "nvme 0000:84:00.0:    [12"}, 99, 99, "²] Timeout")])
def test_lines_that_were_cut_are_joined_or_not_and_none_is_lost(parts):
    texts = [line["line"][:start] + inserted + line["line"][end:] for line, start, end, inserted in parts]
    texts = ["".join(char for char in text if char.isprintable()) for text in texts]

    found = list(decode_lines(texts))

    covered = [line for one in found for line in one.lines]
    assert len(covered) == len(set(covered))
    assert all(is_sound(one.decoded) for one in found)


def is_sound(found: Decoded) -> bool:
    """Can it be published: JSON of a bounded size, a plain family, a PCI address or none?"""
    assert found.family.replace("_", "").replace(".", "").isalnum()
    assert found.device == "" or found.device.count(":") == 2
    return len(msgspec.json.encode(found)) < 8192 and all(name.islower() for name in found.fields)


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_joins_lose_no_line_and_keep_the_order(lines):
    found = list(decode_lines(one["line"] for one in lines))

    covered = [line for one in found for line in one.lines]
    assert sorted(covered) == list(range(1, len(lines) + 1))
    assert [one.lines[0] for one in found] == sorted(one.lines[0] for one in found)
    assert all(is_sound(one.decoded) for one in found)


@pytest.mark.parametrize("family", HOST, ids=lambda family: family.name)
@pytest.mark.parametrize("filler", ["a", " ", "[", "]: ", "(", "{1}[Hardware Error]: ", ": ", "0x1", "9", "é"])
def test_a_long_text_of_anything_takes_linear_time(family, filler):
    """Were it quadratic, this would not end within the time that a test has."""
    padding = filler * (500_000 // len(filler))
    for trigger in ("", *family.triggers[:3]):
        found = family.parse(trigger + padding)
        sound = found is None or is_sound(found)
        assert sound, trigger


@pytest.fixture
def kernel_log():
    """The kernel's own log, from now on."""
    try:
        log = KernelLog(Path("/dev/kmsg"))
        os.close(os.open("/dev/kmsg", os.O_WRONLY))
    except (UnavailableError, OSError) as error:
        pytest.skip(f"the kernel log cannot be written and read: {error}")
    yield log
    log.close()


@pytest.mark.parametrize("family", sorted({one["family"] for one in LINES}))
def test_what_goes_through_the_real_kernel_log_is_decoded_from_it(kernel_log, family):
    sent = [tokenize(one["line"]).text for one in LINES if one["family"] == family]
    wanted = Counter(msgspec.json.encode(decode(text)) for text in sent)
    for text in sent:
        # The kernel limits how much one open file writes.
        with open("/dev/kmsg", "wb", buffering=0) as kernel:
            kernel.write(text.encode() + b"\n")

    missing, until = +wanted, time.monotonic() + 20
    while missing and time.monotonic() < until:
        batch = kernel_log.read()
        seen = (decode(batch.text(index)) for index in range(len(batch.records)))
        missing -= Counter(msgspec.json.encode(one) for one in seen if one)
        if not batch.more:
            select.select([kernel_log.wake_fd], [], [], 0.1)
    assert not missing
