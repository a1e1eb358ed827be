"""How long messages were on their way, without comparing the clocks of two machines."""

from __future__ import annotations

WINDOW_NS = 60_000_000_000
MAX_NODES = 10_000


class Clocks:
    """Per node and boot: the least difference between when a message came (this clock) and left (that clock).

    That is the clocks' offset and the shortest way. Whatever a message took longer, it was delayed. The least of the
    last one to two minutes counts, so that clocks may drift, and a message that lies is forgotten.
    """

    def __init__(self) -> None:
        self._least: dict[tuple[str, str], tuple[int, int, int]] = {}

    def delay_ns(self, node: str, boot_id: str, left_ns: int, came_ns: int) -> int:
        """How much longer than the quickest this one took, and from now on it counts among them."""
        key = (node, boot_id)
        difference_ns = came_ns - left_ns
        known = self._least.get(key)
        if known is None:
            if len(self._least) >= MAX_NODES:
                del self._least[next(iter(self._least))]
            self._least[key] = (came_ns, difference_ns, difference_ns)
            return 0
        since_ns, now, before = known
        if came_ns - since_ns > WINDOW_NS:
            self._least[key] = (came_ns, difference_ns, now)
            return max(0, difference_ns - now)
        if difference_ns < now:
            self._least[key] = (since_ns, difference_ns, min(before, difference_ns))
        return max(0, difference_ns - min(now, before))
