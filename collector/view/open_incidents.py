"""One line on the open incidents: how many, and of the worst what it asks for."""

from __future__ import annotations

from ...probes.catalogue.scale import in_words
from ...probes.model import Incident, Severity, Snapshot
from ..incidents.incidents import MAX_SNAPSHOT_INCIDENTS
from .words import clean


def open_incidents(snapshot: Snapshot) -> str:
    """`2 open  reboot node: nvidia.xid 79 on GPU 3 (0000:91:00.0)`; "" when none is. The worst comes first."""
    if not snapshot.incidents:
        return ""
    shown = [_told(snapshot, one) for one in snapshot.incidents[:2]]
    told = len(snapshot.incidents)
    more = " or more" if told >= MAX_SNAPSHOT_INCIDENTS else ""
    return "  ".join([f"{told}{more} open", *shown])


def worst_severity(snapshot: Snapshot) -> Severity:
    return snapshot.incidents[0].severity if snapshot.incidents else "info"


def _told(snapshot: Snapshot, one: Incident) -> str:
    asks = in_words(one.action)
    simulated = " (simulated)" if one.simulated else ""
    return f"{asks}: {clean(one.family)} {clean(one.code)} on {_where(snapshot, one)}{simulated}"


def _where(snapshot: Snapshot, one: Incident) -> str:
    device = next((device for device in snapshot.devices if device.uuid == one.entity), None)
    if device is None:
        return clean(one.entity)
    return f"{device.kind.upper()} {device.index}" + (f" ({clean(one.device)})" if one.device else "")
