"""Where the feed is: subjects and keys, the same for who speaks and who listens."""

from __future__ import annotations

from functools import lru_cache

from ..subjects import token

SUBJECT = "eagle_eye.routing_metrics"
BUCKET = "EAGLE_EYE_ROUTING"
STREAM = f"KV_{BUCKET}"
LAST_VALUES = f"$KV.{BUCKET}"


@lru_cache(maxsize=4096)
def engine_key(node: str, instance: str) -> str:
    """`<node>.<instance>`, cleaned: names an engine in subjects, in the bucket and in a table."""
    return f"{token(node or '_')}.{token(instance or '_')}"
