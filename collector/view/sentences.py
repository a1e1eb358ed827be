"""Events as sentences: one format per kind, for the screen and for plain lines alike."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...probes.model import Event
from .words import clean, seconds, size

SENTENCES = {
    "sched.long_wait": "{comm} ({pid}) waited {wait_ns:time} for CPU {cpu}; {culprit_comm} ({culprit_pid}) ran instead",
    "tasks.stuck": "{comm} ({pid}) has made no progress for {stuck_ns:time}, in {stack:first}",
    "tasks.unstuck": "{comm} ({pid}) runs again after {stuck_ns:time}",
    "process.exec": "{comm} ({pid}) started: {filename}",
    "process.exit": "{comm} ({pid}) ended: {reason}",
    "process.oom_kill": "{comm} ({pid}) was killed for memory, {resident_bytes:size} resident, in {cgroup}",
    "kmsg.record": "{text}{repeats:times}",
    "kmsg.lost": "{records} kernel log records were overwritten before they were read",
    "link.state": "{interface} is {state}",
}


class _Formatter(string.Formatter):
    """What an event lacks is shown as `?`; what it holds is foreign text and cleaned."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None or value == "":
            return "" if format_spec == "times" else "?"
        try:
            return clean(_FORMATS.get(format_spec, str)(value))
        except (TypeError, ValueError, IndexError):
            return clean(value)


_FORMATS: dict[str, Callable[[Any], str]] = {
    "time": lambda value: seconds(value / 1e9),
    "size": size,
    "first": lambda value: value[0],
    "times": lambda value: f" ({value} times)",
}
_formatter = _Formatter()


def sentence(event: Event) -> str:
    """What happened, in one line without control characters."""
    found = SENTENCES.get(event.kind)
    if found is None:
        return " ".join(f"{clean(name)}={clean(value)}" for name, value in event.attributes.items())
    return _formatter.vformat(found, (), event.attributes)
