"""The HTTP server, spoken to over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import socket
import ssl
import threading
import time

import aiohttp
import bcrypt
import pytest
from cryptography import x509

from eagle_eye.collector import web as web_module
from eagle_eye.collector import web_listener
from eagle_eye.collector.exporter import OPENMETRICS_TYPE, TEXT_TYPE, Exporter, Source
from eagle_eye.collector.web import WebServer
from eagle_eye.native.errors import UsageError
from eagle_eye.probes.probe import Metric, Series

SIZE = Metric("eagle_eye_test_size_bytes", "gauge", "Size.")
MANY = Metric("eagle_eye_test_many", "gauge", "Many.", ("n",))


@pytest.fixture
async def serve():
    """`await serve(…)` starts a server on a free port with an exporter of its own; closed with the test."""
    servers = []

    async def start(listen=("127.0.0.1", 0), *, series=(Series(SIZE, 1),), config=None, path=None, **options):
        exporter = Exporter()
        exporter.add(Source("test", (SIZE, MANY), lambda: series))
        if config is not None:
            path.write_text(config)
        server = WebServer(exporter, listen, web_config=path, **options)
        server.exporter = exporter
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def client():
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=10), auto_decompress=False, headers={"Accept-Encoding": "identity"}
    ) as session:
        yield session


def counted(server: WebServer, name: str) -> dict[tuple[str, ...], float]:
    return {one.labels: one.value for one in server._series() if one.metric.name == f"eagle_eye_{name}"}


async def get(client, server, path="/metrics", **options) -> tuple[int, dict[str, str], bytes]:
    async with client.get(server.url + path, **options) as response:
        return response.status, dict(response.headers), await response.read()


async def until(check, seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check() if asyncio.iscoroutinefunction(check) else not check():
            await asyncio.sleep(0.02)


async def raw(server: WebServer, request: bytes, *, wait_s: float = 5.0) -> bytes:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(request)
    with contextlib.suppress(TimeoutError, ConnectionError):
        return await asyncio.wait_for(reader.read(), wait_s)
    writer.close()
    return b""


async def test_metrics_in_both_formats(serve, client):
    server = await serve()
    status, headers, body = await get(client, server)
    assert (status, headers["Content-Type"]) == (200, TEXT_TYPE)
    assert b"eagle_eye_test_size_bytes 1.0\n" in body
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    status, headers, body = await get(client, server, headers={"Accept": accept})
    assert (status, headers["Content-Type"]) == (200, OPENMETRICS_TYPE)
    assert body.endswith(b"# EOF\n")


async def test_gzip_is_used_when_asked_for(serve, client):
    server = await serve()
    _, headers, body = await get(client, server, headers={"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"eagle_eye_test_size_bytes 1.0\n" in gzip.decompress(body)
    for encoding in ("identity", "gzip;q=0, deflate"):
        _, headers, body = await get(client, server, headers={"Accept-Encoding": encoding})
        assert "Content-Encoding" not in headers
        assert b"eagle_eye_test_size_bytes 1.0\n" in body


async def test_health_and_readiness_say_why(serve, client):
    problems: list[str] = []
    server = await serve(alive=lambda: [], ready=lambda: problems)
    status, _, body = await get(client, server, "/readyz")
    assert (status, json.loads(body)) == (200, {"status": "ok", "reasons": []})
    problems.append("the first round is not done")
    status, _, body = await get(client, server, "/readyz")
    assert (status, json.loads(body)) == (503, {"status": "failing", "reasons": problems})
    assert (await get(client, server, "/healthz"))[0] == 200


async def test_a_check_that_fails_is_not_healthy(serve, client):
    server = await serve(alive=lambda: 1 / 0)
    status, _, body = await get(client, server, "/healthz")
    assert status == 503
    assert json.loads(body)["reasons"] == ["the check itself failed: ZeroDivisionError"]


async def test_the_first_page_links_to_the_others(serve, client):
    server = await serve(version="1.2<3")
    status, headers, body = await get(client, server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"1.2&lt;3" in body
    for path in ("/metrics", "/healthz", "/readyz"):
        assert f'href="{path}"'.encode() in body


async def test_only_reading_is_allowed(serve, client):
    server = await serve()
    async with client.head(server.url + "/metrics") as response:
        assert (response.status, await response.read()) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        async with client.request(method, server.url + "/metrics", data=b"x" * 100) as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET,HEAD"
    assert (await get(client, server, "/../etc/passwd"))[0] == 404
    assert counted(server, "http_requests_total")["other", "405"] == 5
    assert counted(server, "http_requests_total")["other", "404"] == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 70000 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\0" * 1000,
    ],
)
async def test_nonsense_is_refused_and_not_logged(serve, client, request_bytes, caplog):
    server = await serve()
    answer = await raw(server, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 431"))
    assert (await get(client, server))[0] == 200
    assert not caplog.records


async def test_a_body_is_not_waited_for(serve):
    server = await serve()
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"
    answer = await raw(server, request, wait_s=3)
    assert answer.startswith(b"HTTP/1.1 200")


async def test_the_version_of_the_server_is_not_told(serve, client):
    server = await serve()
    assert (await get(client, server))[1]["Server"] == "eagle-eye"


async def test_a_port_in_use_is_refused_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = WebServer(Exporter(), ("127.0.0.1", port))
        with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the address is in use") as caught:
            await server.start()
        assert "--listen" in caught.value.remedy
        await server.close()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "a" * 300])
async def test_an_address_that_is_not_ours_is_refused(host):
    server = WebServer(Exporter(), (host, 0))
    with pytest.raises(UsageError, match=f"cannot listen on {host}:0: "):
        await server.start()
    await server.close()


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "http://[::1]:"), ("", "http://["), ("localhost", "http://127.0.0.1:")]
)
async def test_other_ways_to_name_an_address(serve, client, host, shown):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = await serve((host, 0))
    assert server.url.startswith(shown)
    assert server.address[1] > 0
    assert (await get(client, server, "/healthz"))[0] == 200


async def test_every_address_means_both_families(serve):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = await serve(("", 0))
    for host in ("127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(host, server.address[1])
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 200")
        writer.close()


async def test_more_than_four_scrapes_at_once_are_turned_away(serve, client):
    release = threading.Event()
    server = await serve()
    server._renderer.submit(release.wait)
    waiting = [asyncio.create_task(get(client, server)) for _ in range(4)]
    await until(lambda: server._scrapes == 4)
    status, headers, _ = await get(client, server)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert (await get(client, server, "/healthz"))[0] == 200
    release.set()
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200] * 4
    assert counted(server, "http_refused_total") == {("too_many_scrapes",): 1}
    assert counted(server, "page_renders_total") == {(): 1}


async def test_rendering_does_not_hold_up_the_loop(serve, client):
    series = [Series(MANY, number, (str(number),)) for number in range(10_000)]
    server = await serve(series=series)
    gaps: list[float] = []

    async def beat():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - before)

    beating = asyncio.create_task(beat())
    shares = []
    for form in ({}, {"Accept": "application/openmetrics-text"}, {"Accept-Encoding": "gzip"}):
        gaps.clear()
        started = time.monotonic()
        assert (await get(client, server, headers=form))[0] == 200
        shares.append(max(gaps) / (time.monotonic() - started))
    beating.cancel()
    assert counted(server, "page_renders_total") == {(): 3}
    assert min(shares) < 0.5


async def test_asking_often_does_not_mean_rendering_often(serve, client):
    series = [Series(MANY, number, (str(number),)) for number in range(5_000)]
    server = await serve(series=series)
    started = time.monotonic()
    while time.monotonic() - started < 1.5:
        await get(client, server)
    elapsed = time.monotonic() - started
    spent = counted(server, "page_render_seconds_total")[()]
    assert counted(server, "http_requests_total")["/metrics", "200"] > counted(server, "page_renders_total")[()]
    assert spent / elapsed < 0.25


async def test_a_page_is_fresh_again_soon(serve, client):
    series = [Series(SIZE, 1)]
    server = await serve(series=series)
    await get(client, server)
    series[0] = Series(SIZE, 2)
    await asyncio.sleep(0.15)
    assert b"eagle_eye_test_size_bytes 2.0\n" in (await get(client, server))[2]


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [(web_module, "REQUEST_SECONDS", 0.5), (web_listener, "USER_TIMEOUT_MS", 500)],
)
async def test_a_client_that_reads_nothing_is_cut_off(serve, monkeypatch, module, limit, value):
    monkeypatch.setattr(module, limit, value)
    series = [Series(MANY, number, (f"{os.urandom(400).hex()}",)) for number in range(9_000)]
    server = await serve(series=series)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, server.address)
        await loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server._runner.server.connections)
        await until(lambda: not server._runner.server.connections)
    by_us = limit == "REQUEST_SECONDS"
    assert counted(server, "http_refused_total") == ({("timeout",): 1} if by_us else {})


async def test_too_many_connections_are_closed_and_the_rest_works(serve, client, monkeypatch):
    monkeypatch.setattr(web_listener, "MAX_CONNECTIONS", 5)
    server = await serve()
    idle = [await asyncio.open_connection(*server.address) for _ in range(5)]
    await until(lambda: len(server._runner.server.connections) == 5)
    assert await raw(server, b"GET /healthz HTTP/1.0\r\n\r\n") == b""
    assert counted(server, "http_refused_total") == {("too_many_connections",): 1}
    idle.pop()[1].close()
    await until(lambda: len(server._runner.server.connections) == 4)
    assert (await get(client, server, "/healthz"))[0] == 200
    for _, writer in idle:
        writer.close()


async def test_a_request_that_never_ends_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(web_module, "IDLE_SECONDS", 0.3)
    server = await serve()
    _, writer = await asyncio.open_connection(*server.address)
    for _ in range(6):
        writer.write(b"G")
        await asyncio.sleep(0.1)
    await until(lambda: not server._runner.server.connections, 2)
    writer.close()


HASH = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(5)).decode()
USERS = f"basic_auth_users:\n  alice: {HASH}\n"


def auth(password: str, user: str = "alice") -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


async def test_basic_authentication(serve, client, tmp_path):
    server = await serve(config=USERS, path=tmp_path / "web.yml")
    status, headers, _ = await get(client, server)
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="eagle-eye", charset="UTF-8"')
    for path in ("/", "/metrics", "/healthz", "/readyz", "/nothing"):
        assert (await get(client, server, path))[0] == 401
        assert (await get(client, server, path, headers=auth("correct horse")))[0] in {200, 404}
    for header in ("Basic", "Basic !!!", "Bearer x", "Basic " + "QQ==" * 10, "Basic /////w=="):
        assert (await get(client, server, headers={"Authorization": header}))[0] == 401
    assert (await get(client, server, headers=auth("wrong")))[0] == 401
    assert (await get(client, server, headers=auth("correct horse", "bob")))[0] == 401


async def test_guessing_is_slow_and_does_not_lock_out_who_knows(serve, client, tmp_path):
    server = await serve(config=USERS, path=tmp_path / "web.yml")
    assert (await get(client, server, headers=auth("correct horse")))[0] == 200
    answers = [(await get(client, server, headers=auth(f"guess {n}")))[0] for n in range(20)]
    assert set(answers) == {401, 429}
    assert answers.count(401) <= 6
    assert (await get(client, server, headers=auth("correct horse")))[0] == 200


async def test_limits_and_headers_of_the_file(serve, client, tmp_path):
    config = "rate_limit: {interval: 1m, burst: 3}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n"
    server = await serve(config=config, path=tmp_path / "web.yml")
    answers = [await get(client, server, "/nothing") for _ in range(5)]
    assert [status for status, _, _ in answers] == [404, 404, 404, 429, 429]
    assert all(headers["X-Frame-Options"] == "deny" for _, headers, _ in answers)


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


def client_context(authority, *files) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if files:
        context.load_cert_chain(*files)
    return context


async def served_serial(server: WebServer, context: ssl.SSLContext) -> int:
    _, writer = await asyncio.open_connection(*server.address, ssl=context, server_hostname="localhost")
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_tls_with_a_rotated_certificate(serve, client, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(web_module, "POLL_SECONDS", 0.05)
    authority.issue("server")
    server = await serve(config=TLS + USERS, path=tmp_path / "web.yml")
    context = client_context(authority)
    assert server.url.startswith("https://")
    assert (await get(client, server, ssl=context, headers=auth("correct horse")))[0] == 200
    first = await served_serial(server, context)
    new, _ = authority.issue("server")
    serial = x509.load_pem_x509_certificate(new.read_bytes()).serial_number

    async def rotated() -> bool:
        return await served_serial(server, context) == serial

    await until(rotated)
    assert serial != first
    assert counted(server, "web_config_reloads_total") == {("loaded",): 1, ("refused",): 0}
    # The connection made before goes on, and the login is still remembered.
    assert (await get(client, server, ssl=context, headers=auth("correct horse")))[0] == 200


async def test_a_wrong_new_file_changes_nothing_and_is_told(serve, client, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(web_module, "POLL_SECONDS", 0.05)
    authority.issue("server")
    path = tmp_path / "web.yml"
    server = await serve(config=TLS + USERS, path=path)
    context = client_context(authority)
    (tmp_path / "server.crt").write_text("junk")
    await until(lambda: counted(server, "web_config_last_reload_successful") == {(): 0})
    path.write_text("nonsense: 1\n")
    await until(lambda: counted(server, "web_config_reloads_total")["refused",] >= 2)
    assert (await get(client, server, ssl=context))[0] == 401
    assert (await get(client, server, ssl=context, headers=auth("correct horse")))[0] == 200
    authority.issue("server")
    path.write_text(TLS + USERS.replace("alice", "bob"))
    await until(lambda: counted(server, "web_config_last_reload_successful") == {(): 1})
    assert (await get(client, server, ssl=context, headers=auth("correct horse")))[0] == 401
    assert (await get(client, server, ssl=context, headers=auth("correct horse", "bob")))[0] == 200


async def test_a_file_half_written_opens_nothing(serve, client, tmp_path, monkeypatch):
    monkeypatch.setattr(web_module, "POLL_SECONDS", 0.1)
    path = tmp_path / "web.yml"
    server = await serve(config=USERS, path=path)
    for number in range(12):
        path.write_text(USERS if number % 2 else "")
        assert (await get(client, server))[0] == 401
        await asyncio.sleep(0.06)


async def test_tls_can_be_switched_on_and_off(serve, client, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(web_module, "POLL_SECONDS", 0.05)
    authority.issue("server")
    path = tmp_path / "web.yml"
    server = await serve(config="", path=path)
    assert (await get(client, server))[0] == 200
    path.write_text(TLS)
    await until(lambda: server.url.startswith("https://"))
    assert (await get(client, server, ssl=client_context(authority)))[0] == 200


async def test_only_clients_with_the_right_certificate(serve, client, authority, tmp_path):
    authority.issue("server")
    good = authority.issue("good", x509.DNSName("prometheus.example.org"))
    other = authority.issue("other", x509.DNSName("other.example.org"))
    config = TLS + (
        f"  client_ca_file: {authority.file.name}\n  client_auth_type: RequireAndVerifyClientCert\n"
        "  client_allowed_sans: [prometheus.example.org]\n"
    )
    server = await serve(config=config, path=tmp_path / "web.yml")
    assert (await get(client, server, ssl=client_context(authority, *good)))[0] == 200
    assert (await get(client, server, ssl=client_context(authority, *other), headers={"Connection": "close"}))[0] == 403
    with pytest.raises(aiohttp.ClientError):
        await get(client, server, ssl=client_context(authority), headers={"Connection": "close"})


async def test_a_handshake_that_never_comes_is_cut_off(serve, authority, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(web_listener, "HANDSHAKE_SECONDS", 0.3)
    authority.issue("server")
    server = await serve(config=TLS, path=tmp_path / "web.yml")
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"\x16\x03")
    await until(lambda: len(server._listener._opening) == 1)
    assert await asyncio.wait_for(reader.read(), 3) == b""
    assert await raw(server, b"GET / HTTP/1.0\r\n\r\n") == b""
    assert counted(server, "http_refused_total") == {("handshake_failed",): 2}
    assert not caplog.records
    writer.close()


def test_a_wrong_file_stops_the_start(tmp_path):
    path = tmp_path / "web.yml"
    path.write_text(TLS)
    with pytest.raises(UsageError, match=r"web\.yml: tls_server_config\.cert_file: .*No such file"):
        WebServer(Exporter(), ("127.0.0.1", 0), web_config=path)


async def test_closing_ends_idle_connections_and_running_requests():
    server = WebServer(Exporter(), ("127.0.0.1", 0))
    await server.start()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    started = time.monotonic()
    await server.close()
    assert time.monotonic() - started < 3
    await asyncio.wait_for(reader.read(), 1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address)
