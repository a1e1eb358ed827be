"""NVIDIA GPUs through NVML, opened at run time: one C call samples all watched devices onto a board.

Devices are watched in slots of the board. Calls that concern one device or the library, such as watch(), can
block for ever in a broken driver like any vendor call: their caller marks them with `Board.call`.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from ._nvml import ffi, lib
from .device import DEVICE_MAX, Board
from .errors import DeviceError, EagleEyeError, UnavailableError

LIBRARY = "libnvidia-ml.so.1"
ALL_SLOTS = (1 << DEVICE_MAX) - 1

FUNCTIONS = tuple(ffi.string(lib.nvml_function_name(number)).decode() for number in range(lib.nvml_functions()))
"""NVML's names by the number in `Call.function`; "" is no function that is known."""

HOT_GROUPS = (
    "utilization", "codec", "memory", "temperature", "power", "clocks", "throttle", "pcie", "links", "link_errors",
    "ecc",
)  # fmt: skip
"""What a sample of every tick holds: readings that move and counters of damage."""

SLOW_GROUPS = (
    "pcie_errors", "ecc_locations", "remapped_rows", "retired_pages", "fan", "fabric", "limits", "health",
)  # fmt: skip
"""What changes seldom or takes the driver long: once a second is enough."""

# NVML's return codes: what happened, and what mends it.
_RETURNS: dict[int, tuple[str, str]] = {
    1: ("NVML is not initialized", ""),
    2: ("NVML does not know this device or argument", ""),
    3: ("the device does not support this", ""),
    4: ("NVML was refused permission", "run as root, or give the user access to /dev/nvidiactl and /dev/nvidia*"),
    6: ("there is no such device", "nvidia-smi -L"),
    7: ("a buffer was too small for NVML's answer", ""),
    8: ("a power cable of the GPU is missing", "connect the GPU's external power"),
    9: ("the NVIDIA driver is not loaded", "modprobe nvidia"),
    10: ("NVML gave up waiting for the driver", ""),
    11: ("the kernel has trouble with the GPU's interrupts", "look for NVRM in the kernel log: dmesg | grep NVRM"),
    12: ("NVML cannot find a library that it needs", "install the NVIDIA driver's libraries in the driver's version"),
    13: ("this version of NVML lacks the function", "install a newer NVIDIA driver"),
    14: ("the GPU's infoROM is corrupted", "nvidia-smi -q -d INFOROM"),
    15: ("the GPU is lost: it fell off the bus or cannot be reached", "drain the node and reboot it"),
    16: ("the GPU needs a reset", "stop what uses the GPU, then nvidia-smi --gpu-reset -i <index>"),
    17: ("the operating system refused NVML", "look for NVRM in the kernel log: dmesg | grep NVRM"),
    18: (
        "NVML and the loaded driver are of different versions",
        "reload the driver or reboot: rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && modprobe nvidia",
    ),
    19: ("the GPU is in use", ""),
    20: ("NVML has no memory", ""),
    21: ("NVML has no data", ""),
    23: ("the driver ran out of resources", ""),
    25: ("NVML does not know this version of an argument", "install a newer NVIDIA driver"),
    26: ("NVML no longer offers this", ""),
    27: ("the driver is not ready yet", ""),
    28: ("no GPU was found", "lspci -d 10de:"),
    29: ("the GPU is not in a state for this", ""),
    999: ("an unknown error inside the driver", "look for NVRM in the kernel log: dmesg | grep NVRM"),
}
# Of the machine and not of one call: everything else fails in the same way.
_UNAVAILABLE = (4, 9, 12, 18, 28)


def return_text(code: int) -> str:
    """What a return code means, in words."""
    return _RETURNS.get(code, (f"NVML returned {code}", ""))[0]


def failure(doing: str, code: int) -> EagleEyeError:
    """The exception for a return code other than 0: UnavailableError when the machine as a whole lacks something,
    else DeviceError."""
    words, remedy = _RETURNS.get(code, ("an unknown return code", ""))
    message = f"{doing}: {words} (NVML {code})"
    if code in _UNAVAILABLE:
        return UnavailableError(message, remedy=remedy)
    return DeviceError(message, code=code, remedy=remedy)


class Nvml:
    """An open library. Not for two threads at once; init() before anything else.

    Raises UnavailableError when the library is not there, or is no NVML.
    """

    def __init__(self, path: str | os.PathLike[str] = LIBRARY) -> None:
        self.path = os.fspath(path)
        error, words = ffi.new("int *"), ffi.new("char[512]")
        self._handle: Any = lib.nvml_open(os.fsencode(self.path), error, words, ffi.sizeof(words))
        self._initialized = False
        if self._handle == ffi.NULL:
            raise _open_failure(self.path, error[0], ffi.string(words).decode(errors="replace"))

    @property
    def simulated(self) -> bool:
        """The library is the simulator's."""
        return bool(lib.nvml_simulated(self._open()))

    @property
    def missing(self) -> tuple[str, ...]:
        """Functions that this version of the library lacks; what only they tell is unsupported."""
        handle = self._open()
        return tuple(
            name for number, name in enumerate(FUNCTIONS) if name and not lib.nvml_has_function(handle, number)
        )

    def init(self) -> None:
        """Safe twice. Without a GPU it succeeds and count() is 0."""
        if self._initialized:
            return
        code = lib.nvml_init(self._open())
        if code:
            raise failure("NVML did not start", code)
        self._initialized = True

    def count(self) -> int:
        """Devices that the driver knows now, MIG instances aside."""
        count = ffi.new("uint32_t *")
        code = lib.nvml_count(self._started(), count)
        if code:
            raise failure("the GPUs cannot be counted", code)
        return int(count[0])

    def watch(self, slot: int, uuid: str) -> None:
        """Samples this GPU or MIG device in a slot from now on, whatever its index becomes."""
        _check_slot(slot)
        code = lib.nvml_watch_uuid(self._started(), slot, uuid.encode())
        if code:
            raise failure(f"the GPU {uuid} cannot be watched", code)

    def watch_index(self, slot: int, index: int) -> None:
        """The same by NVML's index, which another device may have after a reboot."""
        _check_slot(slot)
        code = lib.nvml_watch_index(self._started(), slot, index)
        if code:
            raise failure(f"the GPU with index {index} cannot be watched", code)

    def forget(self, slot: int) -> None:
        """Samples this slot no longer."""
        _check_slot(slot)
        lib.nvml_forget(self._open(), slot)

    @property
    def watched(self) -> int:
        """The mask of slots that are watched."""
        return int(lib.nvml_watched(self._open()))

    def sample(self, board: Board, groups: int, slots: int = ALL_SLOTS) -> int:
        """Samples the watched devices of a mask of slots in a mask of groups (`device.group_mask`), without the GIL.

        Every value lands on the board with its own status. Returns how many devices answered with an error
        of the whole device, such as a lost GPU. Each group's calls are marked in lane 0 while they run.
        """
        return int(lib.nvml_sample(self._started(), board.pointer, slots, groups))

    def close(self) -> None:
        """Safe twice."""
        if self._initialized:
            lib.nvml_shutdown(self._handle)
        self._initialized = False
        if self._handle != ffi.NULL:
            lib.nvml_close(self._handle)
        self._handle = ffi.NULL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> Any:
        if self._handle == ffi.NULL:
            raise DeviceError("NVML is closed", code=1)
        return self._handle

    def _started(self) -> Any:
        if not self._initialized:
            raise failure("init() comes first", 1)
        return self._open()


def _open_failure(path: str, error: int, words: str) -> EagleEyeError:
    if error == lib.NVML_OPEN_NO_LIBRARY:
        return UnavailableError(
            f"NVML cannot be opened: {words}",
            remedy="install the NVIDIA driver, or mount its libraries into the container (NVIDIA_DRIVER_CAPABILITIES="
            "utility)",
        )
    if error == lib.NVML_OPEN_WRONG_LIBRARY:
        return UnavailableError(
            f"{path} is no NVML: it lacks nvmlInit, nvmlShutdown or nvmlDeviceGetCount",
            remedy=f"name the driver's own {LIBRARY}",
        )
    return UnavailableError("no memory for NVML")


def _check_slot(slot: int) -> None:
    if not 0 <= slot < DEVICE_MAX:
        raise ValueError(f"slots are 0 to {DEVICE_MAX - 1}, not {slot}")
