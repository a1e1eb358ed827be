"""The table of contents: every probe, in the order in which tables list them."""

from __future__ import annotations

from . import kmsg, link, pressure, process, sched, tasks
from .probe import Spec

PROBES: tuple[Spec, ...] = (
    sched.SPEC,
    tasks.SPEC,
    process.SPEC,
    pressure.SPEC,
    link.SPEC,
    kmsg.SPEC,
)
