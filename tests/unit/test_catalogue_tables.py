"""The catalogue's tables: complete, lawful, of one mind about causes and victims, and in our own words."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import pytest

from eagle_eye.probes.ascend_events import SEVERITIES as GRAVITIES
from eagle_eye.probes.ascend_events import decode
from eagle_eye.probes.catalogue import nvlink5, tables, versions
from eagle_eye.probes.catalogue.lookup import look_up
from eagle_eye.probes.catalogue.scale import ACTIONS, SEVERITIES
from eagle_eye.probes.decode import mca
from eagle_eye.probes.decode.aer_bits import BITS
from eagle_eye.probes.decode.family import Decoded

FOLDER = Path(tables.__file__).parent
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
FAMILY_OF = {
    "xid": "nvidia.xid:",
    "sxid": "nvidia.sxid:",
    "aer": "pcie.aer:",
    "host_faults": "",
    "ascend_codes": "ascend.event:",
}
WITH_TEXT = (*FAMILY_OF, "xid_recovery", "unknown")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the data that the tables were written from is not here")


def rows(table):
    return tables.every_row(table)


def keyed(table):
    return {key: row for row in rows(table) for key in [next(iter(row.values()))]}


# ---- complete ----


@pytest.mark.parametrize(
    ("table", "count"),
    [("xid", 176), ("sxid", 420), ("xid_recovery", 6), ("ascend_codes", 936)],
)
def test_every_code_is_there(table, count):
    assert len(keyed(table)) == count


def test_every_number_of_an_xid_is_there_and_every_rule_of_nvlink_5():
    assert set(keyed("xid")) == {str(number) for number in range(1, 177)}
    assert len(rows("xid_nvlink5")) == 95
    assert {row["xid"] for row in rows("xid_nvlink5")} == nvlink5.XIDS


def test_kinds_of_ascend_codes():
    kinds = [row["kind"] for row in rows("ascend_codes")]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "bmc": 65, "chip": 5, "dpu": 5, "event": 687, "exception": 114, "public": 30, "switch": 30,
    }  # fmt: skip


def test_every_bit_of_aer_has_a_meaning():
    assert set(BITS) <= set(keyed("aer"))


def test_every_class_of_machine_checks_has_a_meaning():
    known = set(keyed("mce"))
    assert {mca.error_class(code) for code in range(0x10000)} == known
    entry = look_up(Decoded("cpu.memory.mce_edac", "mce_corrected", fields={"mca_class": "memory_controller"}))
    assert (entry.subcode, entry.known) == ("memory_controller", True)
    assert "module" in entry.meaning


@pytest.mark.parametrize("table", sorted(path.stem for path in FOLDER.glob("*.csv") if "decode" not in path.stem))
def test_rows_are_whole_and_name_their_source(table):
    for row in rows(table):
        assert None not in row
        assert None not in row.values()
        assert row["source"]
        assert table == "ascend_node_types" or re.fullmatch(r"Eagle Eye|\d{4}(-\d\d){0,2}", row["dated"])


@pytest.mark.parametrize("table", WITH_TEXT)
def test_severity_and_action_are_on_the_scale(table):
    for row in rows(table):
        assert row["severity"] in SEVERITIES or (table == "ascend_codes" and not row["severity"])
        assert row["action"] in ACTIONS or (table == "ascend_codes" and not row["action"])


@pytest.mark.parametrize("table", [table for table in WITH_TEXT if table != "ascend_codes"])
def test_every_entry_says_what_it_means_and_what_to_check(table):
    for row in rows(table):
        assert row["meaning"].endswith((".", "?"))
        assert row["check"].endswith((".", "?"))
        assert row["severity"] == "info" or row["check"] != "Nothing."


def test_rows_of_one_key_follow_each_other():
    for table in WITH_TEXT:
        order = [key for key, _ in itertools.groupby(tables.keys(table))]
        assert len(order) == len(set(order))


@pytest.mark.parametrize("table", sorted(path.stem for path in FOLDER.glob("*.csv")))
def test_each_line_is_a_row_that_is_found_by_its_key(table):
    lines = (FOLDER / f"{table}.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows(table)) == len(lines) - 1
    if table in (*WITH_TEXT, "xid_nvlink5", "ascend_levels"):
        for key, group in itertools.groupby(tables.keys(table)):
            assert len(tables.rows(table, key)) == len(list(group)), key


@pytest.mark.parametrize("key", ["", "79,", "\n79", "7", "9", "79 ", "*", "a" * 1000, "\0", "é"])
def test_what_is_no_key_finds_nothing(key):
    assert not [row for row in tables.rows("xid", key) if row["code"] != key]


def test_versions_of_one_code_are_in_order():
    for _, group in itertools.groupby(rows("xid"), key=lambda row: row["code"]):
        since = [versions.parse(row["since"]) for row in group]
        assert since == sorted(set(since))


# ---- of one mind ----


def edges(column):
    for table, family in FAMILY_OF.items():
        for key, row in keyed(table).items():
            for other in row[column].split():
                yield family + key, other


def test_causes_and_victims_say_the_same_and_name_codes_that_exist():
    forward = set(edges("victims"))
    assert forward == {(cause, victim) for victim, cause in edges("caused_by")}
    known = {family + key for table, family in FAMILY_OF.items() for key in keyed(table)}
    assert {code for edge in forward for code in edge} <= known
    assert ("pcie.aer:SDES", "nvidia.xid:79") in forward
    assert ("nvidia.xid:149", "nvidia.xid:45") in forward


def test_no_fault_is_its_own_cause():
    following = {}
    for cause, victim in edges("victims"):
        following.setdefault(cause, set()).add(victim)
    done: set[str] = set()

    def walk(code, above):
        assert code not in above, f"{code} causes itself by way of {above}"
        if code not in done:
            for victim in following.get(code, ()):
                walk(victim, (*above, code))
            done.add(code)

    for code in following:
        walk(code, ())


def test_a_victim_asks_for_no_more_than_a_look_where_nothing_is_broken():
    for code in ("43", "45", "174"):
        assert keyed("xid")[code]["action"] == "none"


# ---- what others know ----


@needs_shared
def test_names_of_xids_and_sxids_are_the_drivers():
    for row in csv.DictReader((SHARED / "xid.csv").open(encoding="utf-8")):
        history = [part.split(":")[-1].strip() for part in row["open_driver_name_history"].split(";") if part.strip()]
        ours = [one["mnemonic"] for one in rows("xid") if one["code"] == row["code"]]
        assert ours == history or ours[0] in row["mnemonic_nvidia_catalog"]
    theirs = {row["sxid"]: row["driver_enum_595.45.04"] for row in csv.DictReader((SHARED / "sxid.csv").open())}
    assert {key: row["mnemonic"] for key, row in keyed("sxid").items()} == theirs


@needs_shared
def test_every_ascend_code_keeps_its_level_and_decodes_as_grave_as_the_driver_says():
    known, graver = keyed("ascend_codes"), []
    for row in csv.DictReader((SHARED / "ascend_faults.csv").open(encoding="utf-8")):
        if row["kind"] not in ("npu-event", "bbox-exception"):
            continue
        assert known["0x" + row["code"][2:].upper()]["bucket"] == row["handling_level"].split("|")[-1]
        if row["driver_severity"] in GRAVITIES:
            ours = decode(int(row["code"], 16)).severity
            assert GRAVITIES.index(ours) >= GRAVITIES.index(row["driver_severity"])
            graver += [row["code"]] if ours != row["driver_severity"] else []
    assert graver == ["0x80818200", "0x80818201"]  # certificates, for which the list and the driver differ


@needs_shared
def test_the_words_are_our_own():
    theirs = set()
    for path in SHARED.glob("*.csv"):
        for row in csv.DictReader(path.open(encoding="utf-8")):
            theirs |= {run for text in row.values() for run in runs(text or "")}
    for table in (*WITH_TEXT, "xid_nvlink5", "ascend_levels", "mce"):
        for row in rows(table):
            for column in ("meaning", "cause", "check"):
                copied = theirs & set(runs(row.get(column, "")))
                assert not copied, f"{table}: {copied}"


def runs(text, length=8):
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


# ---- what a row becomes ----


@pytest.mark.parametrize(("table", "family"), FAMILY_OF.items())
def test_each_row_is_found_again(table, family):
    for key, row in keyed(table).items():
        name, _, code = (family + key).rpartition(":") if table != "ascend_codes" else ("ascend.event", "", key)
        entry = look_up(Decoded(name, code))
        assert entry is not None
        if name != "ascend":
            assert entry.known
            assert entry.meaning
            assert entry.check
        assert row["severity"] in ("", entry.severity)
        assert row["action"] in ("", entry.action)


@pytest.mark.parametrize("kind", ["repeated", "together", "lasting"])
def test_escalations_name_codes_that_exist(kind):
    known = set(keyed("ascend_codes"))
    found = [row for row in rows("ascend_escalation") if row["rule"] == kind]
    assert found
    for row in found:
        assert {row["code"], row["other"] or row["code"]} <= known
        assert int(row["times"]) >= 1
        assert int(row["window_s"]) > 0
        assert row["action"] in ACTIONS


def test_who_shall_be_asked_for_support_is_not_told_to_wait_and_see():
    waiting = [
        row["code"]
        for row in rows("xid")
        if row["bucket"] == "CONTACT_SUPPORT" and row["severity"] in ("error", "fatal") and row["action"] == "watch"
    ]

    assert waiting == []
