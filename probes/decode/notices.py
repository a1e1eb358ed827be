"""Records about other records: repeated ones that syslog folded, and ones that the kernel left out."""

from __future__ import annotations

import re
from typing import NamedTuple

NOTICE_TRIGGERS = ("message repeated ", "callbacks suppressed", "messages suppressed")

# A host name comes first where syslog did not know the program.
_REPEATED = re.compile(
    r"(?:--- |[\w.-]{1,253} )?(?:last )?message repeated (\d{1,9}) times?(?:: \[ ?(.*)\]$)?", re.ASCII | re.DOTALL
)
_SUPPRESSED = re.compile(r"(?:.{0,200}?[: ])?(\d{1,9}) (?:callbacks|messages) suppressed", re.ASCII)


class Notice(NamedTuple):
    """`repeats` of `text`, or of the record before where that is ""; or how many alike were `suppressed`."""

    repeats: int
    suppressed: int
    text: str = ""


def read_notice(text: str) -> Notice | None:
    """What a record says about others, None when it says nothing of the kind."""
    if found := _REPEATED.match(text):
        return Notice(int(found[1]), 0, found[2] or "") if int(found[1]) else None
    if found := _SUPPRESSED.match(text):
        return Notice(0, int(found[1]))
    return None
