"""Prints every setting, its value and where the value came from.

Flags win over the environment (EAGLE_EYE_...), the environment over the file
(--config, YAML), the file over the defaults. An empty environment variable and
an empty value in the file count as not given. Passwords are masked.
"""

from __future__ import annotations

import argparse
import os
import sys

import msgspec

from ...probes.registry import PROBES
from ..flags import add_flags, settings_from
from ..settings import Value

USAGE = "[-j] [SETTINGS]"
EXAMPLES = """\
  eagle-eye config                          all settings of this machine
  eagle-eye config --config node.yaml       what a file would change
  eagle-eye config -j | grep sched          one JSON object per line
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--json", action="store_true", help="one JSON object per line")
    add_flags(parser, PROBES)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, os.environ, PROBES)
    if arguments.json:
        lines = [_json(value) for value in settings.values]
    else:
        lines = _columns([(value.setting.key, value.show() or "-", value.source) for value in settings.values])
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _json(value: Value) -> str:
    setting = value.setting
    row = {
        "key": setting.key,
        "value": None if value.value is None else value.show(),
        "source": value.source,
        "flag": setting.flag,
        "environment": setting.environment,
        "allowed": setting.option.allowed(),
        "help": setting.option.help,
    }
    return msgspec.json.encode(row).decode()


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{key:{widths[0]}}  {value:{min(widths[1], 30)}}  {source}" for key, value, source in rows]
