"""DCMI's return codes in words, and what mends them. Source: the return-code tables of Huawei's DCMI references."""

from __future__ import annotations

from .device import UNSUPPORTED
from .errors import DeviceError, EagleEyeError, UnavailableError

_AGAIN = "it is tried again by itself"
_REPORT = "look into /var/log/npu and dmesg, then reset the device: npu-smi set -t reset -i <card> -c <chip>"
_OUTSIDE = "run outside the container, or in a privileged one with /usr/local/dcmi and the driver's libraries mounted"

RETURNS: dict[int, tuple[str, str]] = {
    -8001: ("DCMI does not know this parameter", ""),
    -8002: ("DCMI was refused permission", "run as root"),
    -8003: ("DCMI has no memory", "free memory on the host"),
    -8004: ("a memory function inside DCMI failed", _REPORT),
    -8005: ("an error inside DCMI", _REPORT),
    -8006: ("the device did not answer in time", _AGAIN),
    -8007: ("DCMI does not know this device", "npu-smi info -l"),
    -8008: ("the device is not there", "npu-smi info; lspci -d 19e5:"),
    -8009: ("the driver refused a call", "look for [ascend] in the kernel log: dmesg | grep -i ascend"),
    -8010: ("a message to the device was not sent", _REPORT),
    -8011: ("no answer came from the device", _REPORT),
    -8012: ("the device is not ready yet", _AGAIN),
    -8013: ("DCMI does not do this in a container", _OUTSIDE),
    -8014: ("DCMI could not use a file", "reinstall the Ascend driver"),
    -8015: ("the device's reset failed", "reboot the node"),
    -8016: ("the device's reset was called off", "stop what uses the device, then reset it again"),
    -8017: ("the device's firmware is being upgraded", _AGAIN),
    -8020: ("the device is occupied", "stop the other container or process that holds it"),
    -8022: ("the device is divided in another way", "npu-smi info -t vnpu -i <card> -c <chip>"),
    -8023: ("the device lacks this configuration", ""),
    -8255: ("the device or its library does not support this", ""),
    UNSUPPORTED: ("the library lacks the function", "install a newer Ascend driver"),
}

# Of the machine and not of one call: everything else fails in the same way.
_UNAVAILABLE = (-8002, -8013)


def return_text(code: int) -> str:
    """What a return code means, in words."""
    return RETURNS.get(code, (f"DCMI returned {code}", ""))[0]


def failure(doing: str, code: int, *, of_machine: bool = False) -> EagleEyeError:
    """The exception for a return code other than 0: UnavailableError when the machine as a whole lacks something,
    else DeviceError."""
    words, remedy = RETURNS.get(code, ("an unknown return code", ""))
    message = f"{doing}: {words} (DCMI {code})"
    if of_machine or code in _UNAVAILABLE:
        return UnavailableError(message, remedy=remedy)
    return DeviceError(message, code=code, remedy=remedy)
