"""Tables of the catalogue, searched as bytes: nothing is built of the rows that nobody asks for.

A table is a CSV file of one line per row whose first column is the key; rows of one key follow each other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources

_PLAIN = re.compile(r"[\w.:/*+-]{1,80}", re.ASCII)


def rows(table: str, key: str) -> list[dict[str, str]]:
    """The rows of `key`, in the table's order; none for a key that the table has not. Never raises for any key."""
    if not _PLAIN.fullmatch(key):
        return []
    content, prefix = _content(table), f"\n{key},".encode()
    start = content.find(prefix) + 1
    if not start:
        return []
    end = content.find(b"\n", content.rfind(prefix) + 1)
    return _parsed(table, content[start:end].decode())


def every_row(table: str) -> list[dict[str, str]]:
    """All rows, for lists and tests."""
    return _parsed(table, _content(table).decode().partition("\n")[2])


def _parsed(table: str, lines: str) -> list[dict[str, str]]:
    return list(csv.DictReader(lines.splitlines(), fieldnames=_columns(table), strict=True))


@cache
def _columns(table: str) -> tuple[str, ...]:
    return tuple(_content(table).partition(b"\n")[0].decode().split(","))


@cache
def _content(table: str) -> bytes:
    return resources.files(__package__).joinpath(f"{table}.csv").read_bytes()


def keys(table: str) -> Iterator[str]:
    """The key of each row, in order."""
    for line in _content(table).splitlines()[1:]:
        yield line.partition(b",")[0].decode()
