"""How the settings become the publisher's own."""

import pytest

from eagle_eye.collector.publisher_source import MAX_SECRET_BYTES, nats_options
from eagle_eye.collector.settings import NatsSettings
from eagle_eye.native.errors import UsageError


def test_a_secret_is_what_its_file_holds(tmp_path):
    (tmp_path / "token").write_text("  s3cret\n")

    assert nats_options(NatsSettings(token_file=tmp_path / "token")).token == "s3cret"


@pytest.mark.parametrize("setting", ["password_file", "token_file"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"\xff\xfe\0", "not UTF-8"),
        (b"\n", "is empty"),
        (b"s" * (MAX_SECRET_BYTES + 1), "longer than a secret"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_and_not_quoted(tmp_path, setting, content, words):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        nats_options(NatsSettings(**{setting: path}))

    assert f"nats.{setting}" in caught.value.message
    assert str(path) in caught.value.message
    assert "sss" not in caught.value.message
