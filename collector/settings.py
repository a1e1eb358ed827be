"""What can be set: every setting is one `Option`; flag, environment name, file key and docs follow from it.

A field of the structs below is named as its option, with the unit added: `interval` is `interval_ns`,
`spool_limit` is `spool_limit_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..probes.options import Option
from ..probes.paths import Paths
from ..probes.probe import Spec

ENVIRONMENT_PREFIX = "EAGLE_EYE_"

OPTIONS: tuple[Option, ...] = (
    Option("interval", "duration", "500ms", "time between two snapshots", minimum="50ms", maximum="60s"),
    Option("cluster", "text", "default", "name of the cluster, a part of every NATS subject"),
    Option("node", "text", None, "name of this node; its host name when not given"),
    Option("listen", "address", "127.0.0.1:9750", "where /metrics, /healthz and /readyz are served"),
    Option("web_config", "path", None, "TLS and basic authentication of that server, in exporter-toolkit format"),
    Option("state_dir", "path", None, "folder for the event spool and the embedded NATS server"),
    Option("spool_limit", "size", "64MiB", "most disk space for events while NATS is away", minimum="1MiB"),
    Option(
        "simulate",
        "text",
        None,
        "simulated devices (h100x8), engines (vllm) or both (h100x8+vllm)",
    ),
    Option("payload", "choice", "json", "encoding of NATS messages", choices=("json", "msgpack")),
    Option("log_level", "choice", "info", "least severe log line", choices=("debug", "info", "warning", "error")),
    Option(
        "log_format", "choice", "auto", "auto is logfmt on a terminal, else json", choices=("auto", "logfmt", "json")
    ),
    Option("nats.url", "url", None, "NATS server, or several joined by commas"),
    Option("nats.port", "integer", 4222, "port of the embedded NATS server, 0: a free one", minimum=0, maximum=65535),
    Option("nats.credentials", "path", None, "credentials file (JWT and seed)"),
    Option("nats.nkey", "path", None, "file with the nkey seed"),
    Option("nats.user", "text", None, "user name, together with nats.password_file"),
    Option("nats.password_file", "path", None, "file with the password"),
    Option("nats.token_file", "path", None, "file with the token"),
    Option("nats.tls_ca", "path", None, "certificates that prove the server"),
    Option("nats.tls_cert", "path", None, "certificate of this client, together with nats.tls_key"),
    Option("nats.tls_key", "path", None, "private key of this client"),
    Option("recorder.enabled", "boolean", True, "keep a black box of what was seen, in STATE_DIR/recorder"),
    Option("recorder.limit", "size", "256MiB", "most disk space for the black box", minimum="8MiB"),
    Option("recorder.keep", "duration", "24h", "how long the black box looks back", minimum="1m"),
    Option(
        "recorder.pstore_archive", "path", "/var/lib/systemd/pstore", "where kernel logs saved by a crash are moved to"
    ),
    Option("routing.enabled", "boolean", True, "tell routers of every engine on this node"),
    Option("routing.subject", "text", "eagle_eye.routing_metrics", "where they are told, a NATS subject"),
    Option("routing.aggregate", "boolean", True, "all engines on that subject"),
    Option("routing.per_engine", "boolean", True, "each engine also on SUBJECT.<node>.<instance>"),
    Option("routing.last_values", "boolean", True, "keep the last message of each in the bucket EAGLE_EYE_ROUTING"),
    Option(
        "routing.floor",
        "duration",
        "10ms",
        "least time between two messages of an engine, edges excepted",
        minimum="1ms",
        maximum="50ms",
    ),
    Option(
        "routing.max_silence",
        "duration",
        "1s",
        "longest time without a message of an engine, as routers are promised",
        minimum="200ms",
        maximum="60s",
    ),
    Option("forensics.enabled", "boolean", True, "freeze evidence around faults, in STATE_DIR/forensics"),
    Option(
        "forensics.severity",
        "choice",
        "error",
        "least severe incident that is a reason to",
        choices=("warning", "error", "fatal"),
    ),
    Option(
        "forensics.families", "text", None, "families of faults that are, by their beginnings and joined by commas; all"
    ),
    Option("forensics.before", "duration", "60s", "how much from before the moment is kept", "1s", "30m"),
    Option("forensics.after", "duration", "10s", "how much from after it", "0s", "5m"),
    Option("forensics.bundles", "integer", 20, "most bundles; the oldest goes first", 1, 1000),
    Option("forensics.limit", "size", "128MiB", "most disk space for bundles", minimum="16MiB"),
    Option("forensics.cool_down", "duration", "10m", "time in which one cause is no reason again", "0s", "24h"),
    Option("forensics.per_hour", "integer", 6, "most bundles in an hour", 1, 1000),
    Option("paths.proc", "path", "/proc", "where the node's /proc is seen"),
    Option("paths.sys", "path", "/sys", "where the node's /sys is seen"),
    Option("paths.dev", "path", "/dev", "where the node's /dev is seen"),
)

# `--nats URL` and `--no-recorder` are what people type; all other flags follow from the name.
_FLAGS = {
    "nats.url": "--nats",
    "routing.enabled": "--routing",
    "recorder.enabled": "--recorder",
    "forensics.enabled": "--forensics",
}


class Setting(Struct, frozen=True):
    """An option with its names in the three layers; `key` is the dotted path in the file."""

    key: str
    flag: str
    environment: str
    option: Option

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value and has a `--no-` twin."""
        return self.option.kind == "boolean"


class Value(Struct, frozen=True):
    """A setting's value and where it came from: `flag --x`, `environment X`, `file PATH` or `default`."""

    setting: Setting
    value: Any
    source: str

    @property
    def given(self) -> bool:
        return self.source != "default"

    def show(self) -> str:
        return self.setting.option.show(self.value)


class NatsSettings(Struct, frozen=True):
    """How to reach NATS. `url` None asks `run` for an embedded server on `port`."""

    url: str | None = None
    port: int = 4222
    credentials: Path | None = None
    nkey: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


class RecorderSettings(Struct, frozen=True):
    """The black box. `keep_ns` is nanoseconds."""

    enabled: bool = True
    limit_bytes: int = 256 * 2**20
    keep_ns: int = 86_400 * 10**9
    pstore_archive: Path = Path("/var/lib/systemd/pstore")


class RoutingSettings(Struct, frozen=True):
    """The feed for routers; `enabled` False sends nothing."""

    enabled: bool = True
    subject: str = "eagle_eye.routing_metrics"
    aggregate: bool = True
    per_engine: bool = True
    last_values: bool = True
    floor_ns: int = 10_000_000
    max_silence_ns: int = 1_000_000_000


class ForensicsSettings(Struct, frozen=True):
    """When evidence is frozen, and how much."""

    enabled: bool = True
    severity: str = "error"
    families: str | None = None
    before_ns: int = 60 * 10**9
    after_ns: int = 10 * 10**9
    bundles: int = 20
    limit_bytes: int = 128 * 2**20
    cool_down_ns: int = 600 * 10**9
    per_hour: int = 6


class ProbeSettings(Struct, frozen=True):
    """`asked` says that the user named this probe; then it must work. `options` holds parsed values by name."""

    enabled: bool
    asked: bool = False
    options: Mapping[str, Any] = {}


class Settings(Struct, frozen=True):
    """Everything that was set, merged. `values` tells where each value came from, in the order of the tables."""

    interval_ns: int
    cluster: str
    node: str
    listen: tuple[str, int]
    spool_limit_bytes: int
    payload: str
    log_level: str
    log_format: str
    nats: NatsSettings
    routing: RoutingSettings
    recorder: RecorderSettings
    forensics: ForensicsSettings
    paths: Paths
    probes: Mapping[str, ProbeSettings]
    web_config: Path | None = None
    state_dir: Path | None = None
    simulate: str | None = None
    values: tuple[Value, ...] = ()


def settings_of(specs: Sequence[Spec]) -> tuple[Setting, ...]:
    """Every setting there is: the node's own, then each probe's switch and options."""
    settings = [*map(_of_agent, OPTIONS)]
    for spec in specs:
        settings.append(_of_probe(spec, "enabled", Option("enabled", "boolean", spec.default_on, spec.help)))
        settings += [_of_probe(spec, option.name, option) for option in spec.options]
    return tuple(settings)


def _of_agent(option: Option) -> Setting:
    return Setting(
        key=option.name,
        flag=_FLAGS.get(option.name, "--" + _joined(option.name, "-")),
        environment=ENVIRONMENT_PREFIX + _joined(option.name, "_").upper(),
        option=option,
    )


def _of_probe(spec: Spec, name: str, option: Option) -> Setting:
    short = spec.name if name == "enabled" else f"{spec.name}.{name}"
    return Setting(
        key=f"probes.{spec.name}.{name}",
        flag="--" + _joined(short, "-"),
        environment=ENVIRONMENT_PREFIX + _joined(short, "_").upper(),
        option=option,
    )


def _joined(name: str, mark: str) -> str:
    return name.replace(".", mark).replace("_", mark)
