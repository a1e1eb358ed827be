"""Link states and counters, in a network namespace of the test's own and on this machine."""

import ctypes
import os
import secrets
import select
import socket
import struct
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes import link, netlink
from eagle_eye.probes.link import SPEC
from eagle_eye.probes.netlink import NetlinkSocket

DEFAULTS = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
SECOND_NS = 10**9
CLONE_NEWNET = 0x40000000


@pytest.fixture
def namespace():
    """This thread is in a fresh network namespace until the test ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        os.close(home)
        pytest.skip(f"no network namespaces here: {os.strerror(ctypes.get_errno())}")
    yield
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture
def opened(context):
    probes = []

    def make(**options):
        probes.append(link.build(context("link", **DEFAULTS | options)))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    if done.returncode and "Operation not supported" in done.stderr:
        pytest.skip(f"ip {command}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def add_pair(name: str = "one", peer: str = "two") -> None:
    ip(f"link add {name} type veth peer name {peer}")


def values(sample) -> dict:
    return {
        (series.metric.name.removeprefix("eagle_eye_link_"), *series.labels): series.value for series in sample.series
    }


def changes(probe) -> list[tuple[str, str, str]]:
    """Events of the rounds that the probe asks for, until it asks for no more."""
    found = []
    while select.select(probe.wake_fds(), [], [], 0.2)[0]:
        found += probe.sample(1).events
    assert all(event.kind == "link.state" for event in found)
    return [change(event) for event in found]


def change(event) -> tuple[str, str, str]:
    return (event.attributes["device"], event.attributes["before"], event.attributes["state"])


def awaited(probe, *expected: tuple[str, str, str]) -> list:
    """Events of rounds until all the expected changes have come; the kernel holds some back for up to a second."""
    found = []
    until(lambda: found.extend(probe.sample(1).events) or {change(event) for event in found} >= set(expected))
    return found


# ---- states ----


def test_a_link_that_loses_its_peer_has_no_carrier(namespace, opened):
    add_pair()
    probe = opened(every_link=True)
    assert values(probe.sample(1))["up", "one"] == 0
    ip("link set one up")
    ip("link set two up")
    awaited(probe, ("one", "no_carrier", "up"), ("two", "no_carrier", "up"))
    assert values(probe.sample(1))["up", "one"] == 1
    ip("link set two down")
    awaited(probe, ("two", "up", "down"), ("one", "up", "no_carrier"))
    sample = probe.sample(1)
    assert values(sample)["up", "one"] == values(sample)["up", "two"] == 0


def test_a_lost_carrier_is_a_warning_and_a_change_by_hand_is_not(namespace, opened):
    add_pair()
    probe = opened(every_link=True)
    ip("link set one up")
    ip("link set two up")
    assert {event.severity for event in awaited(probe, ("one", "no_carrier", "up"))} == {"info"}
    until(lambda: values(probe.sample(1))["up", "two"] == values(probe.sample(1))["up", "one"] == 1)
    begin_ns = time.monotonic_ns()
    ip("link set two down")
    assert select.select(probe.wake_fds(), [], [], 1)[0]
    expected = ("two", "up", "down"), ("one", "up", "no_carrier")
    events = {event.attributes["device"]: event for event in awaited(probe, *expected)}
    assert (events["one"].severity, events["two"].severity) == ("warning", "info")
    assert begin_ns <= events["one"].at_ns <= time.monotonic_ns()
    assert events["one"].attributes["link_kind"] == "veth"
    assert events["one"].attributes["carrier_changes"] >= 1


def test_links_come_and_go(namespace, opened):
    probe = opened(every_link=True)
    add_pair()
    assert set(changes(probe)) == {("one", "absent", "down"), ("two", "absent", "down")}
    ip("link del one")
    assert set(changes(probe)) == {("one", "down", "absent"), ("two", "down", "absent")}
    assert {key for key in values(probe.sample(10 * SECOND_NS)) if "one" in key} == set()


def test_a_renamed_link_keeps_its_state(namespace, opened):
    add_pair()
    probe = opened(every_link=True)
    ip("link set one name three")
    assert changes(probe) == []
    assert ("up", "three") in values(probe.sample(1))
    assert ("up", "one") not in values(probe.sample(1))


def test_a_port_that_leaves_its_bridge_is_not_gone(namespace, opened):
    add_pair()
    ip("link add bridge0 type bridge")
    probe = opened(every_link=True)
    ip("link set one master bridge0")
    ip("link set one nomaster")
    assert changes(probe) == []
    assert ("up", "one") in values(probe.sample(1))


def test_container_links_and_loopback_are_left_out(namespace, opened):
    add_pair()
    probe = opened()
    assert values(probe.sample(1)) == {}
    ip("link set one up")
    assert changes(probe) == []


def test_more_links_than_allowed_are_said(namespace, opened):
    add_pair()
    probe = opened(every_link=True, max_links=2)
    left_out = ({"one", "two", "lo"} - {key[1] for key in values(probe.sample(1)) if key[0] == "up"}).pop()
    ip(f"link set {left_out} up")
    changes(probe)
    sample = probe.sample(1)
    assert len([key for key in values(sample) if key[0] == "up"]) == 2
    assert sample.degraded == "1 links are not followed; see link.max_links"


def test_an_overrun_is_counted_and_the_state_is_right_all_the_same(namespace, opened):
    add_pair()
    probe = opened(every_link=True)
    probe._notices._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for n in range(20):
        ip(f"link set one {'up' if n % 2 else 'down'}")
    ip("link set two up")
    until(lambda: values(probe.sample(1))["up", "one"] == values(probe.sample(1))["up", "two"] == 1)
    assert probe.sample(1).dropped["netlink_overrun"] >= 1


# ---- counters ----


def test_counters_agree_with_sysfs(opened):
    devices = [path for path in Path("/sys/class/net").iterdir() if (path / "statistics").exists()]
    sample = values(opened(every_link=True).sample(1))
    files = {"rx": "rx_errors", "tx": "tx_errors", "rx_crc": "rx_crc_errors", "rx_dropped": "rx_dropped"}
    for device in devices:
        for kind, file in files.items():
            now = int((device / "statistics" / file).read_text())
            assert 0 <= now - sample["errors_total", device.name, kind] <= 5
        assert int((device / "carrier_changes").read_text()) == sample["carrier_changes_total", device.name]


def test_a_drop_is_counted_at_the_next_period(namespace, opened):
    add_pair()
    probe = opened(every_link=True)
    ip("link set one up")
    ip("link set two up")
    until(lambda: values(probe.sample(1))["up", "two"] == 1)
    before = values(probe.sample(1))["errors_total", "two", "rx_dropped"]
    asked = NetlinkSocket()
    send_unwanted("one", count=7)
    until(lambda: asked.counters(socket.if_nametoindex("two"))["rx_dropped"] >= before + 7)
    asked.close()
    assert values(probe.sample(2))["errors_total", "two", "rx_dropped"] == before
    assert values(probe.sample(6 * SECOND_NS))["errors_total", "two", "rx_dropped"] >= before + 7


def until(condition, seconds: float = 3) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def send_unwanted(device: str, count: int) -> None:
    """Frames of a protocol that nobody takes, which the receiver drops."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        for _ in range(count):
            sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + secrets.token_bytes(64))


# ---- the socket ----


def test_counters_of_a_link_that_is_gone_are_empty(namespace):
    asked = NetlinkSocket()
    assert asked.counters(1)
    assert asked.counters(4242) == {}
    asked.close()


def test_many_links_are_all_listed(namespace):
    for n in range(150):
        add_pair(f"a{n}", f"b{n}")
    asked = NetlinkSocket()
    assert len(asked.links()) == 301
    asked.close()


@given(data=st.binary(max_size=200))
def test_any_bytes_are_split_without_reading_past_them(data):
    for _, _, raw in netlink._split(data):
        assert len(raw) >= 16


def test_messages_are_split_at_their_lengths():
    one = struct.pack("=IHHII", 18, 16, 0, 1, 0) + b"ab" + b"\0\0"
    two = struct.pack("=IHHII", 16, 3, 0, 1, 0)
    assert [kind for kind, _, _ in netlink._split(one + two)] == [16, 3]


def test_without_pyroute2_the_probe_says_what_to_install(opened, monkeypatch):
    for name in ("pyroute2", "pyroute2.netlink.rtnl.ifinfmsg"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UnavailableError, match="pyroute2") as caught:
        opened()
    assert caught.value.remedy.startswith("pip install pyroute2")


def test_descriptors_are_given_back(context):
    process = psutil.Process()
    before = process.num_fds()
    probe = link.build(context("link", **DEFAULTS))
    probe.sample(1)
    probe.close()
    assert process.num_fds() == before
