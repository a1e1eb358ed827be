"""Ways to turn the plugin off, and where it says what it does."""

from __future__ import annotations

import logging
import os

from .ring import DIRECTORY

DISABLE = "EAGLE_EYE_DISABLE"
OFF_FILE = os.path.join(DIRECTORY, "eagle-eye-engine.off")
# A hook that failed so often takes itself out.
MOST_ERRORS = 5

# Below vLLM's own logger, so that its handlers and levels hold.
log = logging.getLogger("vllm.eagle_eye")


def disabled() -> bool:
    """By the environment, or by a file that anyone in the container may create."""
    return os.environ.get(DISABLE, "").lower() not in ("", "0", "false", "no") or os.path.exists(OFF_FILE)


class Errors:
    """Counts the failures of one hook. Nothing of them may reach vLLM."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.count = 0

    def add(self, error: BaseException) -> bool:
        """True when it was one too many; it is then logged, once."""
        self.count += 1
        if self.count == MOST_ERRORS:
            log.warning("Eagle Eye took out %s after %d errors, the last: %r", self._what, self.count, error)
        return self.count >= MOST_ERRORS
