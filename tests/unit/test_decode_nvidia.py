"""The NVIDIA families: every shape of every driver generation, hostile text, and a way through the real kernel log."""

import json
import os
import re
import select
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import UnavailableError
from eagle_eye.native.kmsg import KernelLog
from eagle_eye.probes.decode import nvidia_fallen, nvidia_identity, nvidia_init_assert, nvidia_sxid, nvidia_xid
from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.decode.grammar import Decoder, decode, sift
from eagle_eye.probes.decode.record import Record, tokenize

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "kmsg_samples.jsonl"
FAMILIES = [module.FAMILY for module in (nvidia_xid, nvidia_sxid, nvidia_fallen, nvidia_init_assert, nvidia_identity)]
LINES = [json.loads(line) for line in (ROOT / "tests/fixtures/decode/nvidia.jsonl").read_text().splitlines()]


def shared_samples(nvidia=False):
    if not SHARED.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{SHARED} is not there"))]
    samples = [json.loads(line) for line in SHARED.read_text().splitlines()]
    ours = [one for one in samples if not nvidia or one["cls"].startswith("nvidia.") or "NVRM: Xid" in one["line"]]
    return [pytest.param(one, id=one["line"][:60]) for one in ours]


@pytest.mark.parametrize("wanted", LINES, ids=lambda wanted: wanted["line"][:70])
def test_every_shape_has_exactly_its_fields(wanted):
    found = decode(tokenize(wanted["line"]).text)

    assert found is not None
    told = {name: value for name, value in found.fields.items() if name != "message"}
    assert (found.family, found.code, found.device) == (wanted["family"], wanted["code"], wanted["device"])
    assert told == wanted["fields"]
    assert found.recovery == wanted.get("recovery", False)


def test_an_xid_keeps_the_words_of_its_message():
    found = decode("NVRM: Xid (PCI:0000:0a:00): 999, pid=5, name=x, words of a driver yet to come")

    assert found.fields["message"] == "words of a driver yet to come"


# What the shared samples say in their own words, as what must then be in the decoded record.
PROSE = {
    r"xid=(\d+)": ("code", str),
    r"^(1[45]\d) ": ("code", str),
    r"^(\d{5}) ": ("code", str),
    r"\bbdf=([0-9a-f:.]+)": ("device", lambda text: text if "." in text else text + ".0"),
    r"\bengine=(\w+)": ("engine", str),
    r"\bclient=(\w+)": ("client", str),
    r"\bva=(\w+)": ("va", lambda text: text.replace("_", "")),
    r"\bclass=(\w+)": ("class", lambda text: f"0x{text}"),
    r"\bunit=(\w+)": ("unit", str),
    r"\bcause=(\d+)": ("cause", str),
    r"\baction=(\d+)": ("to_action", int),
    r"\baction=(IMEX)": ("to_action_name", lambda _: "Recover IMEX Domain"),
    r"\bgi=(\d+)": ("gpu_instance", int),
    r"\bci=(\d+)": ("compute_instance", int),
    r"\blink ?=?(-?\d+)": ("link", int),
    r"\binstance=(\d+)": ("instance", int),
    r"\bchiplet=(\d+)": ("chiplet", int),
    r"\b(fatal|nonfatal|correctable)\b(?! XC)": ("severity", str),
    r"\b(Fatal|Nonfatal)\b": ("severity", str.lower),
    r"^1[45]\d ([A-Z_]+)/?": ("unit", str),
    r"^1[45]\d [A-Z_]+/(\w+)": ("sub_unit", str),
    r"(XC1)": ("xc", lambda _: 1),
    r"(45) s timeout": ("timeout_seconds", int),
    r"(continuation)": ("continuation", lambda _: True),
    r"(contained)": ("containment", str),
    r"^(addr|xid=64 addr)": ("address", lambda _: "0x2eebc4100"),
    r"with (sequence)": ("sequence", lambda _: 1234),
    r"^pci->(uuid)": ("uuid", lambda _: "GPU-509665ad-b600-ac93-3616-d754b23d636d"),
    r"^(serial)": ("serial", lambda _: "1653723052734"),
    r"^(driver version)": ("driver", lambda _: "595.45.04"),
    r"^(rate-limit)": ("printed_one_of", lambda _: 30),
    r"^(gsp rpc table)": ("function_name", lambda _: "GSP_RM_ALLOC"),
    r"^(fallen) bdf": ("code", lambda _: "fallen_off_bus"),
    r"^fallen (1/3)": ("part", lambda _: "head"),
    r"^(crash dump)": ("code", lambda _: "crash_dump"),
    r"^(sibling)": ("code", lambda _: "power_state_refused"),
    r"^(NVLink rx-detect)": ("code", lambda _: "nvlink_rx_detect_failed"),
    r"^(init failure)": ("code", lambda _: "rm_init_adapter_failed"),
    r"^(check failed)": ("code", lambda _: "check_failed"),
    r"^(assert)": ("code", lambda _: "assertion_failed"),
    r"sympathetic Xid (79)": ("code", str),
    r"the process is the (monitor)": ("process", lambda _: "gpud"),
    r"(older) wording": ("gpu", lambda _: 1),
    r"(wording \d)": ("error", lambda _: "CTX SWITCH TIMEOUT"),
    r"xid=43 (new)": ("channel", lambda _: "0xb00000a"),
    r"xid=43 (victim)": ("channel", lambda _: "0x8"),
}


def wanted_of(prose):
    return [(field, make(found[1])) for rule, (field, make) in PROSE.items() for found in re.finditer(rule, prose)]


@pytest.mark.parametrize("sample", shared_samples(nvidia=True))
def test_every_shared_nvidia_sample_says_what_is_expected(sample):
    wanted = wanted_of(sample["expect"])
    found = decode(tokenize(sample["line"]).text)

    assert wanted, "nothing is known about what is expected"
    is_xid = "NVRM: Xid" in sample["line"] or sample["cls"].startswith("nvidia.xid")
    assert found.family == ("nvidia.xid" if is_xid else sample["cls"])
    told = {**found.fields, "code": found.code, "device": found.device}
    assert {field: told.get(field) for field, _ in wanted} == dict(wanted)


@pytest.mark.parametrize("sample", shared_samples())
def test_every_shared_sample_is_of_a_family(sample):
    found = decode(tokenize(sample["line"]).text)

    assert found is not None
    family = sample["cls"]
    if family != "kmsg.record" and "NVRM: Xid" not in sample["line"]:
        assert family.startswith(found.family) or found.family.startswith(family.split(".")[0])


def test_two_lines_of_details_join_their_sxid():
    lines = [
        "nvidia-nvswitch2: SXid (PCI:0000:85:00.0): 12028, Non-fatal, Link 61 egress non-posted PRIV error (First)",
        "nvidia-nvswitch2: SXid (PCI:0000:85:00.0): 12028, Severity 0 Engine instance 61 Sub-engine instance 00",
        "nvidia-nvswitch2: SXid (PCI:0000:85:00.0): 12028, Data {0x000001c0, 0x00000000}",
        "nvidia-nvswitch2: SXid (PCI:0000:85:00.0): 12028, Data {0x00000002}",
    ]
    (found,) = whole(lines)

    assert found.lines == (1, 2, 3, 4)
    fields = {name: value for name, value in found.decoded.fields.items() if name != "message"}
    assert fields == {
        "nvswitch": 2, "severity": "nonfatal", "link": 61, "first": True, "severity_number": 0,
        "engine_instance": 61, "sub_engine_instance": 0, "data": ["0x000001c0", "0x00000000", "0x00000002"],
    }  # fmt: skip
    assert not found.decoded.incomplete


def test_details_of_another_switch_join_nothing():
    head = "nvidia-nvswitch2: SXid (PCI:0000:85:00.0): 12028, Non-fatal, Link 61 egress (First)"
    other = "nvidia-nvswitch1: SXid (PCI:0000:84:00.0): 12028, Data {0x1}"

    assert [found.lines for found in whole([head, other])] == [(1,), (2,)]


def test_a_gpu_that_falls_off_in_three_records_is_one_fault():
    lines = [
        "[ 5.000001] NVRM: The NVIDIA GPU 0000:b3:00.0",
        "[ 5.000002] usb 1-1: new device",
        "[ 5.000003] NVRM: (PCI ID: 10de:26b5) installed in this system has",
        "[ 5.000004] NVRM: fallen off the bus and is not responding to commands.",
    ]
    (found,) = whole(lines)

    assert found.lines == (1, 3, 4)
    assert found.decoded == Decoded("nvidia.fallen", "fallen_off_bus", "0000:b3:00.0", {"pci_id": "10de:26b5"})


def test_the_same_beginning_may_tell_of_a_gpu_that_the_driver_does_not_support():
    lines = [
        "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1180)",
        "NVRM: installed in this system is not supported by the",
        "NVRM: NVIDIA 595.45.04 driver release.",
    ]
    (found,) = whole(lines)

    assert (found.decoded.family, found.decoded.code) == ("nvidia.init_assert", "gpu_not_supported")
    assert found.decoded.device == "0000:01:00.0"
    assert found.decoded.fields == {"pci_id": "10de:1180"}


def test_a_serial_number_joins_the_uuid_before_it():
    lines = [
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-000000000000",
        "NVRM: GPU Board Serial Number: 1320000000001",
    ]
    (found,) = whole(lines)

    assert found.decoded.device == "0000:9b:00.0"
    assert found.decoded.fields["serial"] == "1320000000001"


def test_xids_after_a_rate_limit_notice_say_how_few_of_them_are_printed():
    xid = "NVRM: Xid (PCI:0000:9b:00): 119, pid=3, name=a, Timeout after 6s of waiting for RPC response"
    notice = "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).  The GPU"
    found = [one.decoded.fields.get("printed_one_of") for one in whole([xid, notice, xid, xid.replace("9b", "9c")])]

    assert found == [None, 30, 30, None]


known_lines = st.sampled_from([one["line"] for one in LINES])


@st.composite
def mutated(draw):
    """A known line with parts cut out, doubled or replaced."""
    text = draw(known_lines)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        text = (
            text[:start] + draw(st.one_of(st.just(""), st.text(max_size=20), st.just(text[start:end] * 3))) + text[end:]
        )
    return text


@given(text=st.one_of(mutated(), st.text(), st.text("NVRMXid SGPU():,0x1fPCI.\n", max_size=200)))
def test_no_text_makes_an_exception_and_what_is_told_can_be_sent(text):
    for family in FAMILIES:
        for found in (family.parse(text), family.parse(tokenize(text).text)):
            if found is not None:
                assert msgspec.json.decode(msgspec.json.encode(found), type=Decoded) == found
                assert len(found.code) < 32
                assert re.fullmatch(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])?", found.device)


@given(first=mutated(), second=mutated())
def test_joins_take_anything(first, second):
    for family in FAMILIES:
        one, other = family.parse(first), family.parse(second)
        if family.join and one and other:
            joined = family.join(one, other)
            assert joined is None or isinstance(joined, Decoded)


words = st.lists(
    st.sampled_from(["NVRM", "Xid", "GPU", "PCI", "79", "fallen", "off", "bus", "0000:0a:00.0", "Link", ":", "(", ")"]),
    max_size=20,
)


@given(st.one_of(st.text(), words.map(" ".join)))
def test_no_fault_is_invented(text):
    """Only the driver's own beginnings make a fault."""
    own = ("NVRM: Xid (", "SXid (", "NVRM: GPU 0", "NVRM: fallen off", "fallen off the bus")
    if not any(mark in text for mark in own):
        assert all(family.parse(text) is None or not family.parse(text).code for family in FAMILIES)


HOSTILE = (
    "NVRM: Xid (", "NVRM: Xid (PCI:0000:01:00): 145, " + "A/" * 5, "SXid (PCI:0000:01:00.0): 1, ", "): ", "Data {0x1,",
    "NVRM: The NVIDIA GPU 0000:01:00.0\n", " Assertion failed: ", "Ch 0 ", " @ ", " caused by previous Xid ", "\\x0a",
    "message repeated 1 times: [ ", "1 callbacks suppressed ",
)  # fmt: skip


def seconds(work):
    """The least CPU time of several goes."""
    least = float("inf")
    for _ in range(5):
        start = time.thread_time()
        work()
        least = min(least, time.thread_time() - start)
    return least


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_the_text(piece):
    texts = [("NVRM: Xid (PCI:0000:01:00): 31, " + piece * (length // len(piece))) for length in (50_000, 800_000)]
    short, long = (
        seconds(lambda text=text: [family.parse(text) for family in FAMILIES] + [decode(tokenize(text).text)])
        for text in texts
    )

    # Sixteen times the text; a quadratic parser would take 256 times as long.
    assert long < 100 * max(short, 1e-4)


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_line_of_a_megabyte_is_one_line(piece):
    data = (
        b"a\n"
        + piece.encode().replace(b"\n", b" ") * (1_000_000 // len(piece))
        + b"\n"
        + LINES[8]["line"].encode()
        + b"\n"
    )
    decoder = Decoder()
    found = decoder.take_lines(data) + decoder.flush()

    assert found[-1].lines == (3,)
    assert found[-1].decoded.family == LINES[8]["family"]


@pytest.fixture
def kernel_log():
    """The kernel's own log, from now on."""
    if Path("/proc/sys/kernel/printk_devkmsg").read_text().strip() == "off":
        pytest.skip("kernel.printk_devkmsg is off")
    try:
        log = KernelLog(Path("/dev/kmsg"))
        os.close(os.open("/dev/kmsg", os.O_WRONLY))
    except (UnavailableError, OSError) as error:
        pytest.skip(f"the kernel log cannot be written and read: {error}")
    yield log
    log.close()


@pytest.mark.parametrize(
    "family", ["nvidia.identity", "nvidia.xid", "nvidia.sxid", "nvidia.fallen", "nvidia.init_assert"]
)
def test_what_goes_through_the_real_kernel_log_is_decoded_from_it(kernel_log, family):
    sent = [one for one in LINES if one["family"] == family and one["line"].startswith(("NVRM", "nvidia"))]
    wanted = [(one["code"], one["device"], one["fields"]) for one in sent]
    for one in sent:
        # The kernel takes ten lines of each that writes into it.
        with open("/dev/kmsg", "wb", buffering=0) as kernel:
            kernel.write(one["line"].replace("\\x0a", "\n").encode() + b"\n")

    seen = []
    until = time.monotonic() + 20
    while len(seen) < len(wanted) and time.monotonic() < until:
        batch = kernel_log.read()
        masks = sift().records(batch).tolist()
        # Each by itself: records of others may come between those of this test.
        found = [told for index, mask in enumerate(masks) if mask for told in one_by_one(batch.text(index), mask)]
        seen += [told for told in found if told in wanted]
        if not batch.more:
            select.select([kernel_log.wake_fd], [], [], 0.1)
    assert seen == wanted


def one_by_one(text, mask):
    decoder = Decoder()
    for found in decoder.take(Record(text), mask) + decoder.flush():
        fields = {name: value for name, value in found.decoded.fields.items() if name != "message"}
        yield found.decoded.code, found.decoded.device, fields


def whole(lines):
    decoder = Decoder()
    return decoder.take_lines("".join(f"{line}\n" for line in lines).encode()) + decoder.flush()
