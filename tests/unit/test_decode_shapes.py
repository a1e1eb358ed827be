"""Every shape of the table: a message made by it is decoded to its family, code and values, and by no other family."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.decode.grammar import decode
from eagle_eye.probes.decode.shape import SHAPES, Shape, compile_shape, match

DEVICE = "0000:41:00.0"
# What a slot may hold, as it is printed.
VALUES = {
    "": st.from_regex(r"[a-z]{3,12}( [a-z]{3,9})?", fullmatch=True),
    "w": st.from_regex(r"[a-z]{3,9}[0-9]{0,2}", fullmatch=True),
    "d": st.integers(0, 1 << 40).map(str),
    "x": st.integers(0, (1 << 64) - 1).map("{:#x}".format),
    "f": st.integers(0, 10**6).map(lambda thousandths: f"{thousandths / 1000:.3f}"),
    "ms": st.integers(0, 1 << 30).map(str),
    "kB": st.integers(0, 1 << 40).map(str),
    "pci": st.integers(0, 255).map("0000:{:02x}:00.0".format),
}


def prefix_of(one: Shape) -> str:
    """What the kernel puts in front of a driver's message."""
    driver = one.family.removeprefix("nic").removeprefix(".")
    if one.family == "nic":
        return f"ice {DEVICE} eth0: "
    if driver == "bonding":
        return "bond0: "
    if one.family.startswith("nic."):
        return f"{'mlx5_core' if driver == 'mlx5' else driver} {DEVICE}: "
    if one.family == "ascend.host_kernel":
        return "[ascend] [ERROR] [devdrv] [some_function 7] "
    if one.family == "other_vendor" and not one.code.startswith("neuron"):
        return f"{one.code.partition('_')[0].replace('intel', 'i915') or 'amdgpu'} {DEVICE}: "
    return ""


@st.composite
def printed(draw, one):
    """A text by the shape, and what its slots hold."""
    text, values = one.start, {}
    for name, kind, literal in one.pieces:
        written = draw(VALUES[kind])
        text += written + literal
        values[name] = (kind, written)
    return prefix_of(one) + text, values


def converted(kind, written):
    convert = {"x": lambda text: int(text, 16), "d": int, "f": float, "ms": lambda text: int(text) / 1000}
    return convert.get(kind, str)(written)


@pytest.mark.parametrize("one", SHAPES, ids=lambda one: f"{one.family}-{one.code}-{one.start[:30]}")
def test_a_message_by_a_shape_has_its_code_whatever_the_other_shapes(one):
    slots = {"": "some words", "w": "word1", "d": "17", "x": "0x1f", "f": "1.5", "ms": "5012", "kB": "4", "pci": DEVICE}
    text = prefix_of(one) + one.start + "".join(slots[kind] + literal for _, kind, literal in one.pieces)

    found = decode(text)

    assert found is not None, text
    assert found.family.startswith(one.family), text
    assert (found.code, found.recovery) == (one.code, one.recovery), text


@settings(max_examples=300)
@given(data=st.data())
def test_a_shape_reads_back_what_was_printed_by_it(data):
    one = data.draw(st.sampled_from(SHAPES))
    text, values = data.draw(printed(one))

    found = match(one, text.removeprefix(prefix_of(one)))

    assert found is not None, text
    told = {**found.fields, "device": found.device}
    for name, (kind, written) in values.items():
        if not name.startswith("_"):
            assert told[name] == converted(kind, written), text


def test_slots_convert_to_base_units():
    one = compile_shape("f", "c", "took {blocked_seconds:ms} ms, {size_bytes:kB} kB on {device:pci} at {rate:f}")

    assert match(one, "took 2500 ms, 4 kB on 41:00 at 1.5 or so") == Decoded(
        "f", "c", "0000:41:00.0", {"blocked_seconds": 2.5, "size_bytes": 4096, "rate": 1.5}
    )


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("disk {disk:w} failed", "disk of two words failed"),
        ("disk {disk:w} failed", "the disk sda failed"),
        ("error {error:d}, sector", "error x, sector"),
        ("error {error:d}", "error "),
        ("at {address:x} now", "at 0xzz now"),
        ("at {address:x}", "at 0x1ffffffffffffffff"),
        ("by {device:pci}.", "by nobody."),
        ("*lost {disk:w}.", "nothing here"),
    ],
)
def test_what_does_not_convert_is_another_message(written, text):
    assert match(compile_shape("f", "c", written), text) is None


def test_a_shape_with_a_star_begins_anywhere():
    assert match(compile_shape("f", "c", "*lost {disk:w}"), "we lost sda") == Decoded("f", "c", "", {"disk": "sda"})


@pytest.mark.parametrize("written", ["{one}{two}", "*{anything} failed"])
def test_a_shape_that_could_be_read_in_two_ways_is_refused(written):
    with pytest.raises(ValueError, match=r"touch|nowhere"):
        compile_shape("f", "c", written)


def test_the_table_has_each_shape_once():
    rows = [(one.family, one.anywhere, one.start, one.pieces) for one in SHAPES]

    assert len(set(rows)) == len(rows)
    assert {one.family.partition(".")[0] for one in SHAPES} == {
        "storage",
        "nic",
        "sched",
        "kernel",
        "ascend",
        "other_vendor",
    }
