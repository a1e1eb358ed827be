"""Event ids of Ascend devices: every number has a meaning or says why it has none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.ascend_events import SEVERITIES, _components, _rows, _sensors, _states, decode


@pytest.mark.parametrize(
    ("code", "environment", "component", "sensor", "severity", "words"),
    [
        (0x80E01801, "device", "HBM", "memory", "critical", "cannot correct"),
        (0x80E18400, "device", "HBM", "memory error record", "minor", "new memory error"),
        (0x80E18402, "device", "HBM", "memory error record", "critical", "upper limit"),
        (0x80E18005, "device", "HBM", "hardware error state", "major", "parity"),
        (0x80E0020B, "device", "HBM", "temperature", "critical", "rose above"),
        (0x81078603, "device", "port", "safety state", "major", "link went down"),
        (0x81078607, "device", "port", "safety state", "minor", "slave port"),
        (0x81B18603, "device", "UB port", "safety state", "major", "link went down"),
        (0x40F84E00, "host", "base service", "heartbeat", "major", "heartbeat stopped"),
        (0x80CB8002, "device", "AIV", "hardware error state", "major", "invalid input"),
        (0x8C17A005, "device", "aicpu_scheduler", "software", "minor", "not returned"),
        (0x8C1F8608, "device", "hccp", "safety state", "notice", "retries timed out"),
        (0x8C2FA009, "device", "Linux", "software", "notice", "initialised"),
        (0x80FA4E00, "device", "TSCPU", "heartbeat", "major", "heartbeat stopped"),
        (0x812E4E00, "device", "TSFW", "heartbeat", "major", "heartbeat stopped"),
    ],
)
def test_codes_of_the_field(code, environment, component, sensor, severity, words):
    found = decode(code)
    assert found.kind == "event"
    assert (found.environment, found.component, found.sensor, found.severity) == (
        environment, component, sensor, severity,
    )  # fmt: skip
    assert words in found.meaning
    assert not found.unknown
    assert str(found) == f"{environment} {component}: {found.meaning}"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (0x200001002, "unknown", "32 bits"),
        (-1, "unknown", "0xFFFFFFFFFFFFFFFF is no event id"),
        (0x00E01801, "unknown", "neither host nor device"),
        (0xC0E01801, "unknown", "neither host nor device"),
        (0xA4193217, "exception", "black-box"),
        (0x80E1FC00, "product", "product's own"),
        (0x8E001801, "product", "product's own"),
        (0x8118043C, "event", "state 0x3C of sensor voltage"),
        (0x817F8002, "event", "node type 0xBF"),
        (0x80E0DE00, "event", "sensor type 0x6F"),
    ],
)
def test_what_has_no_meaning_says_why(code, kind, words):
    found = decode(code)
    assert found.kind == kind
    assert words in found.unknown
    assert found.unknown in str(found)


def test_what_is_known_is_told_beside_what_is_not():
    told = str(decode(0x817F8002))
    assert told == "device node type 0xBF: the module was given invalid input (node type 0xBF not in the catalogue)"


numbers = st.one_of(
    st.integers(),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 32) - 1),
    st.builds(
        lambda environment, node, sensor, state: environment << 30 | node << 17 | sensor << 9 | state,
        st.sampled_from([1, 2]),
        st.sampled_from(sorted(_components())),
        st.sampled_from(sorted(_sensors())),
        st.integers(0, 0x1FF),
    ),
)


@given(numbers)
def test_any_number_decodes_or_says_why_not(code):
    found = decode(code)
    assert found.code == code
    assert str(found)
    assert found.unknown or (found.component and found.sensor and found.meaning and found.severity in SEVERITIES)
    assert bool(found.meaning) == bool(found.severity)


@given(numbers)
def test_the_parts_make_up_the_code_again(code):
    found = decode(code)
    if found.kind in ("event", "product"):
        environment = {"host": 1, "device": 2}[found.environment]
        assert environment << 30 | found.node_type << 17 | found.sensor_type << 9 | found.state == code


@pytest.mark.parametrize("name", ["ascend_event_decode.csv", "ascend_node_types.csv"])
def test_each_entry_of_the_catalogue_is_whole_and_names_its_source(name):
    rows = list(_rows(name))
    assert all(row["source"] and None not in row.values() for row in rows)
    keys = [tuple(row[key] for key in ("sensor_type", "event_state", "node_type") if key in row) for row in rows]
    assert len(set(keys)) == len(keys)


def test_the_catalogue_fits_the_layout():
    assert all(0 < node < 1 << 11 for node in _components())
    assert all(0 < sensor < 1 << 8 and 0 <= state < 1 << 9 for sensor, state in _states())
    assert {severity for severity, _ in _states().values()} == set(SEVERITIES)
