"""Tables of the catalogue, kept as bytes with the place of each key: nothing is built of rows that nobody asks for.

A table is a CSV file of one line per row whose first column is the key; rows of one key follow each other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from importlib import resources


def rows(table: str, key: str) -> list[dict[str, str]]:
    """The rows of `key`, in the table's order; none for a key that the table has not. Never raises for any key."""
    start = _places(table).get(key)
    if start is None:
        return []
    content, prefix = _content(table), f"{key},".encode()
    end = start
    while content.startswith(prefix, end):
        end = content.find(b"\n", end) + 1
    return _parsed(table, content[start:end].decode())


def every_row(table: str) -> list[dict[str, str]]:
    """All rows, for lists and tests."""
    return _parsed(table, _content(table).decode().partition("\n")[2])


def keys(table: str) -> Iterator[str]:
    """The key of each row, in order."""
    for line in _content(table).splitlines()[1:]:
        yield line.partition(b",")[0].decode()


def _parsed(table: str, lines: str) -> list[dict[str, str]]:
    return list(csv.DictReader(lines.splitlines(), fieldnames=_columns(table), strict=True))


@cache
def _columns(table: str) -> tuple[str, ...]:
    return tuple(_content(table).partition(b"\n")[0].decode().split(","))


@cache
def _places(table: str) -> dict[str, int]:
    """Where the first row of each key begins."""
    content = _content(table)
    places: dict[str, int] = {}
    start = content.find(b"\n") + 1
    while start < len(content):
        places.setdefault(content[start : content.find(b",", start)].decode(), start)
        start = content.find(b"\n", start) + 1
    return places


@cache
def _content(table: str) -> bytes:
    """As in the file, with one line end per row."""
    content = resources.files(__package__).joinpath(f"{table}.csv").read_bytes()
    return content.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
