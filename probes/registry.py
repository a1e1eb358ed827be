"""The table of contents: every probe, one line each, in the order in which tables list them."""

from __future__ import annotations

from importlib import import_module

from .probe import Spec

_MODULES = (
    "sched",
    "tasks",
    "process",
    "pressure",
    "link",
    "aer",
    "kmsg",
    "tracepoints",
    "devices",
    "engines",
)

PROBES: tuple[Spec, ...] = tuple(import_module(f".{module}", __package__).SPEC for module in _MODULES)
