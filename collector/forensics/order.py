"""What the agent tells the process that writes a bundle, and hears from it."""

from __future__ import annotations

import sys

from msgspec import Struct

from ..recorder.previous import SavedLog
from .bundle import Trigger

NICE = 10
# Nice from its first moment: the agent tells of the same fault while it starts.
COMMAND = (sys.executable, "-P", "-c", f"import os; os.nice({NICE}); from {__package__} import writer; writer.main()")


class Order(Struct, frozen=True):
    """What to freeze. Not `live`: the boot `boot_id` is over, or nobody records any more; nothing is waited for."""

    id: str
    home: str
    recorder: str
    trigger: Trigger
    node: str
    cluster: str
    boot_id: str
    at_ns: int
    wall_offset_ns: int
    before_ns: int
    after_ns: int
    proc: str = "/proc"
    sys: str = "/sys"
    config: tuple[dict[str, str], ...] = ()
    saved_logs: tuple[SavedLog, ...] = ()
    simulated: bool = False
    live: bool = True


class Result(Struct, frozen=True):
    """Where the bundle is, what it takes on disk, what is missing in it."""

    id: str
    folder: str
    size_bytes: int
    incomplete: tuple[str, ...]
