"""Things that go wrong, by name: what each changes is in faults.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .catalog import flat, load_yaml
from .nearest import nearest

FAULTS = Path(__file__).resolve().parent / "faults.yaml"


@cache
def faults() -> dict[str, dict[str, Any]]:
    return load_yaml(FAULTS)


def expand(wanted: Iterable[tuple[str, object]], vendor: str) -> Iterator[tuple[str, object]]:
    """`fault=heat` as the settings that it stands for. Raises UsageError for an unknown one."""
    for key, value in wanted:
        if key != "fault":
            yield key, value
            continue
        yield from flat(_fault(str(value), vendor))


def _fault(name: str, vendor: str) -> dict[str, Any]:
    if name not in faults():
        raise UsageError(f"no fault is called {name!r}{nearest(name, faults())}", remedy="eagle-eye simulate list")
    changes: dict[str, Any] | None = faults()[name].get(vendor, faults()[name].get("any"))
    if changes is None:
        raise UsageError(f"fault {name} is none of {vendor} devices")
    return changes
