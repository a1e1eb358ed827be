"""Publishes on NATS with the standard library alone: what a plugin needs inside somebody else's process.

Core protocol only, fire and forget; all of it on the caller's thread, which must not be one of vLLM's.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any

_TIMEOUT_SECONDS = 2.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0
_LONGEST_LINE_BYTES = 65536
_PORT = 4222


class LineError(OSError):
    """The server could not be spoken to; says why."""


class Line:
    """To the first of `urls` (commas between them) that answers; reconnects by itself.

    `nats://` or `tls://`, with `user:password@` or `token@`. `authority` is a file of certificates to trust.
    """

    def __init__(self, urls: str, name: str, authority: str | None = None) -> None:
        self._servers = [_parse(url.strip()) for url in urls.split(",") if url.strip()]
        if not self._servers:
            raise ValueError("no NATS server is named")
        self._name = name
        self._authority = authority
        self._socket: socket.socket | None = None
        self._heard = b""
        self._next_try = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self.sent = self.dropped = self.connects = 0
        self.problem = ""

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> bool:
        """(subject, payload) each. False, and counted as dropped, when no server takes them."""
        batch = list(messages)
        if not self.serve():
            self.dropped += len(batch)
            return False
        lines = [b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(payload), payload) for subject, payload in batch]
        try:
            assert self._socket is not None
            self._socket.sendall(b"".join(lines))
        except OSError as error:
            self._lost(error)
            self.dropped += len(batch)
            return False
        self.sent += len(batch)
        return True

    def serve(self) -> bool:
        """Answers what the server asks, connects when it is time to. Whether there is a connection."""
        if self._socket is None:
            self._connect()
        else:
            try:
                self._listen()
            except OSError as error:
                self._lost(error)
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        now = time.monotonic()
        if now < self._next_try:
            return
        for server in self._servers:
            try:
                self._socket = self._greet(server)
            except (OSError, ValueError) as error:
                self.problem = f"{server['host']}:{server['port']}: {error}"
            else:
                self.problem, self._pause = "", _FIRST_PAUSE_SECONDS
                self.connects += 1
                return
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def _greet(self, server: dict[str, Any]) -> socket.socket:
        line = socket.create_connection((server["host"], server["port"]), _TIMEOUT_SECONDS)
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._heard = b""
            info = json.loads(self._expect(line, b"INFO "))
            if server["tls"] or info.get("tls_required"):
                trust = ssl.create_default_context(cafile=self._authority)
                line = trust.wrap_socket(line, server_hostname=server["host"])
            said = {"verbose": False, "pedantic": False, "lang": "python", "version": "1", "protocol": 1}
            said.update(name=self._name, **server["login"])
            line.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(said).encode())
            self._expect(line, b"PONG")
        except BaseException:
            line.close()
            raise
        return line

    def _expect(self, line: socket.socket, start: bytes) -> bytes:
        """The rest of the first line that begins so. Raises LineError, also for an error of the server."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            while b"\r\n" in self._heard:
                said, self._heard = self._heard.split(b"\r\n", 1)
                if said.startswith(start):
                    return said[len(start) :]
                if said.startswith(b"-ERR"):
                    raise LineError(said.decode(errors="replace"))
            if time.monotonic() > deadline:
                raise LineError("the server did not greet")
            self._hear(line)

    def _hear(self, line: socket.socket) -> None:
        more = line.recv(_LONGEST_LINE_BYTES)
        if not more:
            raise LineError("the server closed the connection")
        self._heard += more
        if len(self._heard) > _LONGEST_LINE_BYTES and b"\r\n" not in self._heard:
            raise LineError("the server speaks something else")

    def _listen(self) -> None:
        line = self._socket
        assert line is not None
        while _has_bytes(line):
            self._hear(line)
        *lines, self._heard = self._heard.split(b"\r\n")
        for said in lines:
            if said == b"PING":
                line.sendall(b"PONG\r\n")
            elif said.startswith(b"-ERR"):
                # A subject that is not allowed ends no connection; the server closes it for all else.
                self.problem = said.decode(errors="replace")

    def _lost(self, error: OSError) -> None:
        self.problem = str(error)
        self.close()
        self._next_try = time.monotonic() + self._pause


def _has_bytes(line: socket.socket) -> bool:
    if isinstance(line, ssl.SSLSocket) and line.pending():
        return True
    waiting = select.poll()  # unlike select(), for any file descriptor number
    waiting.register(line, select.POLLIN)
    return bool(waiting.poll(0))


def _parse(url: str) -> dict[str, Any]:
    """Raises ValueError."""
    parsed = urllib.parse.urlsplit(url if "://" in url else f"nats://{url}")
    if parsed.scheme not in ("nats", "tls") or not parsed.hostname:
        raise ValueError(f"not a NATS URL: {parsed.scheme}://{parsed.hostname or ''}")
    login: dict[str, str] = {}
    if parsed.username and parsed.password is not None:
        login = {"user": urllib.parse.unquote(parsed.username), "pass": urllib.parse.unquote(parsed.password)}
    elif parsed.username:
        login = {"auth_token": urllib.parse.unquote(parsed.username)}
    return {"host": parsed.hostname, "port": parsed.port or _PORT, "tls": parsed.scheme == "tls", "login": login}
