"""A place in a text that moves forward only. Nothing here raises."""

from __future__ import annotations

import re

_DECIMAL = re.compile(r"[0-9]{1,19}(?![0-9])")
_HEXADECIMAL = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}(?![0-9a-fA-F])")
_SPACES = re.compile(r"[ \t]*")
_WORD = re.compile(r"[A-Za-z0-9_]+")


class Cursor:
    """Each method that takes something moves behind it, or stays and gives False, None or ""."""

    __slots__ = ("at", "text")

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at

    def take(self, expected: str) -> bool:
        """`expected`, which must come next."""
        if not self.text.startswith(expected, self.at):
            return False
        self.at += len(expected)
        return True

    def spaces(self) -> None:
        self.at = self._end(_SPACES)

    def skip_past(self, mark: str) -> bool:
        """All up to and with the next `mark`."""
        found = self.text.find(mark, self.at)
        if found < 0:
            return False
        self.at = found + len(mark)
        return True

    def until(self, mark: str) -> str:
        """What comes before the next `mark`, which is skipped; all of the rest where there is none."""
        found = self.text.find(mark, self.at)
        end = len(self.text) if found < 0 else found
        taken = self.text[self.at : end]
        self.at = end if found < 0 else end + len(mark)
        return taken

    def integer(self) -> int | None:
        """A decimal number of at most 19 digits."""
        taken = self._token(_DECIMAL)
        return int(taken) if taken else None

    def hexadecimal(self) -> int | None:
        """A hexadecimal number of at most 64 bits, with or without 0x."""
        taken = self._token(_HEXADECIMAL)
        return int(taken, 16) if taken else None

    def word(self) -> str:
        """Letters, digits and underscores."""
        return self._token(_WORD)

    def rest(self) -> str:
        return self.text[self.at :]

    def _token(self, pattern: re.Pattern[str]) -> str:
        start, self.at = self.at, self._end(pattern)
        return self.text[start : self.at]

    def _end(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        return found.end() if found else self.at
