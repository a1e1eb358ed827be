"""What the page says about the way to NATS, and how the settings become the publisher's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..native.errors import UsageError
from ..probes.probe import Metric, Series
from .exporter import Source
from .nats_options import NatsOptions
from .publisher import Publisher, PublisherStatistics
from .settings import NatsSettings, Settings

CONNECTED = Metric("eagle_eye_nats_connected", "gauge", "1 while the NATS server answers.")
CONNECTS = Metric("eagle_eye_nats_connects_total", "counter", "Connections to a NATS server made.")
ROUND_TRIP = Metric("eagle_eye_nats_round_trip_seconds", "gauge", "Last round trip to the NATS server.")
PRODUCED = Metric("eagle_eye_nats_events_produced_total", "counter", "Events handed over for JetStream.")
ACKED = Metric("eagle_eye_nats_events_acked_total", "counter", "Events that JetStream has stored.")
DUPLICATE = Metric(
    "eagle_eye_nats_events_duplicate_total", "counter", "Events that JetStream had already, and stored once."
)
QUEUED = Metric("eagle_eye_nats_events_queued", "gauge", "Events that wait to be stored.")
EVENTS_LOST = Metric(
    "eagle_eye_nats_events_dropped_total", "counter", "Events lost on the way, by reason.", ("reason",)
)
SPOOL_BYTES = Metric("eagle_eye_nats_spool_bytes", "gauge", "Disk space that waiting events take.")
PUBLISHED = Metric("eagle_eye_nats_snapshots_published_total", "counter", "Snapshots that the NATS server has read.")
LOST = Metric("eagle_eye_nats_snapshots_dropped_total", "counter", "Snapshots not sent, by reason.", ("reason",))

MAX_SECRET_BYTES = 4096

METRICS = (
    CONNECTED, CONNECTS, ROUND_TRIP, PRODUCED, ACKED, DUPLICATE, QUEUED, EVENTS_LOST, SPOOL_BYTES, PUBLISHED, LOST,
)  # fmt: skip


def make_publisher(settings: Settings, state_dir: Path) -> Publisher:
    """The publisher that `settings` ask for. Raises UsageError for what could never work."""
    return Publisher(
        nats_options(settings.nats),
        state_dir,
        node=settings.node,
        cluster=settings.cluster,
        encoding="msgpack" if settings.payload == "msgpack" else "json",
        spool_bytes=settings.spool_limit_bytes,
    )


def nats_options(settings: NatsSettings) -> NatsOptions:
    """Secrets are read from their files here, never from flags or the environment. Raises UsageError."""
    return NatsOptions(
        servers=tuple(url.strip() for url in (settings.url or "").split(",") if url.strip()),
        credentials_file=settings.credentials,
        nkey_file=settings.nkey,
        user=settings.user or "",
        password=_secret(settings.password_file, "password_file"),
        token=_secret(settings.token_file, "token_file"),
        tls_ca=settings.tls_ca,
        tls_certificate=settings.tls_cert,
        tls_key=settings.tls_key,
    )


def publisher_source(publisher: Publisher) -> Source:
    """The source of `publisher`'s own series."""
    return Source("publisher", METRICS, lambda: _series(publisher.statistics()))


def _series(now: PublisherStatistics) -> Iterator[Series]:
    connected = now.state == "connected"
    yield Series(CONNECTED, float(connected))
    yield Series(CONNECTS, now.connects)
    if connected:
        yield Series(ROUND_TRIP, now.rtt_s)
    yield Series(PRODUCED, now.events_produced)
    yield Series(ACKED, now.events_acked)
    yield Series(DUPLICATE, now.events_duplicate)
    yield Series(QUEUED, now.events_queued)
    yield Series(SPOOL_BYTES, now.spool_bytes)
    yield Series(PUBLISHED, now.lossy_published)
    for reason, count in now.events_dropped.items():
        yield Series(EVENTS_LOST, count, (reason,))
    for reason, count in now.lossy_dropped.items():
        yield Series(LOST, count, (reason,))


def _secret(path: Path | None, setting: str) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"nats.{setting}: {path} cannot be read: {reason}") from None
    if not secret or len(secret) > MAX_SECRET_BYTES:
        raise UsageError(f"nats.{setting}: {path} is {'longer than a secret' if secret else 'empty'}")
    return secret
