"""What the simulator offers, in lines for people, and their words as changes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from ..errors import UsageError
from . import keys
from .block import groups, link_quantities, quantities
from .catalog import load_profile, profile_names
from .faults import faults
from .laws import number

WIDTH = 79


def describe() -> Iterator[str]:
    """Profiles, faults, the grammar of settings, and every name in it."""
    yield from _table("profiles", {name: load_profile(name)["help"] for name in profile_names()})
    yield from _table("faults, as fault=NAME", {name: fault["help"] for name, fault in faults().items()})
    yield "settings"
    grammar = textwrap.dedent((keys.__doc__ or "").partition("\n")[2]).strip()
    yield textwrap.indent(grammar, "  ")
    yield ""
    yield from _words("quantities", quantities())
    yield from _words("of a link, as link.N.NAME", link_quantities())
    yield from _words("calls, as call.NAME.code|delay|hang|crash", groups())


def parse_changes(words: Iterable[str]) -> dict[str, object]:
    """`key=value` words. Raises UsageError for one that is none, or is given twice."""
    changes: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageError(f"{word!r} is no KEY=VALUE", remedy="such as power_watts=650")
        if key in changes:
            raise UsageError(f"{key} is given twice")
        changes[key] = value
    return changes


def seconds(raw: str, key: str) -> float:
    """A time from 0 on, such as 10s."""
    value = number(raw, key)
    if not 0 <= value < 1e9:
        raise UsageError(f"{key}: {raw} is no time", remedy="such as 10s")
    return value


def _table(title: str, rows: dict[str, str]) -> Iterator[str]:
    yield title
    wide = max(map(len, rows))
    yield from (f"  {name:<{wide}}  {text}" for name, text in rows.items())
    yield ""


def _words(title: str, names: Iterable[str]) -> Iterator[str]:
    yield title
    yield from textwrap.wrap(" ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield ""
