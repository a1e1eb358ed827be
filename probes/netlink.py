"""Route netlink over a plain socket: never waits longer than a second, decodes with pyroute2's message classes.

pyroute2's own sockets run an event loop each and queue without bound, so they do not suit a probe.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
LINK_GROUP = 1
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWSTATS, _GETSTATS = 92, 94
_REQUEST, _DUMP = 0x1, 0x300
_EXT_MASK, _SKIP_STATS = 29, 8
_STATS_LINK_64 = 1

_HEADER = struct.Struct("=IHHII")
_TIMEOUT_SECONDS = 1.0
# More than the kernel ever puts into one answer (32 KiB).
_RECEIVE_BYTES = 64 * 1024

Raw = tuple[int, int, bytes]


class NetlinkSocket:
    """Asks for links and counters, or listens to the groups that it is bound to.

    A link is pyroute2's `ifinfmsg`, decoded. Raises OSError, TimeoutError among them.
    """

    def __init__(self, groups: int = 0) -> None:
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.ifstatsmsg import ifstatsmsg

        self._link_class, self._stats_class = ifinfmsg, ifstatsmsg
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(0 if groups else _TIMEOUT_SECONDS)
        self._socket.bind((0, groups))
        self._sequence = 0

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Any]:
        """All links, without their counters."""
        body = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, _EXT_MASK, _SKIP_STATS)
        return [self._link(data) for kind, _, data in self._ask(_GETLINK, _DUMP, body) if kind == _NEWLINK]

    def counters(self, index: int) -> dict[str, int]:
        """Of struct rtnl_link_stats64, by name; empty when the link is gone."""
        body = struct.pack("=BBHII", 0, 0, 0, index, _STATS_LINK_64)
        try:
            answers = list(self._ask(_GETSTATS, 0, body))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return {}
            raise
        message = self._stats_class(answers[0][2])
        message.decode()
        return dict(message.get_attr("IFLA_STATS_LINK_64") or {})

    def changes(self, limit: int) -> tuple[list[tuple[bool, Any]], bool]:
        """Links that changed, each with whether it is gone; or none and True when the kernel had to drop some.

        What it kept is then older than what a new list tells, and of no use.
        """
        found: list[tuple[bool, Any]] = []
        overrun = False
        while len(found) < limit:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                overrun = True
                continue
            found += [(kind == _DELLINK, self._link(raw)) for kind, _, raw in _split(data) if _is_link(kind, raw)]
        return ([], True) if overrun else (found, False)

    def _link(self, data: bytes) -> Any:
        message = self._link_class(data)
        message.decode()
        return message

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[Raw]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            for raw in _split(self._socket.recv(_RECEIVE_BYTES)):
                if raw[1] != self._sequence:
                    continue
                if raw[0] == _DONE:
                    return
                if raw[0] == _ERROR:
                    code = -struct.unpack_from("=i", raw[2], _HEADER.size)[0]
                    raise OSError(code, os.strerror(code))
                yield raw
                if not flags:
                    return


def _split(data: bytes) -> Iterator[Raw]:
    """Type, sequence and bytes of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[at : at + length]
        at += (length + 3) & ~3


def _is_link(kind: int, raw: bytes) -> bool:
    # A bridge tells about its ports by messages of the same types, but of its own family.
    return kind in (_NEWLINK, _DELLINK) and raw[_HEADER.size] == socket.AF_UNSPEC
