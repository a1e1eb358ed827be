"""How to reach NATS: addresses, identity, TLS. Checked once at the start, read again at every connect."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from ..native.errors import UsageError

_SCHEMES = ("nats", "tls")


class NatsOptions(Struct, frozen=True):
    """`servers` are `nats://HOST:PORT` or `tls://HOST:PORT`; user info in them counts as `user` and `password`.

    At most one identity: `credentials_file` (JWT and seed), `nkey_file` (seed), `user` with `password`, `token`.
    `tls_ca` (PEM) replaces the system's authorities; `tls_certificate` and `tls_key` go together. Files are read
    at every connect, so rotated ones are taken up. With any of the TLS settings a plain server is refused.
    """

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    credentials_file: Path | None = None
    nkey_file: Path | None = None
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    inbox_prefix: str = "_INBOX"

    def __repr__(self) -> str:
        """Without secrets: what is printed by accident is printed for ever."""
        try:
            identity = ", ".join(self.identity()) or "no identity"
        except UsageError:
            return "NatsOptions(unusable servers)"
        return f"NatsOptions({', '.join(self.addresses())}; {identity}; {'TLS' if self.wants_tls else 'no TLS'})"

    def check(self) -> None:
        """Raises UsageError that names the setting for what could never work."""
        if not self.servers:
            raise UsageError("no NATS server is named", remedy="give one with --nats nats://HOST:4222")
        for server in self.servers:
            _parse(server)
        user, _, token = self._login()
        identities = [bool(self.credentials_file), bool(self.nkey_file), bool(user), bool(token)]
        if sum(identities) > 1:
            raise UsageError("NATS takes one identity: a credentials file, an nkey, user and password, or a token")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("a NATS client certificate and its key go together; only one of them is given")
        for path in (self.credentials_file, self.nkey_file, self.tls_ca, self.tls_certificate, self.tls_key):
            if path is not None:
                _check_readable(path)
        self.ssl_context()

    @property
    def wants_tls(self) -> bool:
        """A plain connection would be a mistake."""
        return any((self.tls_ca, self.tls_certificate)) or any(_parse(each).scheme == "tls" for each in self.servers)

    def ssl_context(self) -> ssl.SSLContext | None:
        """From the files as they are now; None when no TLS is asked for. Raises UsageError."""
        if not self.wants_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.tls_ca) if self.tls_ca else None)
            if self.tls_certificate:
                context.load_cert_chain(self.tls_certificate, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"NATS TLS files {self._tls_files()} do not load: {error}") from error
        return context

    def _tls_files(self) -> str:
        return ", ".join(str(path) for path in (self.tls_ca, self.tls_certificate, self.tls_key) if path)

    def identity(self) -> dict[str, str]:
        """Keyword arguments for nats-py's connect."""
        user, password, token = self._login()
        chosen = {
            "user_credentials": str(self.credentials_file or ""),
            "nkeys_seed": str(self.nkey_file or ""),
            "user": user,
            "password": password,
            "token": token,
        }
        return {name: value for name, value in chosen.items() if value}

    def _login(self) -> tuple[str, str, str]:
        for server in self.servers:
            url = _parse(server)
            if url.username and url.password is None:
                return "", "", unquote(url.username)
            if url.username:
                return unquote(url.username), unquote(url.password or ""), ""
        return self.user, self.password, self.token

    def addresses(self) -> list[str]:
        """The servers without user info: fit for logs, and for nats-py, which gets the identity apart."""
        return [_address(_parse(server)) for server in self.servers]


def _parse(server: str) -> SplitResult:
    """Raises UsageError, which does not repeat the text: it may hold a password."""
    try:
        url = urlsplit(server if "://" in server else f"nats://{server}")
        valid = url.scheme in _SCHEMES and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid or not server.isprintable() or " " in server:
        raise UsageError("a NATS server is not a nats://HOST:PORT or tls://HOST:PORT address")
    return url


def _address(url: SplitResult) -> str:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}:{url.port or 4222}"


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
