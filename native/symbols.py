"""Names of kernel addresses, from /proc/kallsyms."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

# An address further from the symbol below it belongs to no symbol.
MAX_FUNCTION_BYTES = 1 << 20
MAX_CACHED = 65536
CHUNK_LINES = 16384

# Types of symbols in text, as nm(1) prints them.
_TEXT = frozenset("tTwW")


class KernelSymbols:
    """Cached names. The symbol table is read in chunks and not kept, only the names that were asked for.

    `paths_proc` is where /proc is seen. Without CAP_SYSLOG, or with kernel.kptr_restrict=2, the kernel
    shows every address as 0 and all names stay unknown.
    """

    def __init__(self, paths_proc: Path) -> None:
        self._kallsyms = paths_proc / "kallsyms"
        self._names: dict[int, str] = {}

    def resolve(self, addresses: Iterable[int]) -> list[str]:
        """ "name+0x1f", "name+0x1f [module]", or "0x…" for each unknown one, in the order given."""
        wanted = [int(address) for address in addresses]
        unknown = sorted(set(wanted) - self._names.keys())
        if len(self._names) + len(unknown) > MAX_CACHED:
            self._names.clear()
            unknown = sorted(set(wanted))
        if unknown:
            self._names |= zip(unknown, self._look_up(unknown), strict=True)
        return [self._names[address] for address in wanted]

    def _look_up(self, ascending: list[int]) -> list[str]:
        wanted = np.array(ascending, np.uint64)
        nearest = np.zeros(len(wanted), np.uint64)
        lines = [""] * len(wanted)
        try:
            with self._kallsyms.open(encoding="ascii", errors="replace") as table:
                while chunk := list(islice(table, CHUNK_LINES)):
                    _keep_nearest(chunk, wanted, nearest, lines)
        except OSError:
            pass  # unknown, as with addresses that the kernel hides
        return [_name(*found) for found in zip(ascending, nearest.tolist(), lines, strict=True)]


def _keep_nearest(
    chunk: list[str], wanted: np.ndarray[Any, Any], nearest: np.ndarray[Any, Any], lines: list[str]
) -> None:
    """Takes from the chunk, for each wanted address, the highest symbol at or below it if that is nearer."""
    rows = [row for row in map(str.split, chunk) if len(row) > 2 and row[1] in _TEXT]
    starts = np.array([int(row[0], 16) for row in rows], np.uint64)
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    below = np.searchsorted(starts, wanted, side="right")
    for at in np.flatnonzero(below):
        start = starts[below[at] - 1]
        if start > nearest[at]:
            # Of several names for one address, the first that the kernel prints.
            first = np.searchsorted(starts, start)
            nearest[at], lines[at] = start, " ".join(rows[order[first]][2:])


def _name(address: int, start: int, line: str) -> str:
    if not line or address - start > MAX_FUNCTION_BYTES:
        return f"{address:#x}"
    name, _, module = line.partition(" ")
    return f"{name}+{address - start:#x}" + (f" {module}" if module else "")
