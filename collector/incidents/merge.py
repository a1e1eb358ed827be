"""One fault that several sources tell is one fault: the log's line, the tracepoint's and the library's event."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping

from msgspec import Struct

from ...probes.model import Fault

MAX_KEYS = 1024
MAX_TELLINGS = 32
# Counters are read seconds after what they count; nobody tells later than this.
FORGET_NS = 60_000_000_000

Key = tuple[str, str, str, str]


class _Telling(Struct):
    """`matched` says how many of its `count` each source has told, between `since_ns` and `at_ns`.

    `only` is the source that had told all until then: it finds nothing here that somebody else told.
    """

    since_ns: int
    at_ns: int
    subcode: str
    count: int
    matched: dict[str, int]
    only: str = ""


class Merger:
    """Remembers who told what lately. Bounded: a source that comes after thousands of others counts anew."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._tellings: OrderedDict[Key, deque[_Telling]] = OrderedDict()

    def new(self, entity: str, fault: Fault) -> int:
        """How many of `fault.count` nobody else has told yet; 0 when this is another source of known ones."""
        tellings = self._of((entity, fault.family, fault.code, fault.phase), fault.at_ns)
        source = fault.sources[0] if fault.sources else ""
        since_ns = _since_ns(fault)
        left = max(fault.count, 1)
        known = () if source and tellings and tellings[-1].only == source else tellings
        for telling in known:
            left -= self._match(telling, fault, source, since_ns, left)
            if not left:
                return 0
        only = source if not tellings or tellings[-1].only == source else ""
        tellings.append(_Telling(since_ns, fault.at_ns, fault.subcode, left, {source: left}, only))
        return left

    def rename(self, names: Mapping[str, str]) -> None:
        """Entities have other names from now on."""
        for key in [key for key in self._tellings if key[0] in names]:
            tellings, renamed = self._tellings.pop(key), (names[key[0]], *key[1:])
            tellings.extendleft(reversed(self._tellings.get(renamed, ())))
            self._tellings[renamed] = tellings

    def _of(self, key: Key, at_ns: int) -> deque[_Telling]:
        tellings = self._tellings.get(key)
        if tellings is None:
            tellings = self._tellings[key] = deque(maxlen=MAX_TELLINGS)
            if len(self._tellings) > MAX_KEYS:
                self._tellings.popitem(last=False)
        self._tellings.move_to_end(key)
        while tellings and tellings[0].at_ns < at_ns - FORGET_NS:
            tellings.popleft()
        return tellings

    def _match(self, telling: _Telling, fault: Fault, source: str, since_ns: int, wanted: int) -> int:
        told = telling.matched.get(source, 0)
        if told >= telling.count:
            return 0
        if telling.since_ns - self._window_ns > fault.at_ns or since_ns > telling.at_ns + self._window_ns:
            return 0
        if telling.subcode and fault.subcode and telling.subcode != fault.subcode:
            return 0
        taken = min(wanted, telling.count - told)
        telling.matched[source] = told + taken
        return taken


def _since_ns(fault: Fault) -> int:
    """A source that counts says since when; others tell at once."""
    since_ns = fault.fields.get("since_ns")
    return min(since_ns, fault.at_ns) if isinstance(since_ns, int) and since_ns > 0 else fault.at_ns
