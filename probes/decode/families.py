"""All families, in the order in which they are asked about a text: the first that knows it has it."""

from __future__ import annotations

from .family import Family

FAMILIES: tuple[Family, ...] = ()
