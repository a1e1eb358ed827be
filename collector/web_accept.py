"""What a client asks for in `Accept` and `Accept-Encoding` (RFC 9110, section 12.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")


def prefers_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0.0 is asked for at least as much as plain text; text is the default."""
    openmetrics = text = 0.0
    for kind, parameters, quality in _items(accept):
        if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif kind == "text/plain":
            text = max(text, quality)
    return openmetrics > 0 and openmetrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes a gzipped body."""
    qualities = {kind: quality for kind, _, quality in _items(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _items(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for item in header.split(","):
        kind, *rest = (part.strip().lower() for part in item.split(";"))
        parameters = {name.strip(): value.strip(' "') for name, _, value in (part.partition("=") for part in rest)}
        quality = parameters.get("q", "1")
        yield kind, parameters, min(1.0, float(quality)) if _QUALITY.fullmatch(quality) else 0.0
