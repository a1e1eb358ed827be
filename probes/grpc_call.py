"""One gRPC call over a Unix socket: deadline, bounded answer, no threads. HTTP/2 is h2's part.

For a call every few seconds; grpcio would do it too, at eight times the memory and with threads of its own.
Framing: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..native.errors import UnavailableError

if TYPE_CHECKING:
    from h2.events import Event

_PREFIX = struct.Struct(">?I")
_OVERHEAD_BYTES = 256 << 10


def call(path: Path, method: str, request: bytes, *, deadline_s: float, most_bytes: int) -> bytes:
    """The answer's message. `method` is "/package.Service/Method".

    Raises OSError (TimeoutError past the deadline) for the socket, ValueError for an answer that is no gRPC or too
    long, UnavailableError for one that says an error, ImportError where h2 is not installed.
    """
    started = time.monotonic()
    exchange = _Exchange(method, request, deadline_s, most_bytes)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(deadline_s)
        stream.connect(str(path))
        stream.sendall(exchange.to_send())
        while not exchange.ended:
            left = started + deadline_s - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no whole answer within {deadline_s:g} s")
            stream.settimeout(left)
            exchange.receive(stream.recv(1 << 16))
            # A server that has said all may be gone, with the rest of its answer still to be read.
            with contextlib.suppress(BrokenPipeError):
                stream.sendall(exchange.to_send())
    return exchange.message()


class _Exchange:
    """State of one call; knows nothing of sockets."""

    def __init__(self, method: str, request: bytes, deadline_s: float, most_bytes: int) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self._connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._most_bytes = most_bytes
        self._received_bytes = 0
        self._body = bytearray()
        self._trailers: dict[str, str] = {}
        self.ended = False
        self._connection.initiate_connection()
        self._connection.send_headers(1, _headers(method, deadline_s))
        self._connection.send_data(1, _PREFIX.pack(False, len(request)) + request, end_stream=True)

    def to_send(self) -> bytes:
        return self._connection.data_to_send()

    def receive(self, data: bytes) -> None:
        from h2.exceptions import H2Error

        self._received_bytes += len(data)
        if not data:
            raise ConnectionResetError("the connection was closed before the answer was whole")
        if self._received_bytes > self._most_bytes + _OVERHEAD_BYTES:
            raise ValueError(f"the answer is longer than {self._most_bytes} bytes")
        try:
            for event in self._connection.receive_data(data):
                self._take(event)
        except H2Error as error:
            raise ValueError(f"the answer is no HTTP/2: {error}") from error

    def message(self) -> bytes:
        status = self._trailers.get("grpc-status", "missing")
        if status != "0":
            text = self._trailers.get("grpc-message", "")[:200]
            raise UnavailableError(f"gRPC status {status}: {text!r}")
        if len(self._body) < _PREFIX.size:
            raise ValueError("the answer has no message")
        compressed, size = _PREFIX.unpack_from(self._body)
        if compressed or size != len(self._body) - _PREFIX.size:
            raise ValueError("the answer is not one uncompressed message")
        return bytes(self._body[_PREFIX.size :])

    def _take(self, event: Event) -> None:
        from h2 import events

        if isinstance(event, events.DataReceived):
            self._body += event.data
            self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (events.ResponseReceived, events.TrailersReceived)):
            self._trailers.update((str(name), str(value)) for name, value in event.headers)
        elif isinstance(event, events.StreamEnded):
            self.ended = True
        elif isinstance(event, (events.StreamReset, events.ConnectionTerminated)):
            raise ConnectionResetError(f"the call was refused with HTTP/2 error {event.error_code}")


def _headers(method: str, deadline_s: float) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{max(1, int(deadline_s * 1000))}m"),
    ]
