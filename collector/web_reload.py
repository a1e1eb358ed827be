"""The web configuration in force, and its file watched: rotated certificates and users need no restart."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import structlog

from ..native.errors import UsageError
from .web_auth import BasicAuth, TokenBucket
from .web_config import WebConfig, read_web_config
from .web_tls import is_allowed_client, make_tls_context, tls_files

log = structlog.get_logger(component="web")

Stamp = tuple[int, int, int] | None
Signature = tuple[Stamp, ...]


class WebSettings:
    """One configuration, ready to use."""

    def __init__(self, config: WebConfig, folder: Path, auth: BasicAuth) -> None:
        limit = config.rate_limit
        self.config = config
        self.auth = auth
        self.tls: ssl.SSLContext | None = make_tls_context(config.tls_server_config, folder)
        self.headers = config.http_server_config.headers.items()
        self.limiter = TokenBucket(1e9 / limit.interval_ns, limit.burst) if limit.interval_ns else None

    def is_allowed_client(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether the client's certificate has a name that the configuration asks for."""
        return is_allowed_client(self.config.tls_server_config, certificate)


class LiveWebConfig:
    """Holds the settings in force; `path` None is plain HTTP for everybody.

    Raises UsageError when the file is wrong at the start. A file that is wrong later changes nothing,
    is logged once and shows in `failed`. Passwords are hashed in `thread`.
    """

    def __init__(self, path: Path | None, thread: Executor) -> None:
        self.reloads = 0
        self.failures = 0
        self.failed = False
        self.path = path
        self._thread = thread
        self._loaded: Signature = ()
        if path is None:
            self.settings = WebSettings(WebConfig(), Path(), BasicAuth({}, thread))
        else:
            self.settings = self._load(path, None)
        self._seen: Signature = self._loaded

    def poll(self) -> None:
        """Looks at the files, and loads them once they are new and at rest since the poll before.

        A file half written may well be valid, and mean that nobody needs a password.
        """
        if self.path is None:
            return
        now = _signature(_stamp(self.path), self.path, self.settings.config)
        at_rest, self._seen = now == self._seen, now
        if not at_rest or (now == self._loaded and not self.failed):
            return
        try:
            self.settings = self._load(self.path, self.settings)
        except UsageError as error:
            self._fail(error, is_new=now != self._loaded)
            self._loaded = now
        else:
            self.reloads += 1
            self.failed = False
            self._seen = self._loaded
            log.info("web configuration reloaded", path=str(self.path))

    def _fail(self, error: UsageError, *, is_new: bool) -> None:
        self.failed = True
        if is_new:
            self.failures += 1
            log.error("web configuration is wrong, the previous one stays in force", error=error.message)

    def _load(self, path: Path, previous: WebSettings | None) -> WebSettings:
        # Stamped before it is read: a change in between is then seen by the next poll.
        stamp = _stamp(path)
        config = read_web_config(path)
        signature = _signature(stamp, path, config)
        same_users = previous is not None and previous.config.basic_auth_users == config.basic_auth_users
        auth = previous.auth if previous and same_users else BasicAuth(config.basic_auth_users, self._thread)
        try:
            settings = WebSettings(config, path.parent, auth)
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}") from None
        self._loaded = signature
        return settings


def _signature(stamp: Stamp, path: Path, config: WebConfig) -> Signature:
    return (stamp, *map(_stamp, tls_files(config.tls_server_config, path.parent)))


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
