"""Typed settings: one declaration gives the flag, the environment name, the file key and the docs row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from ..native.errors import UsageError

Kind = Literal["duration", "size", "integer", "boolean", "text", "path", "choice", "address", "url"]

_DURATION_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIZE_BYTES = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
_URL = re.compile(r"(?:(nats|tls)://)?(?:[^@/\s]*@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")
_PASSWORD = re.compile(r"//(?:(?P<user>[^@/:]*):)?[^@/]*@")
_USERINFO = re.compile(r"(://|^').*@")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Option(Struct, frozen=True):
    """A setting. `default`, `minimum` and `maximum` are written as a user would write them.

    `name` may be dotted (`nats.url`). Parsed values: durations are integer nanoseconds,
    sizes integer bytes, addresses `(host, port)`, paths `Path`, everything else itself.
    A `default` of None means that the setting may be left out.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    minimum: Any = None
    maximum: Any = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    def parse(self, raw: Any, key: str) -> Any:
        """The typed value of `raw`, which came from `key`.

        Raises UsageError naming the key, the value and what is allowed.
        """
        value = _PARSERS[self.kind](self, raw, key)
        low, high = self._bound(self.minimum, key), self._bound(self.maximum, key)
        if (low is not None and value < low) or (high is not None and value > high):
            raise self._refuse(raw, key)
        return value

    def show(self, value: Any) -> str:
        """`value`, once parsed, as a user would write it; secrets and passwords are masked."""
        if value is None:
            return ""
        if self.secret:
            return "***"
        return _SHOWN.get(self.kind, str)(value)

    def allowed(self) -> str:
        """What a user may write, in a few words."""
        words = _ALLOWED[self.kind]
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{words}, from {self.minimum} to {self.maximum}"
        if self.minimum is not None:
            return f"{words}, at least {self.minimum}"
        return words

    def _bound(self, raw: Any, key: str) -> Any:
        return None if raw is None else _PARSERS[self.kind](self, raw, key)

    def _refuse(self, raw: Any, key: str) -> UsageError:
        shown = "(hidden)" if self.secret else _USERINFO.sub(r"\1***@", repr(raw))[:200]
        return UsageError(f"{key}: {shown} is not allowed; allowed is {self.allowed()}")


_ALLOWED: dict[str, str] = {
    "duration": "a duration such as 500ms, 2s or 1m (a bare number is seconds)",
    "size": "a size in bytes such as 65536, 256KiB or 64MiB",
    "integer": "a whole number",
    "boolean": "true or false",
    "text": "text of printable characters",
    "path": "a path",
    "choice": "one of the choices",
    "url": "nats://HOST:PORT or tls://HOST:PORT, several joined by commas",
    "address": "HOST:PORT, such as 127.0.0.1:9750 or [::1]:9750 (port 0 takes a free one)",
}


def _quantity(option: Option, raw: Any, key: str, units: dict[str, int], bare: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise option._refuse(raw, key)
    found = _QUANTITY.fullmatch(str(raw).strip())
    if found is None or (found[2] or bare) not in units:
        raise option._refuse(raw, key)
    value = float(found[1]) * units[found[2] or bare] if "." in found[1] else int(found[1]) * units[found[2] or bare]
    if not math.isfinite(value):
        raise option._refuse(raw, key)
    return round(value)


def _duration(option: Option, raw: Any, key: str) -> int:
    return _quantity(option, raw, key, _DURATION_NS, "s")


def _size(option: Option, raw: Any, key: str) -> int:
    return _quantity(option, raw, key, _SIZE_BYTES, "")


def _integer(option: Option, raw: Any, key: str) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,18}", raw.strip()):
        return int(raw)
    raise option._refuse(raw, key)


def _boolean(option: Option, raw: Any, key: str) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _WORDS:
        return _WORDS[raw.strip().lower()]
    raise option._refuse(raw, key)


def _text(option: Option, raw: Any, key: str) -> str:
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable() or len(raw) > 4096:
        raise option._refuse(raw, key)
    return raw


def _path(option: Option, raw: Any, key: str) -> Path:
    if isinstance(raw, Path):
        return raw
    return Path(_text(option, raw, key))


def _choice(option: Option, raw: Any, key: str) -> str:
    if raw not in option.choices:
        raise option._refuse(raw, key)
    return str(raw)


def _url(option: Option, raw: Any, key: str) -> str:
    urls = [url.strip() for url in _text(option, raw, key).split(",")]
    for url in urls:
        found = _URL.fullmatch(url)
        if found is None or int(found[2] or 0) > 65535:
            raise option._refuse(raw, key)
    return ",".join(url if "://" in url else f"nats://{url}" for url in urls)


def _address(option: Option, raw: Any, key: str) -> tuple[str, int]:
    host, colon, port = _text(option, raw, key).rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise option._refuse(raw, key)
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*", host):
        raise option._refuse(raw, key)
    return host.strip("[]"), int(port)


_PARSERS = {
    "duration": _duration,
    "size": _size,
    "integer": _integer,
    "boolean": _boolean,
    "text": _text,
    "path": _path,
    "choice": _choice,
    "address": _address,
    "url": _url,
}


def mask(url: str) -> str:
    """A parsed `url` without its passwords or tokens; user names stay."""
    return _PASSWORD.sub(_masked, url)


def _masked(found: re.Match[str]) -> str:
    user = "" if found["user"] is None else f"{found['user']}:"
    return f"//{user}***@"


def _in_unit(value: int, units: dict[str, int], zero: str) -> str:
    name = max((u for u in units if value % units[u] == 0 and value), key=units.__getitem__, default=zero)
    return f"{value // units[name]}{name}"


def _show_address(value: tuple[str, int]) -> str:
    host, port = value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "duration": lambda value: _in_unit(value, _DURATION_NS, "s"),
    "size": lambda value: _in_unit(value, _SIZE_BYTES, ""),
    "boolean": lambda value: str(value).lower(),
    "address": _show_address,
    "url": mask,
}
