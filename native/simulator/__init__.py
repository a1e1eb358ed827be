"""Vendor libraries that are not there: NVML and DCMI with the vendors' own interface, driven by one state file."""

from __future__ import annotations

from .block import LIBRARIES
from .catalog import profile_names
from .listing import describe, parse_changes, seconds
from .scenario import Scenario, Timeline, read_scenario
from .simulation import VARIABLE, Simulation

__all__ = [
    "LIBRARIES",
    "Scenario",
    "Simulation",
    "Timeline",
    "VARIABLE",
    "describe",
    "parse_changes",
    "profile_names",
    "read_scenario",
    "seconds",
]
