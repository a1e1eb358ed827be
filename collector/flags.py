"""The flags of the settings: one for every option, made from the same declaration as the file key."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ..native.errors import UsageError
from ..probes.options import Option
from ..probes.probe import Spec
from .config import load
from .settings import Setting, Settings, settings_of

_METAVARS = {
    "duration": "TIME",
    "size": "SIZE",
    "integer": "N",
    "boolean": "BOOL",
    "text": "TEXT",
    "path": "PATH",
    "choice": "WORD",
    "address": "HOST:PORT",
    "url": "URL",
}


def add_flags(
    parser: argparse.ArgumentParser,
    specs: Sequence[Spec],
    *,
    leave_out: Sequence[str] = (),
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Adds `--config` and a flag per setting, but for `leave_out`; `defaults` are shown instead of the table's."""
    general = parser.add_argument_group("settings")
    groups = {
        "nats": parser.add_argument_group("NATS"),
        "recorder": parser.add_argument_group("black box"),
        "forensics": parser.add_argument_group("forensics"),
        "paths": parser.add_argument_group("paths"),
        "probes": parser.add_argument_group("probes"),
    }
    general.add_argument("--config", metavar="FILE", help="YAML file of settings; also EAGLE_EYE_CONFIG")
    for setting in settings_of(specs):
        if setting.key not in leave_out:
            default = (defaults or {}).get(setting.key, setting.option.default)
            _add_flag(groups.get(setting.key.partition(".")[0], general), setting, default)


def settings_from(
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    specs: Sequence[Spec],
    *,
    defaults: Mapping[str, str] | None = None,
) -> Settings:
    """The merged settings of a parsed command line. Raises UsageError with every problem of every layer."""
    flags = {key: raw for key, raw in vars(arguments).items() if raw is not None}
    return load(specs, flags, environment, file=arguments.config, defaults=defaults)


def parse_option(option: Option, flag: str) -> Any:
    """An argparse `type` that reads one value as `option` does, for a flag that is not a setting."""

    def parse(raw: str) -> Any:
        try:
            return option.parse(raw, flag)
        except UsageError as error:
            raise argparse.ArgumentTypeError(error.message.removeprefix(f"{flag}: ")) from None

    return parse


def _add_flag(group: argparse._ArgumentGroup, setting: Setting, default: Any) -> None:
    text = setting.option.help.rstrip(".")
    if setting.switch:
        state = "on" if default in (True, "true") else "off"
        text, action = f"{text} (default {state})", argparse.BooleanOptionalAction
        group.add_argument(setting.flag, dest=setting.key, default=None, action=action, help=_escaped(text))
        return
    if setting.option.choices:
        text += ": " + ", ".join(setting.option.choices)
    if default is not None:
        text += f" (default {default})"
    metavar = _METAVARS[setting.option.kind]
    group.add_argument(setting.flag, dest=setting.key, default=None, metavar=metavar, help=_escaped(text))


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
