"""Servers that say no: without JetStream, to our identity, to our subjects, to plain text."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import nkeys
import pytest
import structlog
from nacl.signing import SigningKey

from eagle_eye.collector.nats_options import NatsOptions
from eagle_eye.native.errors import UsageError

SECRET = "correct-horse-battery"


def user_seed() -> tuple[bytes, str]:
    """Seed and public key of a new nkey user."""
    raw = bytes(SigningKey.generate())
    seed = nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER)
    return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_without_jetstream_events_wait_and_snapshots_flow(server, publisher, event, until):
    real = server(jetstream=False)
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    agent.publish_event(event(1))
    agent.publish_lossy("eagle_eye.v1.c.n_1.snapshot", b"{}")
    await until(lambda: agent.statistics().stream_reason)
    health = agent.health()
    assert health.state == "degraded"
    assert health.reason == "JetStream is off on this server, so events cannot be stored; 1 events wait"
    await until(lambda: agent.statistics().lossy_published == 1)
    await until(lambda: agent.statistics().events_spooled == 1)

    # JetStream is switched on by a restart with another configuration.
    settings = json.loads((real.directory / "server.conf").read_text())
    settings["jetstream"] = {"store_dir": str(real.directory)}
    (real.directory / "server.conf").write_text(json.dumps(settings))
    real.kill()
    real.start()
    await until(lambda: agent.statistics().events_acked == 1)
    assert await real.stored_numbers() == [1]
    assert agent.health().state == "ok"


async def test_wrong_password_is_said_and_never_shown(server, publisher, event, until):
    real = server(authorization={"user": "eye", "password": "other"})
    real.start()
    with structlog.testing.capture_logs() as logs:
        agent = await publisher(f"nats://eye:{SECRET}@127.0.0.1:{real.port}")
        agent.publish_event(event(1))
        await until(lambda: agent.statistics().state == "disconnected")
        shown = f"{agent.statistics()} {agent.health()} {logs}"
    assert "Authorization Violation" in agent.health().reason
    assert f"nats://127.0.0.1:{real.port}" in agent.health().reason
    assert SECRET not in shown


@pytest.mark.parametrize("where", ["url", "options", "token", "token_url", "nkey"])
async def test_each_identity_is_accepted(server, publisher, event, until, tmp_path, where):
    seed, public = user_seed()
    (tmp_path / "seed.nk").write_bytes(seed + b"\n")
    authorization = {
        "url": {"user": "eye", "password": "p@ss/w:rd"},
        "options": {"user": "eye", "password": SECRET},
        "token": {"token": SECRET},
        "token_url": {"token": SECRET},
        "nkey": {"users": [{"nkey": public}]},
    }[where]
    real = server(authorization=authorization)
    real.start()
    user_info = {"url": "eye:p%40ss%2Fw%3Ard@", "token_url": f"{SECRET}@"}.get(where, "")
    settings = {
        "options": {"user": "eye", "password": SECRET},
        "token": {"token": SECRET},
        "nkey": {"nkey_file": tmp_path / "seed.nk"},
    }.get(where, {})
    agent = await publisher(f"nats://{user_info}127.0.0.1:{real.port}", **settings)
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().events_acked == 1)
    assert agent.statistics().server == real.url


async def test_a_credentials_file_signs_the_servers_nonce(server, publisher, event, until, tmp_path):
    config = make_operator(tmp_path / "user.creds")
    real = server(**config)
    real.start()
    agent = await publisher(real.url, credentials_file=tmp_path / "user.creds")
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().events_acked == 1)


def make_operator(creds):
    """Settings of a server in operator mode, and the credentials file of a user, as `nsc` would make them."""
    operator, system, account, user = (
        nkeys.from_seed(bytearray(nkeys.encode_seed(bytes(SigningKey.generate()), prefix)))
        for prefix in (
            nkeys.PREFIX_BYTE_OPERATOR,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_USER,
        )
    )
    limits = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
    system_claims = {"limits": limits | {"wildcards": True}, "type": "account", "version": 2}
    account_claims = {"limits": limits | storage, "type": "account", "version": 2}
    user_claims = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2}
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{sign_jwt(account, user, user_claims)}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return {
        "operator": sign_jwt(operator, operator, {"type": "operator", "version": 2}),
        "system_account": system.public_key.decode(),
        "resolver": "MEMORY",
        "resolver_preload": {
            system.public_key.decode(): sign_jwt(operator, system, system_claims),
            account.public_key.decode(): sign_jwt(operator, account, account_claims),
        },
    }


def sign_jwt(issuer, subject, claims):
    def packed(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    header = packed(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    body = {
        "jti": "test",
        "iat": 1_700_000_000,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "test",
        "nats": claims,
    }
    signed = header + b"." + packed(json.dumps(body).encode())
    return (signed + b"." + packed(issuer.sign(signed))).decode()


async def test_a_forbidden_subject_is_named(server, publisher, event, until):
    user = {
        "user": "eye",
        "password": SECRET,
        "permissions": {"publish": ["$JS.API.>", "elsewhere.>"], "subscribe": "_INBOX.>"},
    }
    real = server(authorization={"users": [user]})
    real.start()
    agent = await publisher(real.url, user="eye", password=SECRET)
    await until(lambda: agent.statistics().state == "connected")
    agent.publish_event(event(1))
    await until(lambda: "permissions violation" in agent.health().reason)
    assert "eagle_eye.v1.c.n_1.event.test.happened" in agent.health().reason
    assert agent.statistics().events_queued == 1


async def test_without_the_right_to_make_streams_existing_ones_are_used(server, publisher, event, until):
    admin = {"user": "admin", "password": "admin"}
    eye = {
        "user": "eye",
        "password": SECRET,
        "permissions": {"publish": ["eagle_eye.>"], "subscribe": "_INBOX.>"},
    }
    real = server(authorization={"users": [admin, eye]})
    real.login = admin
    real.start()
    async with real.client() as client:
        await client.jetstream().add_stream(name="EAGLE_EYE_EVENTS", subjects=["eagle_eye.v1.*.*.event.>"])
    agent = await publisher(real.url, user="eye", password=SECRET)
    for number in range(1, 101):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 100)
    assert await real.stored_numbers() == list(range(1, 101))
    assert agent.health().state == "ok"


async def test_mutual_tls_with_password(server, publisher, event, until, authority):
    server_files = authority.issue("server")
    client_files = authority.issue("client")
    tls = {
        "cert_file": str(server_files[0]),
        "key_file": str(server_files[1]),
        "ca_file": str(authority.file),
        "verify": True,
    }
    real = server(tls=tls, authorization={"user": "eye", "password": SECRET})
    real.start()
    settings = {"user": "eye", "password": SECRET, "tls_ca": authority.file}
    agent = await publisher(
        f"tls://localhost:{real.port}", tls_certificate=client_files[0], tls_key=client_files[1], **settings
    )
    for number in range(1, 1001):
        agent.publish_event(event(number))
    await until(lambda: agent.statistics().events_acked == 1000)
    real.kill()
    agent.publish_event(event(1001))
    await asyncio.sleep(0.2)
    real.start()
    await until(lambda: agent.statistics().events_acked == 1001)
    assert agent.statistics().events_produced == 1001
    await agent.stop(2.0)


async def test_a_transport_that_does_not_abort_is_no_end_of_connecting(server, publisher, event, until, monkeypatch):
    """As Python 3.11.2 does for TLS that is closed already."""

    def closed_already(self) -> None:
        raise AttributeError("'NoneType' object has no attribute '_abort'")

    real = server()
    real.start()
    agent = await publisher(real.url)
    await until(lambda: agent.statistics().state == "connected")
    monkeypatch.setattr("asyncio.selector_events._SelectorTransport.abort", closed_already)
    real.kill()
    await until(lambda: agent.statistics().state == "disconnected")
    real.start()
    await until(lambda: agent.statistics().connects == 2)
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().events_acked == 1)


async def test_a_server_of_another_authority_is_refused(server, publisher, until, authority, tmp_path):
    server_files = authority.issue("server")
    real = server(tls={"cert_file": str(server_files[0]), "key_file": str(server_files[1])})
    real.start()
    agent = await publisher(f"tls://localhost:{real.port}")
    await until(lambda: agent.statistics().state == "disconnected")
    assert "certificate is not accepted" in agent.health().reason


async def test_a_password_never_leaves_without_the_tls_that_was_asked_for(publisher, until, event):
    """Whoever answers in the server's place may say that TLS is not needed."""
    heard = bytearray()

    async def impostor(reader, writer):
        writer.write(b'INFO {"auth_required":true,"max_payload":1048576,"headers":true,"version":"2.10.0"}\r\n')
        while raw := await reader.read(65536):
            heard.extend(raw)
            writer.write(b"PONG\r\n")
        writer.close()

    listener = await asyncio.start_server(impostor, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    agent = await publisher(f"tls://127.0.0.1:{port}", user="eye", password=SECRET)
    agent.publish_event(event(1))
    await until(lambda: agent.statistics().state == "disconnected")
    assert "offers no TLS" in agent.health().reason
    assert SECRET.encode() not in heard
    assert b"CONNECT" not in heard
    listener.close()


def test_settings_print_without_secrets():
    shown = repr(NatsOptions(servers=(f"tls://eye:{SECRET}@[::1]:4223",)))
    assert shown == "NatsOptions(tls://[::1]:4223; user, password; TLS)"
    assert repr(NatsOptions(servers=(f"x://{SECRET}@host",))) == "NatsOptions(unusable servers)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"servers": ()}, "no NATS server"),
        ({"servers": ("http://x",)}, r"not a nats://HOST:PORT"),
        ({"servers": ("nats://eye:hunter2@host:notaport",)}, r"not a nats://HOST:PORT"),
        ({"servers": ("nats://",)}, r"not a nats://HOST:PORT"),
        ({"servers": ("nats://a b",)}, r"not a nats://HOST:PORT"),
        ({"user": "a", "password": "b", "token": "c"}, "one identity"),
        ({"tls_certificate": Path("/dev/null")}, "go together"),
        ({"tls_ca": Path("/nonexistent")}, "/nonexistent cannot be read: No such file"),
        ({"tls_ca": Path("/dev/null")}, "do not load"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        NatsOptions(**settings).check()
    assert "hunter2" not in str(caught.value)
