"""Numbers and foreign text as words of a terminal."""

from __future__ import annotations

UNKNOWN = "-"

_TIMES = ((1, "s"), (1e-3, "ms"), (1e-6, "us"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SPANS = ((86400, "d"), (3600, "h"), (60, "m"))


def seconds(value: float | None) -> str:
    """Seconds in the unit that suits: `1.2 ms`."""
    if value is None:
        return UNKNOWN
    scale, unit = next((pair for pair in _TIMES if value >= pair[0]), _TIMES[-1])
    return f"{_three_digits(value / scale)} {unit}"


def size(value: float | None) -> str:
    """Bytes in the unit that suits: `3.1 GiB`."""
    if value is None:
        return UNKNOWN
    for scale, unit in _SIZES:
        if value >= scale:
            return f"{_three_digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def count(value: float | None) -> str:
    """A whole number with thin groups: `12 340`."""
    return UNKNOWN if value is None else f"{round(value):,}".replace(",", " ")


def rate(value: float | None) -> str:
    """Times per second: `12 340/s`, `0.3/s`."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}/s" if 0 < value < 10 else f"{count(value)}/s"


def percent(ratio: float | None) -> str:
    """A ratio as a share of a hundred: `12.3 %`."""
    return UNKNOWN if ratio is None else f"{ratio * 100:.1f} %"


def span(value: float | None) -> str:
    """A long time in its two greatest units: `3 d 4 h`."""
    if value is None:
        return UNKNOWN
    parts: list[str] = []
    rest = int(value)
    for scale, unit in _SPANS:
        if rest >= scale or parts:
            parts.append(f"{rest // scale} {unit}")
            rest %= scale
    return " ".join((parts or [f"{rest} s"])[:2])


def clean(text: object) -> str:
    """Foreign text with its control characters made visible, so that no terminal obeys them."""
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in str(text))


def _escape(letter: str) -> str:
    return repr(letter)[1:-1]


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
