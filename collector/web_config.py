"""The web configuration file of the Prometheus exporters: TLS, basic authentication, headers, rate limit.

Format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. Stricter in
this: TLS 1.2 at least, no client policy that accepts unverified certificates, and a certificate without
a key (or the reverse) is refused.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, Struct, field

from ..native.errors import UsageError
from ..probes.options import Option

MAX_BYTES = 64 * 1024

Section = TypeVar("Section", bound=Struct)
TlsVersion = Literal["TLS12", "TLS13"]
ClientAuth = Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]
# The names of Go's tls.CipherSuites(); those of TLS 1.3 are lawful but always on.
Cipher = Literal[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
]
HeaderValue = Annotated[str, Meta(pattern=r"^[\x20-\x7e]*$", max_length=4096)]
# bcrypt's own form; above 2^16 rounds one check takes seconds.
BcryptHash = Annotated[str, Meta(pattern=r"^\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}$")]

_WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number of at least 1",
    HeaderValue: "printable ASCII text",
    BcryptHash: 'a bcrypt hash of cost 4 to 16, as `htpasswd -nBC 10 ""` prints it',
}
_SECRET_KEYS = ("key", "basic_auth_users")
_INTERVAL = Option("interval", "duration", "0s", "time between two requests", minimum="0s", maximum="1h")


class TlsServerConfig(Struct, frozen=True):
    """`tls_server_config`; file names are as written, relative to the configuration file."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: TlsVersion = "TLS12"
    max_version: TlsVersion = "TLS13"
    cipher_suites: tuple[Cipher, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Curve, ...] = ()

    @property
    def enabled(self) -> bool:
        return self != TlsServerConfig()


class Headers(Struct, frozen=True):
    """`http_server_config.headers`: those that the toolkit allows; empty ones are not sent."""

    strict_transport_security: HeaderValue = field(default="", name="Strict-Transport-Security")
    x_content_type_options: Literal["", "nosniff"] = field(default="", name="X-Content-Type-Options")
    x_frame_options: Literal["", "deny", "sameorigin"] = field(default="", name="X-Frame-Options")
    x_xss_protection: HeaderValue = field(default="", name="X-XSS-Protection")
    content_security_policy: HeaderValue = field(default="", name="Content-Security-Policy")

    def items(self) -> dict[str, str]:
        return {name: value for name, value in msgspec.to_builtins(self).items() if value}


class HttpServerConfig(Struct, frozen=True):
    """`http_server_config`; HTTP/2 is never offered, whatever `http2` says, and clients then use 1.1."""

    http2: bool = True
    headers: Headers = Headers()


class RateLimit(Struct, frozen=True):
    """`rate_limit`: one request per interval on average, `burst` at once; an interval of 0 is no limit."""

    interval: str = "0s"
    burst: Annotated[int, Meta(ge=1)] = 1

    @property
    def interval_ns(self) -> int:
        return int(_INTERVAL.parse(self.interval, "rate_limit.interval"))


class WebConfig(Struct, frozen=True):
    """The whole file."""

    tls_server_config: TlsServerConfig = TlsServerConfig()
    http_server_config: HttpServerConfig = HttpServerConfig()
    basic_auth_users: dict[str, BcryptHash] = {}
    rate_limit: RateLimit = RateLimit()


def read_web_config(path: Path) -> WebConfig:
    """Raises UsageError naming the file, the key, the value and what is allowed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: {reason}", remedy="name a readable file with --web-config") from None
    try:
        return parse_web_config(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}") from None


def parse_web_config(content: bytes) -> WebConfig:
    """The checked content of a file. Raises UsageError naming the key, the value and what is allowed."""
    if len(content) > MAX_BYTES:
        raise UsageError(f"larger than {MAX_BYTES} bytes")
    try:
        raw = yaml.load(content, Loader=_Loader)  # noqa: S506 - BaseLoader makes text, lists and mappings only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"not plain YAML: {_yaml_problem(error)}") from None
    config = _section(WebConfig, raw, "")
    _refuse_contradictions(config)
    return config


def _yaml_problem(error: Exception) -> str:
    """What and where, without the lines that PyYAML quotes: they may be a key."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


class _Loader(yaml.BaseLoader):
    """Leaves every scalar text, as written; a user called `no` keeps the name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or len(names) != len(node.value):
            problem = "a key that is not text" if twice is None else f"{twice[:80]!r} is there twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _section(kind: type[Section], raw: Any, key: str) -> Section:
    """A mapping as `kind`; empty values keep the default, as the toolkit has it."""
    if raw in (None, ""):
        return kind()
    if not isinstance(raw, dict):
        raise UsageError(f"{key or 'the file'}: {reprlib.repr(raw)} is not allowed; allowed is a mapping of keys")
    known = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    values = {}
    for name, value in raw.items():
        where = f"{key}.{name}" if key else name
        if name not in known:
            raise UsageError(f"{where[:200]!r} is not a known key; allowed are {', '.join(known)}")
        if value != "":
            values[known[name].name] = _value(known[name].type, value, where)
    return kind(**values)


def _value(kind: Any, raw: Any, key: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _section(kind, raw, key)
    if get_origin(kind) is dict:
        return _users(get_args(kind)[1], raw, key)
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError:
        shown = "the value (hidden)" if key.rpartition(".")[2] in _SECRET_KEYS else reprlib.repr(raw)
        raise UsageError(f"{key}: {shown} is not allowed; allowed is {_allowed(kind)}") from None


def _users(kind: Any, raw: Any, key: str) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise UsageError(f"{key}: the value (hidden) is not allowed; allowed is a mapping of names to bcrypt hashes")
    for user, value in raw.items():
        if not user or ":" in user:
            raise UsageError(f"{key}: {reprlib.repr(user)} is not a user name; allowed is text without a colon")
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            allowed = _allowed(kind)
            raise UsageError(f"{key}.{user[:200]}: the value (hidden) is not allowed; allowed is {allowed}") from None
    return dict(raw)


def _allowed(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(word or '""' for word in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list; each entry " + _allowed(get_args(kind)[0])
    return _WORDS[get_args(kind)[0] if get_origin(kind) is Annotated else get_origin(kind)]


def _refuse_contradictions(config: WebConfig) -> None:
    for problem in _tls_contradictions(config.tls_server_config):
        raise UsageError(f"tls_server_config: {problem}")
    interval = config.rate_limit.interval
    # Other exporters read a bare number as nanoseconds, our settings read it as seconds.
    if interval.isdigit() and interval.strip("0"):
        raise UsageError("rate_limit.interval: a unit is needed, such as 1s or 100ms")
    config.rate_limit.interval_ns  # noqa: B018 - raises for a value that is no duration


def _tls_contradictions(tls: TlsServerConfig) -> Iterator[str]:
    for inline, file in (("cert", "cert_file"), ("key", "key_file"), ("client_ca", "client_ca_file")):
        if getattr(tls, inline) and getattr(tls, file):
            yield f"{inline} and {file} exclude each other"
        if inline != "client_ca" and tls.enabled and not (getattr(tls, inline) or getattr(tls, file)):
            yield f"one of {file} and {inline} is needed"
    if (tls.client_ca or tls.client_ca_file) and tls.client_auth_type == "NoClientCert":
        yield "a client CA needs client_auth_type, such as RequireAndVerifyClientCert"
    if tls.client_allowed_sans and tls.client_auth_type != "RequireAndVerifyClientCert":
        yield "client_allowed_sans needs client_auth_type RequireAndVerifyClientCert"
    if tls.min_version > tls.max_version:
        yield f"min_version {tls.min_version} is above max_version {tls.max_version}"
    if len(tls.curve_preferences) > 1:
        yield "curve_preferences: this server can hold to one curve only; name one"
