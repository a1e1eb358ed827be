"""A descriptor that wakes its reader at a set time: timerfd, which Python has not before 3.13."""

from __future__ import annotations

import os

from ._kmsg import lib
from .errors import EagleEyeError


class Alarm:
    """`fd` is readable from the set time on, until it is set anew. Raises EagleEyeError without descriptors."""

    def __init__(self) -> None:
        self.fd = lib.kmsg_alarm_open()
        if self.fd < 0:
            raise EagleEyeError(f"no timer: {os.strerror(-self.fd)}", remedy="ulimit -n 65536")

    def set(self, after_ns: int) -> None:
        """0 is never."""
        lib.kmsg_alarm_set(self.fd, after_ns)

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
