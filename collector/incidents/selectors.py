"""Which codes a rule is about, as its text says: `nvidia.xid 43 45 144-150`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


class Selector(Struct, frozen=True):
    """One family, or all that begin as it does, with codes and ranges of numbers; neither is every code."""

    family: str
    prefix: bool = False
    codes: frozenset[str] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()

    def match(self, family: str, code: str) -> bool:
        if not (family.startswith(self.family) if self.prefix else family == self.family):
            return False
        return not (self.codes or self.ranges) or code in self.codes or self._within(code)

    def _within(self, code: str) -> bool:
        if not self.ranges or not code.isascii() or not code.isdigit() or len(code) > 9:
            return False
        return any(low <= int(code) <= high for low, high in self.ranges)


class Codes:
    """Any of several selectors. Raises ValueError for a text that names no family."""

    def __init__(self, texts: str | Iterable[str]) -> None:
        self._selectors = tuple(_parse(text) for text in ([texts] if isinstance(texts, str) else texts))

    def match(self, family: str, code: str) -> bool:
        return any(one.match(family, code) for one in self._selectors)


def _parse(text: str) -> Selector:
    words = text.split()
    if not words:
        raise ValueError("a rule names no codes")
    ranges = tuple((int(found[1]), int(found[2])) for word in words[1:] if (found := _RANGE.fullmatch(word)))
    codes = frozenset(word for word in words[1:] if not _RANGE.fullmatch(word))
    return Selector(words[0].rstrip("*"), words[0].endswith("*"), codes, ranges)
