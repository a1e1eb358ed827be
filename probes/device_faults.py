"""Fatal faults that devices still have, and whether such a device may be touched once more."""

from __future__ import annotations

from collections import Counter

from .device_messages import Occurrence


class FatalFaults:
    """By uuid. A fault is open until its recovery is told, or its device went away and came back: it was reset."""

    def __init__(self, retry: int) -> None:
        self._retry = retry
        self._codes: dict[str, str] = {}
        self._entries: Counter[str] = Counter()

    def take(self, one: Occurrence) -> None:
        code = str(one.attributes.get("xid", one.attributes.get("event_id")))
        if one.severity == "fatal":
            self._codes[one.uuid] = code
        elif one.attributes.get("assertion") == "recovery" and self._codes.get(one.uuid) == code:
            self.close(one.uuid)

    def close(self, uuid: str) -> None:
        self._codes.pop(uuid, None)
        self._entries.pop(uuid, None)

    def code(self, uuid: str) -> str:
        """The vendor's, "" for a device without one."""
        return self._codes.get(uuid, "")

    def enter(self, uuid: str) -> bool:
        """Whether a worker may touch the device now, which counts as one of its tries."""
        if not self.may_enter(uuid):
            return False
        self._entries[uuid] += uuid in self._codes
        return True

    def may_enter(self, uuid: str) -> bool:
        return uuid not in self._codes or self._entries[uuid] < self._retry

    def devices(self) -> list[str]:
        return list(self._codes)
