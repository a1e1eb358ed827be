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
        return {redacted_text(str(key)): _member(str(key), one, depth) for key, one in value.items()}
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
    if isinstance(value, str | list | dict) and value and _rules()[0].fullmatch(name):
        return MASK
    return redacted(value, depth + 1)


def _list(values: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    """A command line may come as a list of words, with the secret in the word behind its option."""
    out: list[Any] = []
    tells = False
    for value in values:
        is_word = isinstance(value, str)
        if tells and is_word and not value.startswith("-"):
            out.append(MASK)
        else:
            out.append(redacted(value, depth + 1))
        tells = is_word and value.startswith("-") and redacted_text(f"{value[:100]} x") != f"{value[:100]} x"
    return out
