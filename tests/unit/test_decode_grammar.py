"""The tokenizer, records about others, and what waits for what, in which order, for how long."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.decode import grammar
from eagle_eye.probes.decode.families import FAMILIES
from eagle_eye.probes.decode.grammar import HOLD_NS, Decoder, decode, decode_lines, sift
from eagle_eye.probes.decode.lines import MAX_LINE_BYTES, WholeLines
from eagle_eye.probes.decode.notices import Notice, read_notice
from eagle_eye.probes.decode.record import MAX_TEXT, tokenize

XID = "NVRM: Xid (PCI:0000:0a:00): 79, GPU has fallen off the bus."
SXID = "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Fatal, Link 48 LTSSM Fault Up"
MORE = "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Data {0x00000001}"


@dataclass
class Form:
    line: str
    at_ns: int = -1
    stamp: str = ""
    level: int = -1
    program: str = ""
    text: str = "NVRM: x: y"


SECOND = 1_000_000_000
FORMS = [
    Form("NVRM: x: y"),
    Form("6,3973,227996636,-;NVRM: x: y", 227_996_636_000, "227.996636", 6),
    Form("30,3973,1,c,caller=T12;NVRM: x: y", 1000, "0.000001", 6),
    Form("<4>[  201.714354] NVRM: x: y", 201_714_354_000, "201.714354", 4),
    Form("<4>NVRM: x: y", level=4),
    Form("[    0.000000] NVRM: x: y", 0, "0.000000"),
    Form("[12345678.5] NVRM: x: y", 12_345_678_500_000_000, "12345678.5"),
    Form("[    1.000000][    T1] NVRM: x: y", SECOND, "1.000000"),
    Form("[    1.000000] [   C12] NVRM: x: y", SECOND, "1.000000"),
    Form("[    5.0 <    0.100000>] NVRM: x: y", 5 * SECOND, "5.0"),
    Form("[  +0.000002] NVRM: x: y", stamp="+0.000002"),
    Form("[Nov22 10:00] NVRM: x: y", stamp="Nov22 10:00"),
    Form("[Sun Nov 22 10:00:00 2026] NVRM: x: y", stamp="Sun Nov 22 10:00:00 2026"),
    Form("kern  :err   : [    0.5] NVRM: x: y", SECOND // 2, "0.5", 3),
    Form("kern  :warn  : [Sun Nov  2 10:00:00 2026] NVRM: x: y", stamp="Sun Nov  2 10:00:00 2026", level=4),
    Form("daemon:notice: [    0.5] NVRM: x: y", SECOND // 2, "0.5", 5),
    Form("2026-11-22T10:00:00,123456+00:00 NVRM: x: y", stamp="2026-11-22T10:00:00,123456+00:00"),
    Form("Nov 22 10:00:00 node-7 kernel: [   12.5] NVRM: x: y", 12 * SECOND + SECOND // 2, "Nov 22 10:00:00"),
    Form("Nov  2 10:00:00 node-7 kernel: NVRM: x: y", stamp="Nov  2 10:00:00"),
    Form("2026-11-22T10:00:00.123456+00:00 node kernel: NVRM: x: y", stamp="2026-11-22T10:00:00.123456+00:00"),
    Form("2026-11-22T10:00:00+0000 node kernel: NVRM: x: y", stamp="2026-11-22T10:00:00+0000"),
    Form("Sun 2026-11-22 10:00:00 UTC node kernel: NVRM: x: y", stamp="Sun 2026-11-22 10:00:00 UTC"),
    Form("Nov 22 10:00:00 node python3[12]: NVRM: x: y", stamp="Nov 22 10:00:00", program="python3"),
    Form("[   12.345678] node kernel: NVRM: x: y", 12_345_678_000, "12.345678"),
    Form("<6>1 2026-11-22T10:00:00.1Z node kernel - - - NVRM: x: y", stamp="2026-11-22T10:00:00.1Z", level=6),
    Form("               NVRM: x: y"),
    Form("Nov  2 10:00:00 node kernel: NVRM: x#012NVRM: y", stamp="Nov  2 10:00:00", text="NVRM: x\nNVRM: y"),
    Form("NVRM: x#012NVRM: y", text="NVRM: x#012NVRM: y"),
    Form(
        '{"_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","PRIORITY":"3","MESSAGE":"NVRM: x: y",'
        '"_SOURCE_MONOTONIC_TIMESTAMP":"1500000","__REALTIME_TIMESTAMP":"1790000000000000","_PID":"1"}',
        SECOND * 3 // 2,
        "1790000000000000",
        3,
    ),
    Form('{"MESSAGE":"NVRM: x: y","SYSLOG_IDENTIFIER":"agent","PRIORITY":""}', program="agent"),
    Form('{"MESSAGE":[78,86]}', text="NV"),
    Form('{"MESSAGE":"cut', text='{"MESSAGE":"cut'),
    Form("[ascend] [ERROR] x", text="[ascend] [ERROR] x"),
    Form("[2025-04-16-03:08:13.704312] [ascend] x", stamp="2025-04-16-03:08:13.704312", text="[ascend] x"),
    Form("[0x08520003,na,L2,na]", text="[0x08520003,na,L2,na]"),
    Form("{1}[Hardware Error]: x", text="{1}[Hardware Error]: x"),
    Form("divide error: 0000 [#1] SMP", text="divide error: 0000 [#1] SMP"),
    Form("4,1,2,-;a\\x0ab\\x5c \\xc3\\xbc", 2000, "0.000002", 4, text="a\nb\\ ü"),
    Form("a\x1b[31mb", text="a\\x1b[31mb"),
    Form("", text=""),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.line[:60])
def test_every_form_of_a_line_gives_its_text_time_and_level(form):
    record = tokenize(form.line, 7)

    assert record.line == 7
    assert (record.text, record.at_ns, record.stamp) == (form.text, form.at_ns, form.stamp)
    assert (record.level, record.program) == (form.level, form.program)


journal = st.dictionaries(
    st.sampled_from(["MESSAGE", "PRIORITY", "_TRANSPORT", "_SOURCE_MONOTONIC_TIMESTAMP", "__REALTIME_TIMESTAMP"]),
    st.one_of(st.text(), st.text("0123456789"), st.just("9" * 5000), st.none(), st.integers()),
).map(json.dumps)


@given(
    st.one_of(st.text(), st.text("[]<>0123456789.,:;- TCZab\\x"), st.text(st.characters(max_codepoint=255)), journal)
)
def test_no_line_stops_the_tokenizer(line):
    record = tokenize(line)

    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", record.text + record.stamp)
    assert -1 <= record.level <= 7
    assert len(record.text) <= 4 * MAX_TEXT


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("last message repeated 3 times", Notice(3, 0)),
        ("--- last message repeated 1 time ---", Notice(1, 0)),
        ("node-7 last message repeated 12 times", Notice(12, 0)),
        ("message repeated 2 times: [ [  1.5] a b ]", Notice(2, 0, "[  1.5] a b ")),
        ("message repeated 2 times: [a [b]]", Notice(2, 0, "a [b]")),
        ("net_ratelimit: 17 callbacks suppressed", Notice(0, 17)),
        ("printk: 4 messages suppressed.", Notice(0, 4)),
        ("last message repeated 0 times", None),
        ("the last message repeated itself", None),
        ("no callbacks suppressed", None),
    ],
)
def test_records_about_others_are_read(text, notice):
    assert read_notice(text) == notice


def told(*lines):
    decoder = Decoder()
    return decoder.take_lines("".join(f"{line}\n" for line in lines).encode()) + decoder.flush()


def test_repeats_are_counted_once_more_each():
    found = told(XID, "last message repeated 3 times", "last message repeated 2 times")

    assert [one.count for one in found] == [1, 3, 2]
    assert [one.decoded.code for one in found] == ["79"] * 3
    assert [one.decoded.fields.get("repeats") for one in found] == [None, 3, 2]
    assert [one.lines for one in found] == [(1,), (2,), (3,)]


def test_repeats_of_something_unknown_are_unknown():
    assert [one.count for one in told(XID, "usb 1-1: new device", "last message repeated 3 times")] == [1]


def test_rsyslog_puts_the_repeated_record_into_brackets():
    line = f"Nov 22 10:00:01 node kernel: message repeated 5 times: [ [  9.5] {XID}]"
    (found,) = told(line)

    assert (found.count, found.decoded.code, found.decoded.device) == (5, "79", "0000:0a:00.0")


def test_a_record_after_a_notice_says_how_many_were_left_out():
    found = told("nv_limit: 44 callbacks suppressed", XID, XID)

    assert [one.decoded.fields.get("suppressed") for one in found] == [44, None]


def test_what_another_program_quotes_is_no_fault():
    assert told(f"Nov 22 10:00:00 node health-agent[12]: {XID}") == []
    assert len(told(f"Nov 22 10:00:00 node kernel: {XID}")) == 1


def test_what_is_told_is_in_the_order_of_the_log():
    found = told(SXID, XID, MORE, XID)

    assert [one.lines for one in found] == [(1, 3), (2,), (4,)]


def test_nothing_joins_over_more_than_64_records_or_a_second():
    assert [one.lines for one in told(SXID, *["x"] * 63, MORE)] == [(1, 65)]
    assert [one.lines for one in told(SXID, *["x"] * 64, MORE)] == [(1,), (66,)]
    assert [one.lines for one in told(f"[1.0] {SXID}", f"[2.0] {MORE}")] == [(1, 2)]
    assert [one.lines for one in told(f"[1.0] {SXID}", f"[2.1] {MORE}")] == [(1,), (2,)]


def test_nothing_waits_longer_than_20_milliseconds():
    decoder = Decoder()
    assert decoder.take_lines(f"{SXID}\n".encode(), 5) == []
    assert decoder.waits
    assert decoder.flush(4 + HOLD_NS) == []
    (found,) = decoder.flush(5 + HOLD_NS)
    assert not decoder.waits
    assert not found.decoded.incomplete
    (late,) = decoder.take_lines(f"{MORE}\n".encode(), 6 + HOLD_NS) + decoder.flush()
    assert late.lines == (2,)


def test_another_record_makes_the_one_that_waited_too_long_leave():
    decoder = Decoder()
    decoder.take_lines(f"{SXID}\n".encode(), 5)

    assert [one.lines for one in decoder.take_lines(f"{XID}\n".encode(), 5 + HOLD_NS)] == [(1,), (2,)]


def test_a_flood_of_beginnings_without_ends_is_held_in_bounds():
    decoder = Decoder()
    given = []
    for number in range(5000):
        given += decoder.take_lines(SXID.replace("20034", str(20000 + number)).encode() + b"\n", 1)
        assert number - len(given) <= 65

    assert [one.lines for one in given + decoder.flush()] == [(line,) for line in range(1, 5001)]


def test_a_flood_of_continuations_ends_too():
    lines = [SXID] + [MORE] * 1000
    found = told(*lines)

    assert sum(len(one.lines) for one in found) == 1001
    assert max(len(one.lines) for one in found) <= 256
    assert max(len(one.decoded.fields["data"]) for one in found) <= 64


def test_chunks_make_no_difference():
    lines = [SXID, "x", XID, MORE, "last message repeated 4 times", XID]
    decoder, given = Decoder(), []
    for line in lines:
        given += decoder.take_lines(f"{line}\n".encode())

    assert given + decoder.flush() == told(*lines) == list(decode_lines(lines))


@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([XID.encode(), SXID.encode(), MORE.encode()]))))
def test_any_bytes_are_a_log(lines):
    decoder = Decoder()
    found = decoder.take_lines(b"\n".join(lines)) + decoder.flush()

    covered = [line for one in found for line in one.lines]
    assert len(covered) == len(set(covered))
    firsts = [one.lines[0] for one in found]
    assert firsts == sorted(firsts)


def test_every_trigger_is_worth_a_look_and_names_are_unique():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.triggers
        assert all(4 <= len(trigger) <= 64 and trigger.isascii() for trigger in family.triggers), family.name


def test_the_readme_lists_every_family_with_a_line_that_it_knows():
    readme = (Path(grammar.__file__).parent / "README.md").read_text()
    rows = [row.split(" | ") for row in readme.splitlines() if re.match(r"\| `[a-z0-9_.]+`[, ].*\|.*\| `", row)]

    listed = [name for row in rows for name in re.findall(r"`([a-z0-9_.]+)`", row[0])]
    assert sorted(listed) == sorted(family.name for family in FAMILIES)
    for row in rows:
        found = decode(row[2].strip(" |`"))
        assert found is not None, row
        assert any(found.family.startswith(name.strip("`| ")) for name in row[0].split(",")), row


def test_a_text_is_only_shown_to_families_whose_trigger_it_holds():
    for number, family in enumerate(FAMILIES):
        for trigger in family.triggers:
            assert sift().text(f"a {trigger} b".encode()) >> number & 1


def test_ordinary_lines_cost_next_to_nothing():
    line = "systemd[1]: Started Session 12345 of user root on this machine, as it does every day.\n"
    data = line.encode() * 100_000
    decoder = Decoder()
    start = time.thread_time()

    assert decoder.take_lines(data) == []
    # The bench says how fast it is; this only tells a pass over bytes from a look at each line.
    assert time.thread_time() - start < 1.0


def test_decode_knows_no_time_and_no_level():
    assert decode(XID).code == "79"
    assert decode("nothing of interest") is None
    assert grammar.decode("") is None


def reference(data):
    return [line[:MAX_LINE_BYTES] for line in data.split(b"\n")]


@given(st.lists(st.binary(max_size=30).map(lambda part: part.replace(b"a", b"a" * 7000)), max_size=20))
def test_whole_lines_are_the_lines_whatever_the_chunks(chunks):
    lines = WholeLines()
    given = b""
    for chunk in chunks:
        whole = lines.add(chunk)
        assert not whole or whole.endswith(b"\n")
        given += whole
    given += lines.last()

    assert [line[:MAX_LINE_BYTES] for line in given.split(b"\n")] == reference(b"".join(chunks))


def test_an_endless_line_is_held_in_bounds():
    lines = WholeLines()
    for _ in range(100):
        assert lines.add(b"x" * 100_000) == b""

    assert lines.add(b"y\nz\n") == b"x" * MAX_LINE_BYTES + b"\nz\n"


def test_the_journals_message_of_bytes_is_read_as_the_text_that_it_is():
    said = list(b"NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=p\x1by, Ch 00000008\xff")
    line = '{"_TRANSPORT":"kernel","MESSAGE":' + str(said).replace(" ", "") + ',"PRIORITY":"3"}\n'

    for found in (Decoder().take_lines(line.encode()), list(decode_lines([line]))):
        (one,) = found
        assert (one.decoded.code, one.decoded.device, one.record.level) == ("31", "0000:3b:00.0", 3)


def test_a_message_of_numbers_that_are_no_bytes_is_not_read():
    assert Decoder().take_lines(b'{"MESSAGE":[300,-1,"x"]}\n{"MESSAGE":[78,86\n') == []
