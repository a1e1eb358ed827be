"""Finds a vendor's library without loading it: the agent never runs a vendor's code."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

CACHE = Path("/etc/ld.so.cache")
_MACHINE = platform.machine()
_FOLDERS = (
    "/lib64",
    "/usr/lib64",
    f"/lib/{_MACHINE}-linux-gnu",
    f"/usr/lib/{_MACHINE}-linux-gnu",
    "/lib",
    "/usr/lib",
    # Where NVIDIA's container runtime on some hosts, and Ascend's driver packages put theirs.
    "/usr/local/nvidia/lib64",
    "/usr/local/dcmi",
    "/usr/local/Ascend/driver/lib64/driver",
    "/usr/local/Ascend/driver/lib64/common",
    "/usr/local/Ascend/driver/lib64",
)


def find_library(name: str, environment: Mapping[str, str] = os.environ, *, cache: Path = CACHE) -> str:
    """The path of a library by file name, in the order of the dynamic loader and then where vendors put theirs.

    A `name` with a slash is a path already. "" when there is no such file.
    """
    if "/" in name:
        return name if Path(name).is_file() else ""
    return next((str(path) for path in _candidates(name, environment, cache) if path.is_file()), "")


def _candidates(name: str, environment: Mapping[str, str], cache: Path) -> Iterator[Path]:
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder:
            yield Path(folder, name)
    yield from _cached(name, cache)
    for folder in _FOLDERS:
        yield Path(folder, name)


def _cached(name: str, cache: Path) -> Iterator[Path]:
    """Paths that ldconfig knows; of its file's format only that paths end with NUL matters here."""
    try:
        content = cache.read_bytes()
    except OSError:
        return
    for found in re.findall(rb"/[^\0]{1,4096}/" + re.escape(name.encode()) + rb"(?=\0)", content):
        yield Path(os.fsdecode(found))
