"""One fault that several sources tell is one fault: the log's line, the tracepoint's and the library's event."""

from __future__ import annotations

from collections import OrderedDict, deque

from msgspec import Struct

from ...probes.model import Fault

MAX_KEYS = 4096
MAX_TELLINGS = 64

Key = tuple[str, str, str, str]


class _Telling(Struct):
    """`matched` says how many of its `count` each source has told.

    `only` is the source that had told all until then: it finds nothing here that somebody else told.
    """

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
        left = max(fault.count, 1)
        source = fault.sources[0] if fault.sources else ""
        if source and tellings and tellings[-1].only == source:
            tellings.append(_Telling(fault.at_ns, fault.subcode, left, {source: left}, only=source))
            return left
        for telling in tellings:
            if telling.matched.get(source, 0) < telling.count:
                left -= self._match(telling, fault, source, left)
                if not left:
                    return 0
        tellings.append(_Telling(fault.at_ns, fault.subcode, left, {source: left}, only="" if tellings else source))
        return left

    def rename(self, before: str, after: str) -> None:
        for key in [key for key in self._tellings if key[0] == before]:
            tellings = self._tellings.pop(key)
            tellings.extendleft(reversed(self._tellings.get((after, *key[1:]), ())))
            self._tellings[after, key[1], key[2], key[3]] = tellings

    def _of(self, key: Key, at_ns: int) -> deque[_Telling]:
        tellings = self._tellings.get(key)
        if tellings is None:
            tellings = self._tellings[key] = deque(maxlen=MAX_TELLINGS)
            if len(self._tellings) > MAX_KEYS:
                self._tellings.popitem(last=False)
        self._tellings.move_to_end(key)
        while tellings and tellings[0].at_ns < at_ns - 2 * self._window_ns:
            tellings.popleft()
        return tellings

    def _match(self, telling: _Telling, fault: Fault, source: str, wanted: int) -> int:
        if abs(telling.at_ns - fault.at_ns) > self._window_ns:
            return 0
        if telling.subcode and fault.subcode and telling.subcode != fault.subcode:
            return 0
        taken = min(wanted, telling.count - telling.matched.get(source, 0))
        telling.matched[source] = telling.matched.get(source, 0) + taken
        return taken
