"""Merges the settings: flags over environment over file over defaults; every value knows its source."""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..native.errors import UsageError
from ..probes.paths import Paths
from ..probes.probe import Spec
from .config_file import GIVEN_TWICE, Entry, read_entries
from .settings import (
    ENVIRONMENT_PREFIX,
    ForensicsSettings,
    NatsSettings,
    ProbeSettings,
    RecorderSettings,
    RoutingSettings,
    Setting,
    Settings,
    Value,
    settings_of,
)

CONFIG_VARIABLE = "EAGLE_EYE_CONFIG"
# No setting: what `eagle-eye simulate run` gives its command, for the simulated libraries to read.
SIMULATION_VARIABLE = "EAGLE_EYE_SIMULATION"
# The plugin of an engine that shares the agent's environment has some of its own.
OF_PLUGIN = ("EAGLE_EYE_DISABLE", "EAGLE_EYE_NATS_CA")
NO_SETTINGS = (CONFIG_VARIABLE, SIMULATION_VARIABLE, *OF_PLUGIN)
MAX_PROBLEMS = 20
REMEDY = "`eagle-eye config` prints every setting with its value and source"

# Kubernetes and Docker links write these for a Service that happens to be called eagle-eye….
_SERVICE_LINK = re.compile(r"EAGLE_EYE_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+")
_UNITS = {"duration": "_ns", "size": "_bytes"}


class _Given(Struct, frozen=True):
    """A value as one layer has it; `name` is how a message calls it."""

    setting: Setting
    raw: Any
    name: str
    source: str


_Layer = Iterator["_Given | UsageError"]


def load(
    specs: Sequence[Spec],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    file: str | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Settings:
    """The merged settings. `flags` holds raw values by dotted key; `defaults` replaces defaults of the table.

    `file` falls back to EAGLE_EYE_CONFIG. Raises UsageError that tells all problems of all layers at once.
    """
    table = settings_of(specs)
    path = file or environment.get(CONFIG_VARIABLE)
    layers = (_flags(table, flags), _environment(table, environment), _file(table, path))
    problems: list[UsageError] = []
    values: dict[str, Value] = {}
    for layer in layers:
        problems += islice(_take(layer, values), MAX_PROBLEMS + 1)
    if not problems:
        values = {setting.key: values.get(setting.key) or _default(setting, defaults or {}) for setting in table}
        problems += _contradictions(values)
    if problems:
        raise _usage_error(problems)
    return _compose(specs, values)


def _take(layer: _Layer, values: dict[str, Value]) -> Iterator[UsageError]:
    """Puts what no higher layer has set into `values`; gives the problems."""
    for given in layer:
        if isinstance(given, UsageError):
            yield given
            continue
        try:
            value = given.setting.option.parse(given.raw, given.name)
        except UsageError as error:
            yield error
        else:
            values.setdefault(given.setting.key, Value(given.setting, value, given.source))


def _flags(table: Iterable[Setting], flags: Mapping[str, Any]) -> _Layer:
    for setting in table:
        if setting.key in flags:
            raw = flags[setting.key]
            flag = "--no-" + setting.flag[2:] if raw is False else setting.flag
            yield _Given(setting, raw, flag, f"flag {flag}")


def _environment(table: Iterable[Setting], environment: Mapping[str, str]) -> _Layer:
    known = {setting.environment: setting for setting in table}
    for name, raw in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NO_SETTINGS or not raw or _of_service(name, raw):
            continue
        if name in known:
            yield _Given(known[name], raw, name, f"environment {name}")
        else:
            yield UsageError(f"{_printable(name)}: unknown environment variable{_near(name, known)}")


def _of_service(name: str, raw: str) -> bool:
    if name.endswith("_PORT") and _SERVICE_URL.fullmatch(raw):
        return True
    return _SERVICE_LINK.fullmatch(name) is not None


def _file(table: Iterable[Setting], path: str | None) -> _Layer:
    if not path:
        return
    known = {setting.key: setting for setting in table}
    sections = frozenset(key[:at] for key in known for at, mark in enumerate(key) if mark == ".")
    try:
        for entry in read_entries(Path(path), sections):
            where = f"{_printable(path)}:{entry.line}: {_printable(entry.key)}"
            if entry.key not in known and entry.key not in sections:
                yield UsageError(f"{where}: unknown key{_near(entry.key, {*known, *sections})}")
            elif entry.fault:
                yield UsageError(f"{where}: {entry.fault}{_hint(entry, known)}")
            elif entry.raw is not None:
                yield _Given(known[entry.key], entry.raw, where, f"file {path}")
    except UsageError as error:
        yield error


def _hint(entry: Entry, known: Mapping[str, Setting]) -> str:
    if entry.fault == GIVEN_TWICE:
        return ""
    if entry.key in known:
        return f"; allowed is {known[entry.key].option.allowed()}"
    below = next(key for key in known if key.startswith(entry.key + "."))
    return f", with keys such as {below.removeprefix(entry.key + '.')}"


def _default(setting: Setting, defaults: Mapping[str, str]) -> Value:
    raw = defaults.get(setting.key, setting.option.default)
    if setting.key == "node":
        raw = socket.gethostname() or "localhost"
    return Value(setting, None if raw is None else setting.option.parse(raw, setting.key), "default")


def _contradictions(values: Mapping[str, Value]) -> Iterator[UsageError]:
    for one, other in (("nats.user", "nats.password_file"), ("nats.tls_cert", "nats.tls_key")):
        if (values[one].value is None) != (values[other].value is None):
            given, missing = (one, other) if values[one].value is not None else (other, one)
            yield UsageError(f"{given} ({values[given].source}) also needs {missing}")
    ways = ("nats.credentials", "nats.nkey", "nats.user", "nats.token_file")
    given_ways = [f"{key} ({values[key].source})" for key in ways if values[key].value is not None]
    if len(given_ways) > 1:
        yield UsageError("only one way to log in to NATS can be used: " + " or ".join(given_ways))


def _compose(specs: Sequence[Spec], values: Mapping[str, Value]) -> Settings:
    parts: dict[str, dict[str, Any]] = {"": {}, "nats": {}, "routing": {}, "recorder": {}, "forensics": {}, "paths": {}}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section in parts:
            parts[section][name + _UNITS.get(value.setting.option.kind, "")] = value.value
    return Settings(
        **parts[""],
        nats=NatsSettings(**parts["nats"]),
        routing=RoutingSettings(**parts["routing"]),
        recorder=RecorderSettings(**parts["recorder"]),
        forensics=ForensicsSettings(**parts["forensics"]),
        paths=Paths(**parts["paths"]),
        probes={spec.name: _probe(spec, values) for spec in specs},
        values=tuple(values.values()),
    )


def _probe(spec: Spec, values: Mapping[str, Value]) -> ProbeSettings:
    switch = values[f"probes.{spec.name}.enabled"]
    options = {option.name: values[f"probes.{spec.name}.{option.name}"].value for option in spec.options}
    return ProbeSettings(enabled=switch.value, asked=switch.value and switch.given, options=options)


def _usage_error(problems: list[UsageError]) -> UsageError:
    if len(problems) == 1:
        return UsageError(problems[0].message, remedy=problems[0].remedy or REMEDY)
    count = f"more than {MAX_PROBLEMS}" if len(problems) > MAX_PROBLEMS else str(len(problems))
    messages = (problem.message for problem in problems[:MAX_PROBLEMS])
    return UsageError("\n  ".join([f"{count} settings are wrong:", *messages]), remedy=REMEDY)


def _near(name: str, known: Iterable[str]) -> str:
    bare = {other.removeprefix(ENVIRONMENT_PREFIX): other for other in sorted(known)}
    near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX)[:80], bare, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(bare[match] for match in near)}?" if near else ""


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) <= 80 else repr(text[:80])
