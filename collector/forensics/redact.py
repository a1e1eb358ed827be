"""Takes secrets out of evidence, by the rules of redactions.yaml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct, field

MASK = "***"
MAX_TEXT = 16_384
MAX_DEPTH = 32
# Of the words before one, so much is looked at.
LEAD = 100
RULES = Path(__file__).with_name("redactions.yaml")


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What matches `pattern` is replaced."""

    name: str
    pattern: str
    replacement: str = field(name="with")


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """`names` fully matches names whose value is a secret whatever it looks like; `hints`, `shape`: parts of all."""

    hints: tuple[str, ...]
    shape: str
    names: str
    rules: tuple[Rule, ...]


@cache
def _rules() -> tuple[re.Pattern[str], tuple[tuple[re.Pattern[str], str], ...]]:
    found = _file()
    return re.compile(found.names), tuple((re.compile(rule.pattern), rule.replacement) for rule in found.rules)


@cache
def _file() -> Rules:
    return msgspec.convert(yaml.safe_load(RULES.read_text()), Rules)


@cache
def _hints() -> tuple[tuple[str, ...], re.Pattern[str]]:
    return _file().hints, re.compile(_file().shape)


def redacted(value: Any, depth: int = 0) -> Any:
    """The same value, of what JSON knows, without secrets: in texts, below telling names and after telling options.

    Texts longer than MAX_TEXT are cut, what is nested deeper than MAX_DEPTH is masked.
    """
    if isinstance(value, str):
        return redacted_text(value)
    if depth >= MAX_DEPTH:
        return MASK
    if isinstance(value, dict):
        return {redacted_text(str(key)): _member(str(key), one, depth) for key, one in _named_value(value).items()}
    if isinstance(value, list | tuple):
        return _list(value, depth)
    return value


def is_clean(raw: str) -> bool:
    """Whether a message, encoded in JSON, has nothing in it that a rule could match; cheap, and errs on no."""
    hints, shape = _hints()
    small = raw.lower()
    return not any(hint in small for hint in hints) and shape.search(raw) is None


def redacted_text(text: str) -> str:
    """One text without secrets."""
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    for pattern, replacement in _rules()[1]:
        text = pattern.sub(replacement, text)
    return text


def _member(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, str | list | dict) and value and _is_telling(name):
        return MASK
    return redacted(value, depth + 1)


def _is_telling(name: object) -> bool:
    return isinstance(name, str) and _rules()[0].fullmatch(name) is not None


def _named_value(pair: dict[Any, Any]) -> dict[Any, Any]:
    """A variable or setting may come as a pair of members, its name and its value."""
    tells = _is_telling(pair.get("name")) or _is_telling(pair.get("key"))
    return {**pair, "value": MASK} if tells and pair.get("value") else pair


def _list(values: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    """A command line may come as a list of words, with the secret in the word behind its option."""
    out: list[Any] = []
    before = ""
    for value in values:
        is_word = isinstance(value, str)
        hides = is_word and before and not value.startswith("-") and _hides(before, value)
        out.append(MASK if hides else redacted(value, depth + 1))
        before = f"{before} {value}"[-LEAD:] if is_word else ""
    return out


def _hides(before: str, word: str) -> bool:
    """Whether the words before say that this one, or any in its place, is a secret."""
    if not before.rpartition(" ")[2].startswith("-"):
        return False
    alone = redacted_text(before)
    return any(redacted_text(f"{before} {one}") != f"{alone} {redacted_text(one)}" for one in ("x", word))
