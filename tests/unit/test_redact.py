"""No secret of a known shape leaves the node in a bundle, whatever is around it."""

import string

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eagle_eye.collector.forensics.redact import MASK, MAX_TEXT, is_clean, redacted, redacted_text

WORD = string.ascii_letters + string.digits
UPPER32 = string.ascii_uppercase + "234567"


def word(least, most=None, letters=WORD):
    return st.text(letters, min_size=least, max_size=most or least)


# A secret and the text that carries it: `{}` is the secret.
CARRIED = [
    (word(8, 30), "https://user:{}@host.example/path"),
    (word(20, 30), "nats://{}@10.0.0.1:4222"),
    (word(8, 30), "Authorization: Bearer {}"),
    (word(8, 30), "authorization=Basic {}"),
    (word(8, 30), '"Authorization": "{}"'),
    (word(8, 30), "serve --api-key {} --port 80"),
    (word(8, 30), "serve --hf-token={} --port 80"),
    (word(8, 30), "serve --db-password '{}'"),
    (word(8, 30), "HF_TOKEN={} python -m vllm"),
    (word(8, 30), "AWS_SECRET_ACCESS_KEY={}"),
    (word(8, 30), "password: {}"),
    (word(8, 30), "GET /x?a=1&api_key={}&b=2"),
    (word(8, 30), "mysql_password={};"),
    (word(8, 30), "PGPASSWORD={} psql"),
    (word(8, 30), "MYSQL_PWD={}"),
    (word(8, 30), "DB_PASS={}"),
    (word(8, 30), "clientSecret={}"),
    (word(8, 30), "serve --auth {}"),
    (word(8, 30), "serve --pass={}"),
    (word(8, 30), "curl -u admin:{} http://host.example"),
    (word(8, 30), "sshpass -p {} ssh host.example"),
    (word(8, 30), "GET https://host.example/x?key={}&b=2"),
    (word(8, 30), "Cookie: sid={}; a=b"),
    (word(8, 30), '{{"api_key": ["{}"]}}'),
    (word(16, letters=string.ascii_uppercase + string.digits).map("AKIA".__add__), "id {}"),
    (word(36).map("ghp_".__add__), "clone with {}"),
    (word(34).map("hf_".__add__), "{}"),
    (word(40).map("sk-".__add__), "using {} now"),
    (word(60).map("nvapi-".__add__), "{}"),
    (word(20).map("glpat-".__add__), "({})"),
    (word(56, letters=UPPER32).map("SU".__add__), "seed {}"),
    (st.tuples(word(10), word(20), word(20)).map(lambda one: f"eyJ{one[0]}.{one[1]}.{one[2]}"), "jwt {}"),
    (word(64).map(lambda body: f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"), "{}"),
]
SURROUNDINGS = st.text(max_size=40).filter(lambda text: MASK not in text)


@pytest.mark.parametrize(("secrets", "carrier"), CARRIED, ids=[carrier for _, carrier in CARRIED])
@given(data=st.data())
def test_a_secret_of_a_known_shape_never_gets_through(secrets, carrier, data):
    secret = data.draw(secrets)
    before, after = data.draw(SURROUNDINGS), data.draw(SURROUNDINGS)
    assume(secret not in f"{before} {carrier} {after}")
    text = f"{before} {carrier.format(secret)} {after}"

    assert secret not in redacted_text(text)
    assert secret not in msgspec.json.encode(redacted({"cmdline": ["sh", "-c", text], "deep": [{"x": text}]})).decode()
    assert not is_clean(msgspec.json.encode(text).decode())
    assert redacted_text(redacted_text(text)) == redacted_text(text)


@pytest.mark.parametrize("option", ["--api-key", "--hf-token", "-password", "--ssl-key"])
def test_a_secret_behind_its_option_in_a_list_of_words(option):
    assert redacted(["vllm", option, "abc", "--port", "80"]) == ["vllm", option, MASK, "--port", "80"]


@pytest.mark.parametrize("words", [("curl", "-u", "me:abc"), ("sshpass", "-p", "abc"), ("x", "--jwt", "abc")])
def test_a_secret_in_a_word_of_a_command(words):
    assert "abc" not in str(redacted([*words, "host"]))
    assert redacted([*words, "host"])[-1] == "host"


@pytest.mark.parametrize("pair", [{"name": "HF_TOKEN", "value": "abc"}, {"key": "db.password", "value": ["abc"]}])
def test_a_secret_beside_its_name(pair):
    assert redacted([pair]) == [{**pair, "value": MASK}]
    assert redacted({"name": "port", "value": "80"}) == {"name": "port", "value": "80"}


@pytest.mark.parametrize(
    "name",
    [
        "accessToken",
        "clientSecret",
        "PGPASSWORD",
        "MYSQL_PWD",
        "DB_PASS",
        "auth",
        "signing_key",
        "password",
        "HF_TOKEN",
        "api-key",
        "apiKey",
        "db.password",
        "X-Cookie",
        "client_secret",
    ],
)
def test_a_value_under_a_telling_name_is_masked(name):
    assert redacted({name: "plain", "port": 80}) == {name: MASK, "port": 80}
    assert redacted({name: ["plain"]}) == {name: MASK}


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: Xid (PCI:0000:9b:00): 79, pid=4711, name=python3, GPU has fallen off the bus.",
        "vllm serve /models/llama --max-num-batched-tokens 8192 --tokenizer /models/tokenizer --port 8000",
        "GPU-5e1ec7ed-0100-4000-8000-000000000000",
        "33823834-0153-4c3e-a589-823fc962dbbe:kmsg:12",
        "http://127.0.0.1:9750/metrics",
        "0000:9b:00.0 link key press",
        "prefill_tokens=3 decode_tokens=4",
    ],
)
def test_evidence_stays(text):
    assert redacted_text(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_comes_is_still_json_and_no_error(value):
    msgspec.json.encode(redacted(value))


def test_long_and_deep_values_are_bounded():
    deep = []
    for _ in range(500):
        deep = [deep]

    assert len(redacted_text("x" * (3 * MAX_TEXT))) < 2 * MAX_TEXT
    assert MASK in str(redacted(deep))
    for text in (
        "=" * MAX_TEXT,
        "a" * MAX_TEXT,
        "--" * MAX_TEXT,
        "token" * MAX_TEXT,
        "://" * MAX_TEXT,
        "A_" * MAX_TEXT,
    ):
        redacted_text(text)  # linear, or the timeout of the test tells
