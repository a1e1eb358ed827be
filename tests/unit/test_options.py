"""Settings: what a user may write, and errors that name the key, the value and what is allowed."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import UsageError
from eagle_eye.probes.options import _ALLOWED, Option

INTERVAL = Option("interval", "duration", "500ms", "", minimum="50ms", maximum="60s")
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()), st.binary())


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("duration", "500ms", 500_000_000),
        ("duration", "0.1s", 100_000_000),
        ("duration", "2", 2_000_000_000),
        ("duration", 1.5, 1_500_000_000),
        ("duration", "1 m", 60_000_000_000),
        ("size", "64MiB", 64 << 20),
        ("size", 4096, 4096),
        ("integer", "-3", -3),
        ("boolean", "Yes", True),
        ("boolean", False, False),
        ("path", "/tmp/x", Path("/tmp/x")),
        ("address", "127.0.0.1:0", ("127.0.0.1", 0)),
        ("address", "[::1]:9750", ("::1", 9750)),
        ("address", ":9750", ("", 9750)),
    ],
)
def test_lawful_values(kind, raw, value):
    assert Option("key", kind, None, "").parse(raw, "key") == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("duration", "5 parsecs"),
        ("duration", "-1s"),
        ("duration", "1e3s"),
        ("duration", True),
        ("size", "1kB"),
        ("integer", 1.0),
        ("integer", True),
        ("boolean", "maybe"),
        ("path", "a\0b"),
        ("address", "localhost"),
        ("address", "host:70000"),
        ("address", "ho st:1"),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(kind, raw):
    with pytest.raises(UsageError) as error:
        Option("key", kind, None, "").parse(raw, "file agent.yaml: key")

    assert "file agent.yaml: key" in error.value.message
    assert repr(raw) in error.value.message
    assert _ALLOWED[kind] in error.value.message


def test_bounds_are_written_as_a_user_writes_them():
    with pytest.raises(UsageError, match="from 50ms to 60s"):
        INTERVAL.parse("100", "--interval")


def test_a_secret_is_never_shown():
    with pytest.raises(UsageError) as error:
        Option("token", "text", None, "", secret=True).parse("s3cr\0et", "token")

    assert "s3cr" not in error.value.message


@given(kind=st.sampled_from(sorted(_ALLOWED)), raw=anything)
def test_no_input_makes_anything_but_a_value_or_a_usage_error(kind, raw):
    option = Option("key", kind, None, "", choices=("a", "b"))
    with contextlib.suppress(UsageError):
        option.parse(raw, "key")
