"""Names of NATS subjects: the one place that turns a name of the world into a token of a subject.

eagle_eye.v1.<cluster>.<node>.snapshot              core, lossy
eagle_eye.v1.<cluster>.<node>.event.<kind>          JetStream
eagle_eye.v1.<cluster>.<node>.stall                 JetStream
eagle_eye.v1.<cluster>.<node>.finding               JetStream
eagle_eye.v1.<cluster>.<node>.session               request and reply
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from ..native.errors import UsageError

ROOT = "eagle_eye.v1"
ALL_EVENTS = f"{ROOT}.*.*.event.>"
ALL_STALLS = f"{ROOT}.*.*.stall"
ALL_FINDINGS = f"{ROOT}.*.*.finding"

# A DNS name has up to 253 characters; a subject with two of them still fits a NATS control line of 4096 bytes.
MAX_TOKEN_CHARACTERS = 256
MAX_KIND_TOKENS = 8

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")


def token(name: str, what: str = "name") -> str:
    """`name` as one token of a subject: characters other than A-Z a-z 0-9 _ - become `_`.

    Two names can give the same token (`a.b` and `a_b`); payloads carry the true name. A name longer than
    MAX_TOKEN_CHARACTERS is cut and ends in a digest of the whole. Raises UsageError when `name` is empty.
    """
    if not name:
        raise UsageError(f"the {what} is empty; it becomes a part of NATS subjects and needs one character at least")
    cleaned = _FORBIDDEN.sub("_", name)
    if len(cleaned) <= MAX_TOKEN_CHARACTERS:
        return cleaned
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{cleaned[: MAX_TOKEN_CHARACTERS - 17]}_{digest}"


@lru_cache(maxsize=256)
def kind_tokens(kind: str) -> str:
    """An event's kind as tokens: its dots stay (`sched.long_wait`), so that subscribers can take a family.

    Never fails: an event with a strange kind is evidence too. Empty parts become `_`.
    """
    parts = kind.split(".", MAX_KIND_TOKENS - 1)
    return ".".join(token(part or "_") for part in parts)


class Subjects:
    """The subjects of one node. Raises UsageError when a name is empty."""

    def __init__(self, cluster: str, node: str) -> None:
        self.prefix = f"{ROOT}.{token(cluster, 'cluster name')}.{token(node, 'node name')}"
        self.snapshot = f"{self.prefix}.snapshot"
        self.stall = f"{self.prefix}.stall"
        self.finding = f"{self.prefix}.finding"
        self.session = f"{self.prefix}.session"

    def event(self, kind: str) -> str:
        """Subject of events of `kind`."""
        return f"{self.prefix}.event.{kind_tokens(kind)}"
