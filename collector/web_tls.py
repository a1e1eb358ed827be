"""Makes the server's TLS context from a web configuration."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..native.errors import UsageError
from .web_config import TlsServerConfig

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_CLIENT_POLICIES = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_SAN_KINDS = {"DNS", "email", "IP Address", "URI"}


def tls_files(config: TlsServerConfig, folder: Path) -> list[Path]:
    """The files that the configuration names, where they really are."""
    return [folder / name for name in (config.cert_file, config.key_file, config.client_ca_file) if name]


def make_tls_context(config: TlsServerConfig, folder: Path) -> ssl.SSLContext | None:
    """None when TLS is not configured. Raises UsageError naming the file that cannot be used."""
    if not config.enabled:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    context.maximum_version = _VERSIONS[config.max_version]
    # A renegotiation costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not config.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _limit_ciphers(context, config)
    _load_certificate(context, config, folder)
    _ask_for_client(context, config, folder)
    return context


def is_allowed_client(config: TlsServerConfig, certificate: Mapping[str, Any] | None) -> bool:
    """Whether a verified client certificate, as `getpeercert` gives it, has one of `client_allowed_sans`."""
    if not config.client_allowed_sans:
        return True
    allowed = {_canonical(name) for name in config.client_allowed_sans}
    names = (certificate or {}).get("subjectAltName", ())
    return any(kind in _SAN_KINDS and _canonical(name) in allowed for kind, name in names)


def _canonical(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name


def _limit_ciphers(context: ssl.SSLContext, config: TlsServerConfig) -> None:
    below_13 = [_openssl_name(cipher) for cipher in config.cipher_suites if "_WITH_" in cipher]
    if below_13:
        context.set_ciphers(":".join(below_13))
    for curve in config.curve_preferences:
        context.set_ecdh_curve(_CURVES[curve])


def _openssl_name(cipher: str) -> str:
    """TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 is ECDHE-RSA-AES128-GCM-SHA256 there (openssl-ciphers(1))."""
    exchange, _, rest = cipher.removeprefix("TLS_").partition("_WITH_")
    rest = rest.replace("AES_", "AES").replace("_CBC_SHA", "_SHA").replace("POLY1305_SHA256", "POLY1305")
    return f"{exchange}_{rest}".replace("_", "-")


def _load_certificate(context: ssl.SSLContext, config: TlsServerConfig, folder: Path) -> None:
    with (
        _as_file(config.cert, config.cert_file, folder, "cert") as cert,
        _as_file(config.key, config.key_file, folder, "key") as key,
    ):
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            names = f"{config.cert_file or 'cert'} with {config.key_file or 'key'}"
            raise UsageError(f"tls_server_config: {names} cannot be used: {_reason(error)}") from None


def _ask_for_client(context: ssl.SSLContext, config: TlsServerConfig, folder: Path) -> None:
    context.verify_mode = _CLIENT_POLICIES[config.client_auth_type]
    if config.client_auth_type == "NoClientCert":
        return
    if not config.client_ca and not config.client_ca_file:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    with _as_file(config.client_ca, config.client_ca_file, folder, "client_ca") as authority:
        try:
            context.load_verify_locations(authority)
        except (ssl.SSLError, OSError) as error:
            name = config.client_ca_file or "client_ca"
            raise UsageError(f"tls_server_config: {name} cannot be used: {_reason(error)}") from None


@contextmanager
def _as_file(content: str, name: str, folder: Path, key: str) -> Iterator[str]:
    """A file name for either form of a key; inline content never reaches a disk."""
    if name:
        _refuse_unreadable(folder / name, f"tls_server_config.{key}_file")
        yield str(folder / name)
        return
    fd = os.memfd_create(key)
    try:
        os.write(fd, content.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _refuse_unreadable(path: Path, key: str) -> None:
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise UsageError(f"{key}: {path}: {getattr(error, 'strerror', None) or error}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return getattr(error, "strerror", None) or "no certificate or key in PEM form, or the key needs a password"
