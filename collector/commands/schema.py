"""Prints the JSON Schema of what is published over NATS; without NAME, the list."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from ...native.errors import UsageError
from ...probes import model

DIALECT = "https://json-schema.org/draft/2020-12/schema"
USAGE = "[NAME]"
EXAMPLES = """\
  eagle-eye schema                      every name, with one line each
  eagle-eye schema Snapshot             what ...<node>.snapshot carries
  eagle-eye schema Event > event.json   for a validator
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a type, such as Snapshot or Event")


def run(arguments: argparse.Namespace) -> int:
    sys.stdout.write(_listing() if arguments.name is None else _schema(arguments.name))
    return 0


def schema_of(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of the type called `name`, whatever its case. Raises UsageError when there is none."""
    found = next((known for known in model.type_names if known.lower() == name.lower()), None)
    if found is None:
        raise UsageError(f"no type is called {name!r}", remedy=f"one of {', '.join(model.type_names)}")
    return {"$schema": DIALECT, **msgspec.json.schema(getattr(model, found))}


def _schema(name: str) -> str:
    return msgspec.json.format(msgspec.json.encode(schema_of(name)), indent=2).decode() + "\n"


def _listing() -> str:
    width = max(map(len, model.type_names))
    return "".join(f"{name:{width}}  {_first_sentence(getattr(model, name))}\n" for name in model.type_names)


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").split("\n")[0].partition(". ")[0].rstrip(".") + "."
