"""Vendor libraries that are not there: NVML and DCMI with the vendors' own interface, driven by one state file."""

from __future__ import annotations

from .catalog import PROFILES, profile_names
from .scenario import Scenario, Timeline, read_scenario
from .simulation import LIBRARIES, VARIABLE, Simulation

__all__ = [
    "LIBRARIES",
    "PROFILES",
    "Scenario",
    "Simulation",
    "Timeline",
    "VARIABLE",
    "profile_names",
    "read_scenario",
]
