"""Every exception of the product.

    EagleEyeError                 exit code 1
    ├── UsageError                exit code 2: a flag, key or value that cannot be
    ├── UnavailableError          exit code 3: this machine lacks a capability, feature, file or package
    ├── DeviceError               exit code 1: an accelerator's library refused
    └── BpfError                  exit code 1: libbpf or the kernel refused, for no reason known above
        ├── BpfLoadError          the verifier's last words are in the message
        ├── BpfAttachError
        └── BpfMapError

Only the command line prints them and turns them into exit codes.
"""

from __future__ import annotations


class EagleEyeError(Exception):
    """Something went wrong; `remedy` is the one step or command that mends it, "" when none is known."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(EagleEyeError):
    """The user asked for something that cannot be; the message names it and what is allowed."""

    exit_code = 2


class UnavailableError(EagleEyeError):
    """This machine lacks something: a capability, a kernel feature, a file, a package."""

    exit_code = 3


class DeviceError(EagleEyeError):
    """A vendor's library refused; `code` is its own return code."""

    def __init__(self, message: str, *, code: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class BpfError(EagleEyeError):
    """libbpf or the kernel refused; `errno` is positive, 0 when there is none."""

    def __init__(self, message: str, *, errno: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.errno = errno


class BpfLoadError(BpfError):
    """An object did not open or load; the message carries the useful lines of the libbpf log."""


class BpfAttachError(BpfError):
    """A program did not attach to its hook."""


class BpfMapError(BpfError):
    """A map operation failed."""
