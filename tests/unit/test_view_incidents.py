"""Open incidents on the screen and in plain lines, and faults and incidents as sentences."""

import msgspec
from rich.console import Console

from eagle_eye.collector.view.lines import PlainLines
from eagle_eye.collector.view.open_incidents import open_incidents
from eagle_eye.collector.view.screen import screen
from eagle_eye.collector.view.sentences import sentence
from eagle_eye.collector.view.state import View
from eagle_eye.probes.model import Device, Event, Incident, Snapshot


def incident(code="79", entity="GPU-3", action="reboot_node", **more) -> Incident:
    return Incident(
        id="1f3a5b7c9d", node="n", entity=entity, family="nvidia.xid", code=code, mnemonic="FELL_OFF", severity="fatal",
        action=action, state="open", opened_wall_ns=1, updated_wall_ns=2, parts=(), occurrences=3, **more,
    )  # fmt: skip


def snapshot(*incidents: Incident) -> Snapshot:
    device = Device(vendor="nvidia", index=3, uuid="GPU-3", model="H100", pci_bdf="0000:91:00.0")
    return Snapshot(
        node="n", cluster="c", boot_id="b", agent="a", seq=1, at_ns=1, wall_offset_ns=0, interval_ns=500_000_000,
        host=(), health=(), devices=(device,), incidents=incidents,
    )  # fmt: skip


def lines_of(told: Snapshot) -> list[str]:
    view = View("6.1", {})
    view.add(told, ())
    console = Console(width=80, height=24, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(view.state(), 80, 24))
    return capture.get().split("\n")


def test_without_incidents_there_is_no_line():
    assert open_incidents(snapshot()) == ""
    assert not any(line.startswith("incidents") for line in lines_of(snapshot()))
    assert not any("open_incidents" in line for line in PlainLines().add(snapshot(), ()))


def test_the_screen_names_the_action_and_the_device():
    told = snapshot(incident(device="0000:91:00.0"), incident("13", "host", "none"), incident("45"))

    (line,) = [line for line in lines_of(told) if line.startswith("incidents")]

    assert "3 open  reboot node: nvidia.xid 79 on GPU 3 (0000:91:00.0)" in line
    assert len(line) <= 80
    assert "no action: nvidia.xid 13 on host" in open_incidents(told)
    assert any("open_incidents=3" in line for line in PlainLines().add(told, ()))


def test_a_simulated_incident_is_called_so_and_foreign_text_is_only_text():
    told = open_incidents(snapshot(incident(entity="\x1b[2Jx", simulated=True)))

    assert "(simulated)" in told
    assert "\x1b" not in told


def event(kind, attributes) -> Event:
    return Event(
        id="b:i:1", kind=kind, at_ns=1, wall_offset_ns=0, node="n", boot_id="b", entity="e", attributes=attributes
    )


def test_sentences_of_incidents_and_faults():
    told = msgspec.to_builtins(incident(cleared_by="operator (ann): replaced", escalated="fell off the bus again"))
    fault = {"family": "pcie.aer", "code": "SDES", "mnemonic": "Surprise Down", "device": "0000:00:02.0", "count": 2}

    assert sentence(event("incident.opened", told)) == (
        "1f3a5b7c9d: nvidia.xid 79 FELL_OFF on GPU-3, action reboot node"
    )
    assert "told 3x" in sentence(event("incident.updated", told))
    assert "fell off the bus again: action" in sentence(event("incident.escalated", told))
    assert sentence(event("incident.cleared", told)).endswith("is over: operator (ann): replaced")
    assert sentence(event("pcie.aer", fault)) == "SDES Surprise Down at 0000:00:02.0 (2 times)"
    assert "family=" in sentence(event("another", fault)), "a kind that is no family is no fault"


def test_a_snapshot_that_is_full_may_not_hold_all_of_them():
    told = snapshot(*(incident(str(at)) for at in range(64)))

    assert open_incidents(told).startswith("64 or more open  ")
