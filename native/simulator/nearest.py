"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.55)
    return f"; did you mean {' or '.join(near)}?" if near else ""
