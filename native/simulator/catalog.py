"""The machines that can be simulated: one YAML file each, in the words of `eagle-eye simulate set`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from .nearest import nearest

PROFILES = Path(__file__).resolve().parent / "profiles"
FILE_MAX_BYTES = 1 << 20


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """Raises UsageError, naming those that there are, for an unknown one."""
    if name not in profile_names():
        raise UsageError(
            f"no profile is called {name!r}{nearest(name, profile_names())}", remedy="eagle-eye simulate list"
        )
    return load_yaml(PROFILES / f"{name}.yaml")


def load_yaml(path: Path) -> dict[str, Any]:
    """A mapping. Raises UsageError when the file is too large or something else."""
    if path.stat().st_size > FILE_MAX_BYTES:
        raise UsageError(f"{path} is larger than {FILE_MAX_BYTES} bytes")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a mapping")
    return content


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"power_watts": {"value": 3}}` as `("power_watts.value", 3)`."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.")
        else:
            yield key, value
