"""Which devices of a library a worker touches: all but some, or one alone."""

from __future__ import annotations

from collections.abc import Sequence

from .device_messages import Target, Vendor, nameless


class Choice:
    """`moved` are devices to avoid that turned up at another index, by uuid."""

    def __init__(self, vendor: Vendor, avoid: Sequence[Target] = (), only: Target | None = None) -> None:
        self.only = only
        self.moved: dict[str, int] = {}
        self._vendor = vendor
        self._avoid = avoid

    def leaves_out(self, index: int) -> bool:
        """Whether no call at all may go to the device at `index`."""
        if self.only:
            return self.only.index != index
        return any(target.index == index for target in self._avoid)

    def takes(self, uuid: str, index: int) -> bool:
        """Whether the device at `index`, which says that it is `uuid`, is to be watched."""
        if self.only:
            return self.only.uuid in (uuid, nameless(self._vendor, index))
        if all(target.uuid != uuid for target in self._avoid):
            return True
        self.moved[uuid] = index
        return False
