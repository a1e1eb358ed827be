"""A descriptor that wakes its reader at a set time: timerfd, which Python has not before 3.13."""

from __future__ import annotations

import os

from ._kmsg import lib
from .errors import EagleEyeError


class Alarm:
    """`fd` is readable from the set time on, until it is set or cleared. Raises EagleEyeError without descriptors."""

    def __init__(self) -> None:
        self.fd = lib.kmsg_alarm_open()
        if self.fd < 0:
            raise EagleEyeError(f"no timer: {os.strerror(-self.fd)}", remedy="ulimit -n 65536")

    def set(self, after_ns: int) -> None:
        lib.kmsg_alarm_set(self.fd, max(1, after_ns))

    def clear(self) -> None:
        lib.kmsg_alarm_set(self.fd, 0)

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
