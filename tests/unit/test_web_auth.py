"""Logins: right, wrong, unknown and too many; and what the Accept headers of strangers mean."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.collector import web_auth
from eagle_eye.collector.web_accept import accepts_gzip, prefers_openmetrics
from eagle_eye.collector.web_auth import CHECKS_AT_ONCE, KNOWN_PEERS, PEER_CHECKS_AT_ONCE, BasicAuth, TokenBucket


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def header(user: str, password: str | bytes) -> str:
    secret = password if isinstance(password, bytes) else password.encode()
    return "Basic " + base64.b64encode(user.encode() + b":" + secret).decode()


def hashed(password: str | bytes, cost: int = 4) -> str:
    secret = password if isinstance(password, bytes) else password.encode()
    return bcrypt.hashpw(secret, bcrypt.gensalt(cost)).decode()


async def test_nobody_needs_a_password_without_users(thread):
    assert await BasicAuth({}, thread).check(None, "peer") == "allowed"


@pytest.mark.parametrize("password", ["geheim", "pässwörd 日本", "with:colon", "", "x" * 72])
async def test_right_and_wrong_passwords(thread, password):
    auth = BasicAuth({"alice": hashed(password).replace("$2b$", "$2y$"), "bob": hashed("other")}, thread)
    assert await auth.check(header("alice", password), "a") == "allowed"
    assert await auth.check(header("alice", password).replace("Basic", "bAsIc "), "a") == "allowed"
    for user, other in (("alice", "no" + password), ("bob", password), ("carol", password), ("", password)):
        assert await auth.check(header(user, other), user) == "denied"


async def test_passwords_are_cut_where_htpasswd_cuts_them(thread):
    auth = BasicAuth({"alice": hashed("x" * 72)}, thread)
    assert await auth.check(header("alice", "x" * 100), "peer") == "allowed"
    assert await auth.check(header("alice", "x" * 71), "peer") == "denied"


@given(
    st.none() | st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: "Basic " + base64.b64encode(raw).decode())
)
def test_no_header_breaks_it_or_gets_in(value):
    with ThreadPoolExecutor(1) as thread:
        auth = BasicAuth({"alice": hashed("geheim")}, thread)
        assert asyncio.run(auth.check(value, "peer")) == "denied"


async def test_a_right_login_is_hashed_once(thread, monkeypatch):
    auth = BasicAuth({"alice": hashed("geheim")}, thread)
    assert await auth.check(header("alice", "geheim"), "peer") == "allowed"
    monkeypatch.setattr(web_auth, "_matches", lambda *_: pytest.fail("hashed again"))
    for _ in range(100):
        assert await auth.check(header("alice", "geheim"), "peer") == "allowed"
    assert all(b"geheim" not in digest for digest in auth._right)


async def test_unknown_users_cost_what_known_ones_cost(thread):
    auth = BasicAuth({"alice": hashed("geheim", 9)}, thread)

    async def seconds(user: str, peer: str) -> float:
        started = time.perf_counter()
        assert await auth.check(header(user, "wrong"), peer) == "denied"
        return time.perf_counter() - started

    known = [await seconds("alice", f"a{n}") for n in range(7)]
    unknown = [await seconds("mallory", f"b{n}") for n in range(7)]
    assert 0.5 < statistics.median(unknown) / statistics.median(known) < 2


async def test_one_peer_cannot_use_up_the_tries_of_another(thread):
    auth = BasicAuth({"alice": hashed("geheim")}, thread)
    answers = [await auth.check(header("alice", f"guess {n}"), "evil") for n in range(30)]
    assert answers.count("denied") in range(PEER_CHECKS_AT_ONCE, PEER_CHECKS_AT_ONCE + 2)
    assert answers[-1] == "busy"
    assert await auth.check(header("alice", "geheim"), "good") == "allowed"


async def test_many_peers_together_are_bounded_too(thread):
    auth = BasicAuth({"alice": hashed("geheim")}, thread)
    answers = [await auth.check(header("alice", "guess"), f"evil {n}") for n in range(3 * KNOWN_PEERS)]
    assert answers.count("denied") in range(CHECKS_AT_ONCE, CHECKS_AT_ONCE + 10)
    assert len(auth._peers) == KNOWN_PEERS


async def test_hashing_leaves_the_loop_free(thread):
    auth = BasicAuth({"alice": hashed("geheim", 11)}, thread)
    check = asyncio.create_task(auth.check(header("alice", "wrong"), "peer"))
    beats = 0
    while not check.done():
        await asyncio.sleep(0.001)
        beats += 1
    assert check.result() == "denied"
    assert beats > 10


def test_a_bucket_refills():
    bucket = TokenBucket(50, 3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    time.sleep(0.05)
    assert bucket.take()


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.6", False),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nan", False),
        ("text/plain;version=0.0.4;q=0.3,*/*;q=0.2", False),
    ],
)
def test_the_format_is_the_one_asked_for(accept, openmetrics):
    assert prefers_openmetrics(accept) is openmetrics


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.2", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*, gzip;q=0.0", False),
    ],
)
def test_gzip_is_only_for_those_who_take_it(encoding, compressed):
    assert accepts_gzip(encoding) is compressed


@given(st.text(max_size=200) | st.text(",;=q1.0 gzipapplication/openmetrics-text", max_size=200))
def test_no_accept_header_breaks_it(value):
    assert prefers_openmetrics(value) in {True, False}
    assert accepts_gzip(value) in {True, False}
