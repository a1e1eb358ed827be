from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.collector.subjects import MAX_KIND_TOKENS, MAX_TOKEN_CHARACTERS, Subjects, kind_tokens, token
from eagle_eye.native.errors import UsageError

VALID = re.compile(r"[A-Za-z0-9_-]+")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("node1", "node1"),
        ("gpu-07.rack-3.example.com", "gpu-07_rack-3_example_com"),
        ("UPPER_lower-9", "UPPER_lower-9"),
        ("a b", "a_b"),
        ("*", "_"),
        (">", "_"),
        ("line\r\nPUB x 1", "line__PUB_x_1"),
        ("größe", "gr__e"),
        ("\udcff", "_"),
    ],
)
def test_token(name: str, expected: str) -> None:
    assert token(name) == expected


@given(st.text(min_size=1, max_size=2000))
def test_any_name_gives_one_valid_token(name: str) -> None:
    result = token(name)
    assert VALID.fullmatch(result)
    assert len(result) <= MAX_TOKEN_CHARACTERS
    assert token(result) == result


@given(st.text(alphabet="abc-_0", min_size=1, max_size=MAX_TOKEN_CHARACTERS))
def test_a_valid_name_is_left_alone(name: str) -> None:
    assert token(name) == name


def test_long_names_with_the_same_beginning_stay_apart() -> None:
    assert token("n" * 300 + "1") != token("n" * 300 + "2")


def test_an_empty_name_is_refused_by_what_it_is() -> None:
    with pytest.raises(UsageError, match="node name is empty"):
        Subjects("c", "")
    with pytest.raises(UsageError, match="cluster name is empty"):
        Subjects("", "n")


@given(st.text(max_size=300))
def test_any_kind_gives_valid_tokens(kind: str) -> None:
    tokens = kind_tokens(kind).split(".")
    assert len(tokens) <= MAX_KIND_TOKENS
    assert all(VALID.fullmatch(part) for part in tokens)


def test_subjects_of_a_node() -> None:
    subjects = Subjects("prod", "gpu-1.example")
    assert subjects.snapshot == "eagle_eye.v1.prod.gpu-1_example.snapshot"
    assert subjects.event("sched.long_wait") == "eagle_eye.v1.prod.gpu-1_example.event.sched.long_wait"
    assert subjects.stall == "eagle_eye.v1.prod.gpu-1_example.stall"
    assert subjects.finding == "eagle_eye.v1.prod.gpu-1_example.finding"
    assert subjects.session == "eagle_eye.v1.prod.gpu-1_example.session"
