"""Events as sentences: one format per kind, for the screen and for plain lines alike."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...probes.catalogue.scale import in_words
from ...probes.model import Event
from .words import clean, percent, seconds, size

# What the event lacks is `?`, or nothing at all where the format is one of _OPTIONAL.
SENTENCES = {
    "sched.long_wait": "{task} ({pid}) waited {wait_seconds:time}{ran_instead[task]:behind}{ran_instead[pid]:id}"
    "{ran_instead[share_ratio]:share} for CPU {cpu}",
    "tasks.stuck": "{task} ({pid}) has made no progress for {stuck_seconds:time}, in {stack[0]}",
    "tasks.unstuck": "{task} ({pid}) is no longer stuck, after {stuck_seconds:time}",
    "process.exec": "{task} ({pid}) runs {filename}",
    "process.exit": "{task} ({pid}) ended{exit_code:code}{signal:by}{sender[task]:from}{sender[pid]:id}",
    "process.oom_kill": "{task} ({pid}) killed for want of memory, {resident_bytes:size} resident{cgroup:in}",
    "kmsg.record": "{text}{repeats:times}",
    "kmsg.lost": "{records} kernel log records were overwritten before they were read",
    "link.state": "{device} went from {before} to {state}",
    "device.call_stuck": "{model} {device}: {group} call has not returned for {stuck_seconds:time}{stack[0]:in}",
    "device.call_recovered": "{model} {device} answers again, after {stuck_seconds:time}",
    "device.worker_died": "the process that asks {library} ended{signal:by}{group:in}",
    "device.appeared": "{model} {device} ({uuid}) appeared",
    "device.vanished": "{model} {device} ({uuid}) vanished: {reason}",
    "device.counter_reset": "{model} {device} counts from the start again: {counters[0]}",
    "device.xid": "{model} {device}: Xid {xid}",
    "device.notice": "{model} {device}: {what}",
    "device.fault": "{model} {device}: {meaning}, {assertion}",
    "incident.opened": "{id}: {family} {code}{mnemonic:named} on {entity}, action {action:asked}",
    "incident.updated": "{id}: {family} {code}{mnemonic:named} on {entity}, told {occurrences}x, action {action:asked}",
    "incident.escalated": "{id}: {family} {code}{mnemonic:named} on {entity}, {escalated}: action {action:asked}",
    "incident.cleared": "{id}: {family} {code}{mnemonic:named} on {entity} is over: {cleared_by}",
    "incident.reopened": "{id}: {family} {code}{mnemonic:named} on {entity} is back, action {action:asked}",
    "recorder.previous_boot": "the boot before this one ended {end}{dark_seconds:dark}{last_words:words}",
    "forensics.frozen": "evidence frozen for {reason}: eagle-eye forensics show {folder}",
    "recorder.previous_run": "the agent before this one ended {end}{dark_seconds:dark}",
    "engine.started": "{engine}{version:named}{pid:id} serves {model}{pod:in}",
    "engine.gone": "{engine}{pid:id} that served {model} is gone: {reason}",
    "engine.silent": "{engine}{pid:id} that serves {model} has said nothing for {silent_seconds:time}",
    "engine.heard": "{engine}{pid:id} that serves {model} speaks again",
    "engine.ring_overrun": "{records} records of {engine} {instance} were overwritten before they were read",
}

# Faults of all families; their kind is the family.
FAULT = "{code}{mnemonic:named}{device:at}{process:process}{count:times}"

_FORMATS: dict[str, Callable[[Any], str]] = {
    "time": seconds,
    "share": percent,
    "size": size,
    "asked": lambda text: in_words(str(text)),
}
_OPTIONAL = {
    "named": " {}",
    "at": " at {}",
    "process": ", process {}",
    "code": " with exit code {}",
    "by": " by {}",
    "from": " sent by {}",
    "id": " ({})",
    "in": ", in {}",
    "behind": " behind {}",
    "share": ", {} of it,",
    "times": " ({} times)",
    "dark": ", {} seconds before this recording",
    "words": ": {}",
}


class _Formatter(string.Formatter):
    """Formats attributes, which are foreign text: nothing in them is obeyed, and nothing missing is an error."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key))

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            return super().get_field(field_name, args, kwargs)
        except (LookupError, TypeError, AttributeError):
            return None, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        optional = _OPTIONAL.get(format_spec)
        if value is None or value == "":
            return "?" if optional is None else ""
        return (optional or "{}").format(clean(_formatted(value, format_spec)))


def _formatted(value: Any, format_spec: str) -> str:
    try:
        return _FORMATS.get(format_spec, str)(value)
    except (TypeError, ValueError):
        return str(value)


_formatter = _Formatter()


def sentence(event: Event) -> str:
    """What happened, in one line without control characters."""
    found = SENTENCES.get(event.kind)
    if found is None and event.attributes.get("family") == event.kind:
        found = FAULT
    if found is None:
        return " ".join(f"{clean(name)}={clean(value)}" for name, value in event.attributes.items())
    return _formatter.vformat(found, (), event.attributes)
