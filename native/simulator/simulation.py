"""A simulated machine: its state file, and what sets it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from .block import LIBRARIES, VENDORS, Block, declarations, writer
from .catalog import flat, load_profile
from .faults import expand
from .keys import DeviceEdit, chosen, set_node

VARIABLE = "EAGLE_EYE_SIMULATION"
NODE = "node"


class Simulation:
    """Makes the state file of a profile, or with `open` uses one that is there.

    The file is the simulation: it goes on, without any process, until it is removed.
    """

    def __init__(self, profile: str, path: Path | None = None) -> None:
        settings = load_profile(profile)
        writer()
        self._folder = None if path else tempfile.TemporaryDirectory(prefix="eagle-eye-simulation-")
        self.path = path or Path(self._folder.name) / f"{profile}.state"  # type: ignore[union-attr]
        self.profile = profile
        self._block = Block(self.path, create=True)
        try:
            self._fill(settings)
        except BaseException:
            self.remove()
            raise

    @classmethod
    def open(cls, path: Path) -> Simulation:
        """Raises FileNotFoundError, or EagleEyeError for a file that is no state file."""
        self = cls.__new__(cls)
        writer()
        self._folder, self.path, self._block = None, path, Block(path)
        self.profile = declarations().string(self._block.state.profile).decode(errors="replace")
        return self

    @property
    def vendor(self) -> str:
        return {number: name for name, number in VENDORS.items()}[self._block.state.vendor]

    @property
    def devices(self) -> list[int]:
        """The slots of the devices that the profile has, also of those that are gone."""
        return [slot for slot, device in enumerate(self._block.state.device) if device.identity.name[0] != b"\0"]

    def environment(self) -> dict[str, str]:
        """What a process must have so that its loader finds the simulated libraries."""
        already = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            "LD_LIBRARY_PATH": f"{LIBRARIES}:{already}" if already else str(LIBRARIES),
            VARIABLE: str(self.path.resolve()),
        }

    def set(
        self, device: int | str, changes: Mapping[str, object] | None = None, /, *, over_s: float = 0.0, **more: object
    ) -> None:
        """Changes a device (its slot, or "all") or "node". All or, when one key is wrong, nothing.

        `over_s` lets quantities move there in that time. Raises UsageError.
        """
        wanted = list(flat({**(changes or {}), **more}))
        with self._block.lock():
            if device == NODE:
                self._set_node(wanted)
                return
            self._set_devices(chosen(str(device), "device", self.devices), wanted, over_s)

    def _set_node(self, wanted: list[tuple[str, object]]) -> None:
        head = self._block.head()
        before = bytes(head)
        try:
            for key, value in wanted:
                set_node(self._block, key, value)
        except BaseException:
            head[:] = before
            raise

    def _set_devices(self, slots: list[int], wanted: list[tuple[str, object]], over_s: float) -> None:
        edits: list[DeviceEdit] = []
        with ExitStack() as stack:
            try:
                for slot in slots:
                    edit = DeviceEdit(stack.enter_context(self._block.edit(slot)), slot, over_s)
                    edits.append(edit)
                    for key, value in expand(wanted, self.vendor):
                        edit.set(key, value)
            except BaseException:
                stack.pop_all()
                raise
        for event in [event for edit in edits for event in edit.events]:
            self._block.send(event)

    def _fill(self, settings: Mapping[str, Any]) -> None:
        state = self._block.state
        state.vendor = VENDORS[settings["vendor"]]
        state.profile = self.profile.encode()
        self.set(NODE, settings.get("node", {}))
        with self._block.lock():
            for slot, own in enumerate(settings["devices"]):
                with self._block.edit(slot) as device:
                    device.present = 1
                    edit = DeviceEdit(device, slot, 0.0)
                    for key, value in flat({**settings["device"], **own}):
                        edit.set(key, value)
                    _shift_phases(device, slot)

    def close(self) -> None:
        self._block.close()

    def remove(self) -> None:
        """Ends the simulation: calls into the libraries fail from now on."""
        self.close()
        self.path.unlink(missing_ok=True)
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self.remove()
        else:
            self.close()


def _shift_phases(device: Any, slot: int) -> None:
    """Devices that wobble in step would look like one device."""
    now_ns = time.monotonic_ns()
    for law in device.value:
        if law.wobble and not law.rate_per_s:
            law.since_ns = max(0, now_ns - int(slot * law.period_s * 1e9 / 8))
