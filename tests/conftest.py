"""Shared fixtures."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings

from eagle_eye.native.failures import CAP_SYS_ADMIN
from eagle_eye.probes.needs import NEEDS, effective_capabilities
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says more about the neighbours on this machine than about the code.
settings.register_profile("eagle_eye", deadline=None)
settings.load_profile("eagle_eye")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the files that golden tests compare with")


def pytest_report_header() -> str:
    """How long the product's files are."""
    floors = ("bpf", "native", "probes", "collector", "diagnosis")
    files = [
        path for floor in floors for path in (ROOT / floor).rglob("*.[pch]*") if path.suffix in (".py", ".c", ".h")
    ]
    lengths = {path: len(path.read_text().splitlines()) for path in files if not path.name.startswith("_")}
    longest = max(lengths, key=lengths.__getitem__)
    return (
        f"{len(lengths)} files of {sum(lengths.values())} lines, median {median(lengths.values()):.0f}, "
        f"longest {longest.relative_to(ROOT)} with {lengths[longest]}"
    )


@pytest.fixture
def context():
    """A probe context with real paths; `context(probe="x", paths=…, **options)` makes another."""

    def make(probe: str = "test", paths: Paths | None = None, **options: object) -> Context:
        source = EventSource(probe, node="node", cluster="cluster", boot_id="boot")
        return Context(paths=paths or Paths(), options=options, events=source)

    return make


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips, with the reason, what this machine or user cannot do."""
    if item.get_closest_marker("needs_bpf"):
        missing = [NEEDS[name].missing(Paths()) for name in ("btf", "cap_bpf", "cap_perfmon")]
        if any(missing):
            pytest.skip(next(filter(None, missing)))
    if item.get_closest_marker("needs_mounts") and not effective_capabilities(Paths()) >> CAP_SYS_ADMIN & 1:
        pytest.skip("this process lacks CAP_SYS_ADMIN, to mount file systems")


class Authority:
    """A certificate authority in a folder; `file` is its own certificate."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = self._sign(self._name, self._key, basic)
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, stem: str, *names: x509.GeneralName) -> tuple[Path, Path]:
        """Certificate and key files `<stem>.crt` and `<stem>.key`, for localhost and 127.0.0.1 without `names`."""
        local = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        signed = self._sign(subject, key, x509.SubjectAlternativeName(names or local))
        files = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path):
    """A certificate authority of this test; its files and those that it issues lie in tmp_path."""
    return Authority(tmp_path)
