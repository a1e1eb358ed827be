"""The one scale of severities and actions, which all vendors' words are put on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from ..model import Action, Severity

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
ACTIONS: tuple[Action, ...] = get_args(Action)


_WORDS = {"none": "no action", "replace": "replace or contact support"}


def in_words(action: str) -> str:
    """An action as a person reads it."""
    return _WORDS.get(action, action.replace("_", " "))


def worst_severity(severities: Iterable[str]) -> Severity:
    """Of those on the scale; `info` when there is none."""
    return SEVERITIES[max((SEVERITIES.index(one) for one in severities if one in SEVERITIES), default=0)]


def worst_action(actions: Iterable[str]) -> Action:
    """The strongest of those on the scale; `none` when there is none."""
    return ACTIONS[max((ACTIONS.index(one) for one in actions if one in ACTIONS), default=0)]
