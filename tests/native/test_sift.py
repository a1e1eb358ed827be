"""The search for literals against a slow reference."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.kmsg import KernelLog
from eagle_eye.native.sift import Sift

letters = st.binary(max_size=200).map(lambda raw: bytes(b"ab\nX"[byte % 4] for byte in raw))
literals = st.dictionaries(
    st.binary(min_size=4, max_size=9).map(lambda raw: bytes(b"abX"[byte % 3] for byte in raw)),
    st.integers(0, 2**64 - 1),
    max_size=12,
)


def reference(wanted, text):
    mask = 0
    for literal, bits in wanted.items():
        mask |= bits if literal in text else 0
    return mask


@given(wanted=literals, text=st.one_of(letters, st.binary(max_size=50)))
def test_a_text_has_the_masks_of_its_literals(wanted, text):
    assert Sift(wanted).text(text) == reference(wanted, text)


@given(wanted=literals, data=letters, first=st.integers(1, 2**40))
def test_lines_are_found_with_their_numbers_and_places(wanted, data, first):
    lines = data.split(b"\n")
    starts = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    expected = [
        (mask, first + number, starts[number], len(line))
        for number, line in enumerate(lines)
        if (mask := reference(wanted, line))
    ]
    hits, following = Sift(wanted).lines(data, first)

    assert hits == expected
    assert following == first + data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_more_hits_than_fit_at_once_are_all_found():
    hits, following = Sift({b"abcd": 1}).lines(b"xabcd\n" * 10_000)

    assert [line for _, line, _, _ in hits] == list(range(1, 10_001))
    assert following == 10_001


def test_records_of_a_kernel_log_are_searched_where_they_lie(tmp_path):
    texts = ["nothing", "a needle here", "needl", "", "needle", "\\x0aneedle and thread"]
    log = tmp_path / "log"
    log.write_text("".join(f"6,{number},5,-;{text}\n SUBSYSTEM=needle\n" for number, text in enumerate(texts)))
    reader = KernelLog(log, from_boot=True)
    batch = reader.read()
    sift = Sift({b"needle": 1, b"thread": 1 << 63})

    assert sift.records(batch).tolist() == [0, 1, 0, 0, 1, 1 | 1 << 63]
    batch.records = batch.records[::2]
    assert sift.records(batch).tolist() == [0, 0, 1]
    batch.records = batch.records[:0]
    assert sift.records(batch).dtype == np.uint64
    reader.close()


def test_records_that_point_outside_of_the_buffer_hold_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_text("6,1,5,-;needle\n")
    reader = KernelLog(Path(log), from_boot=True)
    batch = reader.read()
    batch.records = batch.records.copy()
    for offset, length in ((0, 2**32 - 1), (2**32 - 1, 6), (len(batch.buffer) - 3, 4)):
        batch.records["text_offset"], batch.records["text_bytes"] = offset, length
        assert Sift({b"needle": 1}).records(batch).tolist() == [0]
    reader.close()


@pytest.mark.parametrize("literal", [b"", b"abc", b"a" * 65])
def test_a_literal_has_4_to_64_bytes(literal):
    with pytest.raises(ValueError, match="4 to 64"):
        Sift({literal: 1})


def test_there_are_at_most_1024_literals():
    many = {f"{number:04}".encode(): 1 for number in range(1024)}
    assert Sift(many).text(b"x1023x") == 1
    with pytest.raises(ValueError, match="too many"):
        Sift({**many, b"another": 1})
