"""The listening socket: each connection gets the TLS settings of its moment, and there are never too many."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import structlog
from aiohttp import web

from ..native.errors import UsageError

MAX_CONNECTIONS = 64
HANDSHAKE_SECONDS = 5.0
BACKLOG = 128
# A peer that takes nothing for so long is gone; tcp(7).
USER_TIMEOUT_MS = 20_000

log = structlog.get_logger(component="web")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; an empty host is every address of both families.

    Raises UsageError naming the address and the flag that changes it.
    """
    try:
        family, address = _resolve(host, port)
        dual = not host and family == socket.AF_INET6
        sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from None
    sock.setblocking(False)
    return sock


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if not host:
        return (socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET), (host, port)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # As Go does it for the other exporters: one address for a name, of IPv4 if it has one.
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.AddressFamily(family), (str(address[0]), port)


def _cannot_listen(host: str, port: int, error: Exception) -> UsageError:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = "the address is in use" if getattr(error, "errno", 0) == errno.EADDRINUSE else _reason(error)
    remedy = "choose another with --listen HOST:PORT (port 0 takes a free one)"
    return UsageError(f"cannot listen on {shown}: {reason}", remedy=remedy)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class Listener:
    """Accepts connections for `server`. `refused` is told the reason of each that was turned away.

    `address` is (host, port) as the kernel gave them.
    """

    def __init__(
        self,
        sock: socket.socket,
        server: web.Server,
        tls: Callable[[], ssl.SSLContext | None],
        refused: Callable[[str], None],
    ) -> None:
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self._sock = sock
        self._server = server
        self._tls = tls
        self._refused = refused
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to accept; needs a running loop."""
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Accepts no more; connections that are open stay with the server."""
        tasks = [task for task in (self._accepting, *self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                # Out of descriptors or memory, or the peer is gone already: none is a reason to stop.
                self._refused("accept_failed")
                log.warning("cannot accept a connection", error=_reason(error))
                await asyncio.sleep(0.5)
                continue
            if len(self._server.connections) + len(self._opening) >= MAX_CONNECTIONS:
                self._refused("too_many_connections")
                sock.close()
                continue
            task = asyncio.create_task(self._open(sock))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tls = self._tls()
        limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if tls else {}
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        try:
            await loop.connect_accepted_socket(self._server, sock, ssl=tls, **limits)
        except (OSError, ssl.SSLError):
            self._refused("handshake_failed" if tls else "connection_failed")
            sock.close()
