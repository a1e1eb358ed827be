"""The kubelet's pod-resources socket: a real gRPC server on a Unix socket, and ones that hang, lie and send garbage."""

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eagle_eye.probes import pod_resources_message
from eagle_eye.probes.owner import Owner
from eagle_eye.probes.pod_resources import PodResources, ask
from eagle_eye.probes.pod_resources_message import Holder, device_of, parse

GPU = "GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76"
MIG = "MIG-b8ee5ee4-4c8c-5d2b-8b1e-6a2c5a3ef0f1"
METHOD = "/v1.PodResourcesLister/List"


# ---- messages, written by hand after the format's own rules ----


def field(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    more = b""
    while value > 127:
        more += bytes([value & 127 | 128])
        value >>= 7
    return more + bytes([value])


def pod(namespace: str, name: str, container: str, resource: str, *device_ids: str) -> bytes:
    devices = field(1, resource) + b"".join(field(2, each) for each in device_ids) + field(3, b"")
    # CPU ids and memory, which a kubelet tells too
    inside = field(1, container) + field(2, devices) + field(3, b"\1\2") + field(4, field(1, "memory"))
    return field(1, field(1, name) + field(2, namespace) + field(3, inside))


ANSWER = pod("default", "llama-0", "engine", "nvidia.com/gpu", GPU) + pod("team-a", "mig.1", "x", "nvidia.com/mig", MIG)
LLAMA = Holder("default", "llama-0", "engine", "nvidia.com/gpu", GPU)


def test_an_answer_is_read():
    holders, rejected = parse(ANSWER)

    assert holders == {GPU: (LLAMA,), MIG: (Holder("team-a", "mig.1", "x", "nvidia.com/mig", MIG),)}
    assert rejected == 0


def test_a_shared_device_has_all_its_holders():
    holders, _ = parse(
        pod("a", "one", "c", "nvidia.com/gpu.shared", f"{GPU}::0", f"{GPU}::3")
        + pod("a", "two", "c", "nvidia.com/gpu.shared", f"{GPU}::1")
    )

    assert [holder.pod for holder in holders[GPU]] == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("resource", "device_id", "device"),
    [
        ("nvidia.com/gpu", GPU, GPU),
        ("nvidia.com/gpu", f"{GPU}::12", GPU),
        ("nvidia.com/mig-1g.10gb", MIG, MIG),
        ("nvidia.com/mig-1g.5gb", f"MIG-{GPU}/1/0", f"MIG-{GPU}/1/0"),
        ("nvidia.com/gpu", "3", "nvidia:3"),
        ("nvidia.com/gpu", "3::1", "nvidia:3"),
        ("nvidia.com/mig-1g.5gb", "0:1", "nvidia:0:1"),
        ("huawei.com/Ascend910", "Ascend910-3", "ascend:3"),
        ("huawei.com/Ascend910B", "Ascend910B-15", "ascend:15"),
        ("huawei.com/Ascend910-2c", "Ascend910-2c-100-3", "ascend:3"),
        ("huawei.com/Ascend310P-2c.1cpu", "Ascend310P-2c.1cpu-100-0", "ascend:0"),
        # HAMi's scheduler gives another device than the kubelet thinks
        ("nvidia.com/gpu", f"{GPU}-4", ""),
        ("example.com/fpga", "3", ""),
        ("gpu.nvidia.com", "node-1/gpu-0", ""),
        ("nvidia.com/gpu", "9999", ""),
        ("huawei.com/Ascend910", "Ascend910-", ""),
    ],
)
def test_which_device_an_id_means(resource, device_id, device):
    assert device_of(Holder("n", "p", "c", resource, device_id)) == device


def test_names_that_cannot_be_are_left_out_and_counted():
    lies = [
        ("", "p", "c"),
        ("N", "p", "c"),
        ("n", 'p"} 1', "c"),
        ("n", "p" * 254, "c"),
        ("n", "p", "\n"),
        ("n", "p", "é"),
    ]
    data = b"".join(pod(*names, "nvidia.com/gpu", GPU) for names in lies)

    assert parse(data + ANSWER) == (parse(ANSWER)[0], len(lies))
    assert parse(pod("n", "p", "c", "nvidia.com/gpu", "")) == ({}, 1)


def test_too_many_holders_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(pod_resources_message, "_MAX_HOLDERS", 2)
    holders, rejected = parse(pod("n", "p", "c", "nvidia.com/gpu", *(f"{GPU}::{n}" for n in range(5))))

    assert (len(holders[GPU]), rejected) == (2, 3)


def test_devices_by_dynamic_allocation_are_told_but_belong_to_no_uuid():
    claim = field(2, "gpu.nvidia.com") + field(3, "node-1") + field(4, "gpu-0")
    inside = field(1, "engine") + field(5, field(2, "claim") + field(4, claim))

    assert parse(field(1, field(1, "p") + field(2, "n") + field(3, inside))) == ({}, 0)


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
gpus = st.uuids().map("GPU-{}".format)


@given(st.lists(st.tuples(names, names, names, st.lists(gpus, max_size=4)), max_size=6))
def test_every_holder_of_an_honest_answer_is_found(told):
    data = b"".join(pod(*rest, "nvidia.com/gpu", *devices) for *rest, devices in told)
    expected = sorted((device, *rest) for *rest, devices in told for device in devices)
    holders, rejected = parse(data)

    found = [(device, one.namespace, one.pod, one.container) for device, each in holders.items() for one in each]
    assert (sorted(found), rejected) == (expected, 0)


@given(st.one_of(st.binary(), st.tuples(st.binary(max_size=8), st.integers(0, len(ANSWER))).map(
    lambda spoilt: ANSWER[: spoilt[1]] + spoilt[0] + ANSWER[spoilt[1] + len(spoilt[0]) :]
)))  # fmt: skip
def test_any_bytes_are_an_answer_or_refused(data):
    with contextlib.suppress(ValueError):
        holders, rejected = parse(data)
        assert rejected >= 0
        assert all(device and device in (device_of(one) for one in each) for device, each in holders.items())


# ---- servers ----


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kubelet.sock"


@contextlib.contextmanager
def kubelet(path, answer):
    """A gRPC server; `answer(context)` gives the bytes of the List answer."""
    handler = grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield server
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def listener(path, talk):
    """A Unix socket whose one client is handed to `talk`."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve():
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    talk(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def test_a_kubelet_answers(path):
    with kubelet(path, lambda _: ANSWER):
        told = ask(path, deadline_s=5)

    assert told.problem == ""
    assert told.holders == parse(ANSWER)[0]
    assert told.owners(GPU, "nvidia:0") == {Owner(pod="llama-0", namespace="default", container="engine")}
    assert told.owners("GPU-of-nobody") == frozenset()


def test_the_deadline_is_told_to_the_kubelet(path):
    left = []
    with kubelet(path, lambda context: left.append(context.time_remaining()) or b""):
        assert ask(path, deadline_s=5).problem == ""

    assert 0 < left[0] <= 5


def test_a_node_without_pods_is_no_problem(path):
    with kubelet(path, lambda _: b""):
        assert ask(path, deadline_s=5).problem == ""


def test_a_big_answer_comes_through_the_flow_control_window(path):
    big = b"".join(pod("n", f"p{n}", "c", "nvidia.com/gpu", GPU) for n in range(10_000))
    assert len(big) > 500_000
    with kubelet(path, lambda _: big):
        told = ask(path, deadline_s=20)

    assert (told.problem, len(told.holders[GPU])) == ("", 10_000)


@pytest.mark.parametrize("size", [5 << 20, 50 << 20])
def test_an_answer_that_is_too_long_is_cut_off(path, size):
    with kubelet(path, lambda _: ANSWER * (size // len(ANSWER))):
        assert "longer than 4194304 bytes" in ask(path, deadline_s=20).problem


def test_a_refusal_is_told_in_the_kubelets_words(path):
    def refuse(context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    with kubelet(path, refuse):
        assert "gRPC status 8: 'rejected by rate limit'" in ask(path, deadline_s=5).problem


def test_a_service_without_the_method_is_told(path):
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        assert "gRPC status 12" in ask(path, deadline_s=5).problem
    finally:
        server.stop(0).wait()


def test_an_answer_that_is_no_message_is_told(path):
    with kubelet(path, lambda _: b"\xff" * 50):
        assert "not a ListPodResourcesResponse" in ask(path, deadline_s=5).problem


def hang(client):
    while client.recv(4096):
        pass


def dribble(client):
    with contextlib.suppress(OSError):
        for byte in b"\0\0\0\4\0\0\0\0\0" * 1000:
            client.send(bytes([byte]))
            time.sleep(0.01)


def flood(client):
    """Says only what has to be answered, and never listens."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    client.sendall(connection.data_to_send())
    connection.ping(b"eagleeye")
    pings = connection.data_to_send() * 1000
    with contextlib.suppress(OSError):
        while True:
            client.sendall(pings)


@pytest.mark.parametrize("talk", [hang, dribble, flood])
def test_a_kubelet_that_hangs_costs_the_deadline_and_no_more(path, talk):
    with listener(path, talk):
        started = time.monotonic()
        told = ask(path, deadline_s=0.3)
        took = time.monotonic() - started

    assert "no usable answer" in told.problem
    assert 0.2 < took < 3


def test_a_kubelet_that_does_not_accept_costs_the_deadline_and_no_more(path):
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(str(path))
        server.listen(0)
        with contextlib.suppress(OSError):
            while True:
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        started = time.monotonic()

        assert "no usable answer" in ask(path, deadline_s=0.3).problem
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100_000, b"\xff" * 100, bytes(range(256)) * 40]
)
def test_garbage_is_told(path, said):
    def talk(client):
        with contextlib.suppress(OSError):
            client.recv(1)
            client.sendall(said)

    with listener(path, talk):
        assert "no usable answer" in ask(path, deadline_s=2).problem


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.binary(max_size=200))
def test_any_bytes_after_an_honest_start_end_in_a_sentence(path, said):
    def talk(client):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        with contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(connection.data_to_send() + said)
            client.shutdown(socket.SHUT_WR)

    path.unlink(missing_ok=True)
    with listener(path, talk):
        assert "no usable answer" in ask(path, deadline_s=2).problem


def http2(body, trailers):
    """A server that speaks HTTP/2 well and gRPC as told."""

    def talk(client):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        client.sendall(connection.data_to_send())
        asked = False
        while not asked:
            asked = any(isinstance(one, h2.events.StreamEnded) for one in connection.receive_data(client.recv(65536)))
        connection.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        connection.send_data(1, body)
        connection.send_headers(1, trailers, end_stream=True)
        client.sendall(connection.data_to_send())

    return talk


@pytest.mark.parametrize(
    ("body", "trailers", "problem"),
    [
        (struct.pack(">?I", False, 0), [("grpc-status", "0")], ""),
        (struct.pack(">?I", False, 0), [("other", "0")], "gRPC status missing"),
        (struct.pack(">?I", False, 0), [("grpc-status", "13"), ("grpc-message", "x" * 900)], f"13: '{'x' * 200}'"),
        (b"\0\0", [("grpc-status", "0")], "no message"),
        (struct.pack(">?I", True, 0), [("grpc-status", "0")], "not one uncompressed message"),
        (struct.pack(">?I", False, 2**32 - 1), [("grpc-status", "0")], "not one uncompressed message"),
        (struct.pack(">?I", False, 0) * 2, [("grpc-status", "0")], "not one uncompressed message"),
    ],
)
def test_lies_about_the_message_are_told(path, body, trailers, problem):
    with listener(path, http2(body, trailers)):
        told = ask(path, deadline_s=5).problem

    assert problem in told
    assert bool(problem) == bool(told)


# ---- no kubelet ----


def test_without_a_socket_nothing_is_imported_and_the_way_out_is_told(path):
    code = f"""
import sys
from pathlib import Path
from eagle_eye.probes.pod_resources import ask
told = ask(Path({str(path)!r}), deadline_s=1)
assert "does not exist" in told.problem and told.remedy
print(sorted({{"h2", "google.protobuf", "grpc"}} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_a_missing_package_is_told_with_the_way_out(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h2.config", None)
    with listener(path, hang):
        told = ask(path, deadline_s=1)
        socket.socket(socket.AF_UNIX).connect(str(path))

    assert "is not installed" in told.problem
    assert told.remedy == "pip install 'eagle-eye[kubernetes]'"


def test_a_file_and_a_dead_socket_are_told(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert "nobody listens" in ask(path, deadline_s=1).problem

    path.unlink()
    path.write_text("")
    assert "is no socket" in ask(path, deadline_s=1).problem
    assert "Not a directory" in ask(path / "below", deadline_s=1).problem


def test_a_socket_that_may_not_be_used_is_told(path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("eagle_eye.probes.pod_resources.call", refuse)
    with listener(path, hang):
        told = ask(path, deadline_s=1)
        socket.socket(socket.AF_UNIX).connect(str(path))

    assert "may not use" in told.problem
    assert told.remedy == "run as root"


# ---- over time ----


class Clock:
    now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


def test_asking_never_waits_and_the_answer_is_there_the_next_time(path, clock):
    resources = PodResources(path, deadline_s=5, clock_ns=clock)
    with kubelet(path, lambda _: time.sleep(0.5) or ANSWER):
        started = time.monotonic()
        first = resources.snapshot()
        took = time.monotonic() - started
        resources.close()

    assert (first.holders, first.answered_ns) == ({}, 0)
    assert took < 0.4
    assert resources.snapshot().holders == parse(ANSWER)[0]
    assert resources.snapshot().answered_ns == clock.now_ns


def test_the_kubelet_is_asked_once_in_a_period(path, clock):
    asked = []
    resources = PodResources(path, period_s=10, clock_ns=clock)
    with kubelet(path, lambda _: asked.append(1) or ANSWER):
        for _ in range(5):
            resources.snapshot()
            resources.close()
        assert len(asked) == 1
        clock.now_ns += 10 * 10**9
        resources.snapshot()
        resources.close()
        assert len(asked) == 2


def test_what_was_told_outlives_a_restart_of_the_kubelet_but_not_its_end(path, clock):
    resources = PodResources(path, period_s=10, clock_ns=clock)
    with kubelet(path, lambda _: ANSWER):
        resources.snapshot()
        resources.close()

    for _ in range(2):
        clock.now_ns += 10 * 10**9
        resources.snapshot()
        resources.close()
    assert resources._last.holders
    assert resources._last.problem

    clock.now_ns += 20 * 10**9
    resources.snapshot()
    resources.close()
    assert resources._last.holders == {}


def test_a_hanging_kubelet_has_one_thread_at_most(path, clock):
    resources = PodResources(path, period_s=1, deadline_s=0.5, clock_ns=clock)
    before = threading.active_count()
    with listener(path, hang):
        for _ in range(20):
            clock.now_ns += 10**9
            resources.snapshot()
        assert threading.active_count() <= before + 2
        resources.close()
