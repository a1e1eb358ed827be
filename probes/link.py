"""Network links: state, errors, drops, and an event when a link goes up or down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from ..native.errors import UnavailableError
from .model import Event
from .netlink import LINK_GROUP, NetlinkSocket
from .options import Option
from .probe import Context, EventSource, Metric, Sample, Series, Spec

UP = Metric("eagle_eye_link_up", "gauge", "1 when the link can carry traffic.", ("device",))
FLAPS = Metric(
    "eagle_eye_link_carrier_changes_total", "counter", "Times the carrier came or went, since boot.", ("device",)
)
ERRORS = Metric("eagle_eye_link_errors_total", "counter", "Packets in error or dropped.", ("device", "kind"))

# Names of struct rtnl_link_stats64 (linux/if_link.h), and how they are published.
_ERRORS = {
    "rx_errors": "rx",
    "tx_errors": "tx",
    "rx_dropped": "rx_dropped",
    "tx_dropped": "tx_dropped",
    "rx_crc_errors": "rx_crc",
    "rx_frame_errors": "rx_frame",
    "rx_length_errors": "rx_length",
    "rx_fifo_errors": "rx_fifo",
    "rx_missed_errors": "rx_missed",
    "tx_carrier_errors": "tx_carrier",
    "tx_aborted_errors": "tx_aborted",
}
# A link without a kind is hardware, or what the hypervisor calls so. The others that are the node's own:
_NODE_KINDS = frozenset({"", "bond", "team", "ipoib", "vlan"})
_LOOPBACK = 772
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_MAX_NOTICES = 512


class Link(Struct, frozen=True):
    """What is known of a link without asking for its counters."""

    index: int
    device: str
    kind: str
    is_loopback: bool
    is_enabled: bool
    is_up: bool
    operational_state: str
    carrier_changes: int


class LinkProbe:
    def __init__(self, events: EventSource, *, every_link: bool, max_links: int, period_ns: int) -> None:
        self._events = events
        self._every_link = every_link
        self._max_links = max_links
        self._period_ns = period_ns
        # Subscribed before the links are listed, so that no change falls in between.
        self._notices = NetlinkSocket(groups=LINK_GROUP)
        self._requests = NetlinkSocket()
        self._links: dict[int, Link] = {}
        self._errors: list[Series] = []
        self._read_ns = -period_ns
        self._overruns = 0
        self._left_out: set[int] = set()
        self._list()

    def sample(self, now_ns: int) -> Sample:
        events = list(self._changes())
        if now_ns - self._read_ns >= self._period_ns:
            self._read_ns = now_ns
            self._errors = list(self._read_errors())
        return Sample([*self._states(), *self._errors], events, {"netlink_overrun": self._overruns}, self._degraded())

    def wake_fds(self) -> Sequence[int]:
        return (self._notices.fd,)

    def close(self) -> None:
        self._notices.close()
        self._requests.close()

    def _list(self) -> list[Event]:
        """Takes the state of all links; the events are the changes since the last time."""
        present = [_link(message) for message in self._requests.links()]
        self._left_out.clear()
        gone = set(self._links) - {link.index for link in present}
        events = [event for index in gone for event in self._lose(index)]
        return events + [event for link in present for event in self._take(link)]

    def _changes(self) -> Iterator[Event]:
        changes, overrun = self._notices.changes(_MAX_NOTICES)
        for is_gone, message in changes:
            link = _link(message)
            yield from self._lose(link.index) if is_gone else self._take(link)
        if overrun:
            self._overruns += 1
            yield from self._list()

    def _take(self, link: Link) -> Iterator[Event]:
        before = self._links.get(link.index)
        if before is None and not self._wanted(link):
            return
        self._links[link.index] = link
        if before is None or (before.is_up, before.is_enabled) != (link.is_up, link.is_enabled):
            yield self._event(link, _state(link), _state(before) if before else "absent")

    def _lose(self, index: int) -> Iterator[Event]:
        self._left_out.discard(index)
        if link := self._links.pop(index, None):
            yield self._event(link, "absent", _state(link))

    def _wanted(self, link: Link) -> bool:
        if not self._every_link and (link.is_loopback or link.kind not in _NODE_KINDS):
            return False
        if len(self._links) >= self._max_links:
            self._left_out.add(link.index)
            return False
        return True

    def _event(self, link: Link, state: str, before: str) -> Event:
        return self._events.make(
            "link.state",
            time.monotonic_ns(),
            entity="host",
            severity="warning" if before == "up" and state in ("no_carrier", "absent") else "info",
            device=link.device,
            link_kind=link.kind,
            state=state,
            before=before,
            operational_state=link.operational_state,
            carrier_changes=link.carrier_changes,
        )

    def _states(self) -> Iterator[Series]:
        for link in self._links.values():
            yield Series(UP, int(link.is_up), (link.device,))
            yield Series(FLAPS, link.carrier_changes, (link.device,))

    def _read_errors(self) -> Iterator[Series]:
        for link in self._links.values():
            counters = self._requests.counters(link.index)
            for name, kind in _ERRORS.items():
                if name in counters:
                    yield Series(ERRORS, counters[name], (link.device, kind))

    def _degraded(self) -> str:
        return f"{len(self._left_out)} links are not followed; see link.max_links" if self._left_out else ""


def _state(link: Link) -> str:
    if link.is_up:
        return "up"
    return "no_carrier" if link.is_enabled else "down"


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    flags = message["flags"]
    return Link(
        index=message["index"],
        device=message.get_attr("IFLA_IFNAME") or "",
        kind=(info and info.get_attr("IFLA_INFO_KIND")) or "",
        is_loopback=message["ifi_type"] == _LOOPBACK,
        is_enabled=bool(flags & _IFF_UP),
        is_up=flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        operational_state=(message.get_attr("IFLA_OPERSTATE") or "UNKNOWN").lower(),
        carrier_changes=message.get_attr("IFLA_CARRIER_CHANGES") or 0,
    )


def build(context: Context) -> LinkProbe:
    options = context.options
    try:
        return LinkProbe(
            context.events,
            every_link=options["every_link"],
            max_links=options["max_links"],
            period_ns=options["period"],
        )
    except ImportError as error:
        raise UnavailableError(f"pyroute2 is not installed: {error}", remedy="pip install pyroute2.minimal") from error
    except OSError as error:
        raise UnavailableError(f"route netlink cannot be used: {error}") from error


SPEC = Spec(
    name="link",
    help="Network links: state changes as events, errors and drops.",
    build=build,
    metrics=(UP, FLAPS, ERRORS),
    options=(
        Option("period", "duration", "5s", "time between two readings of the counters", minimum="100ms", maximum="1h"),
        Option("every_link", "boolean", False, "also loopback, veth, tunnels and the like"),
        Option("max_links", "integer", 64, "most links to follow", minimum=1, maximum=4096),
    ),
    cost="0.1 ms per round, 50 µs per link and period, 7 MiB of memory",
)
