"""Which events freeze evidence, and how often at most."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Any, get_args

from msgspec import Struct

from ...probes.model import Event, Severity
from .bundle import Trigger

SEVERITIES: tuple[str, ...] = get_args(Severity)
INCIDENTS = frozenset({"incident.opened", "incident.escalated", "incident.reopened"})
ALWAYS = frozenset({"device.call_stuck"})
HOUR_NS = 3600 * 10**9
MAX_CAUSES = 256
MAX_PIDS = 64


class Policy(Struct, frozen=True):
    """`families` are those that count, by their beginnings; empty: all."""

    severity: str = "error"
    families: tuple[str, ...] = ()
    cool_down_ns: int = 600 * 10**9
    per_hour: int = 6


class Triggers:
    """Judges events, quickly: it runs on the event loop. `refused` counts by reason."""

    def __init__(self, policy: Policy) -> None:
        self.refused: Counter[str] = Counter()
        self._policy = policy
        self._least = SEVERITIES.index(policy.severity)
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._granted: deque[int] = deque()
        self._window_end_ns = self._window_severity = 0

    def judge(self, event: Event, now_ns: int) -> Trigger | None:
        """The trigger that an event is, None when it is none or may not be one now."""
        if event.kind in INCIDENTS:
            if SEVERITIES.index(event.severity) < self._least or not self._wanted(event.attributes):
                return None
        elif event.kind not in ALWAYS:
            return None
        if event.at_ns < self._window_end_ns and SEVERITIES.index(event.severity) <= self._window_severity:
            self.refused["same_window"] += 1
            return None
        trigger = _trigger(event)
        return trigger if self.allow(trigger, now_ns) else None

    def cover(self, end_ns: int, severity: str) -> None:
        """A bundle will hold everything up to `end_ns`: what is no worse than its reason is no reason until then."""
        self._window_end_ns = max(self._window_end_ns, end_ns)
        self._window_severity = SEVERITIES.index(severity)

    def allow(self, trigger: Trigger, now_ns: int) -> bool:
        """Whether cool-down and budget permit it now; it counts when they do."""
        last_ns = self._seen.get(trigger.cause)
        if last_ns is not None and now_ns - last_ns < self._policy.cool_down_ns:
            self.refused["cool_down"] += 1
            return False
        while self._granted and now_ns - self._granted[0] >= HOUR_NS:
            self._granted.popleft()
        if len(self._granted) >= self._policy.per_hour:
            self.refused["budget"] += 1
            return False
        self._granted.append(now_ns)
        self._seen[trigger.cause] = now_ns
        self._seen.move_to_end(trigger.cause)
        if len(self._seen) > MAX_CAUSES:
            self._seen.popitem(last=False)
        return True

    def _wanted(self, attributes: dict[str, Any]) -> bool:
        family = str(attributes.get("family", ""))
        return not self._policy.families or family.startswith(self._policy.families)


def _trigger(event: Event) -> Trigger:
    attributes = event.attributes
    what = [str(attributes[key]) for key in ("family", "code", "mnemonic") if attributes.get(key)]
    reason = " ".join(what) or event.kind
    cause = ":".join((event.entity, *what[:2])) if what else f"{event.kind}:{event.entity}"
    return Trigger(
        reason=reason[:200],
        kind=event.kind,
        severity=event.severity,
        entity=event.entity,
        event=event.id,
        cause=cause[:300],
        pids=tuple(pids_in(attributes))[:MAX_PIDS],
    )


def pids_in(value: Any, depth: int = 0) -> Sequence[int]:
    """Process ids that the attributes of an event name, also inside of lists and maps."""
    found: list[int] = []
    if depth < 4 and isinstance(value, dict):
        for key, one in value.items():
            if key in ("pid", "worker_pid", "tgid") and isinstance(one, int) and one > 0:
                found.append(one)
            elif key in ("pids", "worker_pids") and isinstance(one, list | tuple):
                found += [each for each in one if isinstance(each, int) and each > 0]
            else:
                found += pids_in(one, depth + 1)
    elif depth < 4 and isinstance(value, list | tuple):
        for one in value:
            found += pids_in(one, depth + 1)
    return found[:MAX_PIDS]
