"""What a fault code means, what to check and what to do, by family and code.

Without CODE the codes of FAMILY, without FAMILY the families. The meaning of
some Xids depends on the driver: --driver says which.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ...native.errors import UsageError
from ...probes.catalogue.lookup import FAMILIES, Entry, codes, look_up
from ...probes.catalogue.nvidia import recovery_actions
from ...probes.catalogue.scale import in_words
from ...probes.decode.family import Decoded
from ..view.words import clean

USAGE = "[FAMILY [CODE]] [--driver VERSION] [-j]"
EXAMPLES = """\
  eagle-eye explain                                  the families
  eagle-eye explain nvidia.xid                       their codes
  eagle-eye explain nvidia.xid 79                    one of them
  eagle-eye explain xid 144 --driver 550.54.15       as that driver means it
  eagle-eye explain ascend.event 0x80E01801 -j       as one JSON object
"""
_INDENT = 12


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "family", nargs="?", metavar="FAMILY", help="as in a fault, such as nvidia.xid, or its last word"
    )
    parser.add_argument("code", nargs="?", metavar="CODE", help="a number or name, such as 79")
    parser.add_argument("--driver", metavar="VERSION", default="", help="version of NVIDIA's driver, such as 570.86.15")
    parser.add_argument("-j", "--json", action="store_true", help="one JSON object per line")


def run(arguments: argparse.Namespace) -> int:
    if arguments.family is None:
        return _print(({"family": name, "codes": len(list(codes(name)))} for name in FAMILIES), arguments.json)
    family = _family(arguments.family)
    if arguments.code is None:
        rows = ({"family": family, "code": code, "mnemonic": name} for code, name in codes(family))
        return _print(rows, arguments.json)
    return _explain(family, _code(family, arguments.code), arguments.driver, arguments.json)


def _family(name: str) -> str:
    """The family that is meant: by its name or by its last word. Raises UsageError when there is none."""
    wanted = name.lower()
    if wanted in FAMILIES or (wanted.startswith("nic.") and wanted != "nic."):
        return wanted
    ending = [known for known in FAMILIES if known.endswith(f".{wanted}")]
    if len(ending) == 1:
        return ending[0]
    near = difflib.get_close_matches(wanted, FAMILIES, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(f"no family is called {clean(name)!r}{hint}", remedy="eagle-eye explain")


def _code(family: str, code: str) -> str:
    """As the table writes it, whatever its case."""
    return next((known for known, _ in codes(family) if known.lower() == code.lower()), code)


def _print(rows: Iterable[Mapping[str, object]], as_json: bool) -> int:
    for row in rows:
        line = msgspec.json.encode(row).decode() if as_json else "  ".join(f"{value!s:<24}" for value in _shown(row))
        sys.stdout.write(f"{line.rstrip()}\n")
    return 0


def _shown(row: Mapping[str, object]) -> list[object]:
    return [value for name, value in row.items() if name != "family" or "code" not in row]


def _explain(family: str, code: str, driver: str, as_json: bool) -> int:
    entry = look_up(Decoded(family, code), driver)
    if entry is None:
        raise UsageError(f"{clean(code)!r} is no code", remedy=f"eagle-eye explain {family}")
    if as_json:
        told = {"family": family, "code": code, "driver": driver, **msgspec.to_builtins(entry)}
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    else:
        sys.stdout.write("\n".join(_lines(family, code, entry)) + "\n")
    return 0 if entry.known else 1


def _lines(family: str, code: str, entry: Entry) -> Iterator[str]:
    yield f"{family} {clean(code)}  {entry.mnemonic}".rstrip()
    told = {
        "severity": entry.severity,
        "action": f"{in_words(entry.action)}{f' (its maker: {entry.bucket})' if entry.bucket else ''}",
        "meaning": entry.meaning,
        "cause": entry.cause,
        "check": entry.check,
        "caused by": _codes(entry.caused_by),
        "victims": _codes(entry.victims),
        "source": f"{entry.source}, {entry.dated}",
    }
    for name, text in told.items():
        if text:
            yield from _wrapped(f"  {name:<{_INDENT - 2}}", clean(text))
    if (family, code) == ("nvidia.xid", "154"):
        for number, action in recovery_actions():
            said = f"{action.mnemonic}: {action.meaning} Action: {in_words(action.action)}."
            yield from _wrapped(f"  to {number:<{_INDENT - 5}}", said)


def _codes(written: tuple[str, ...]) -> str:
    """`nvidia.xid 43 45, pcie.aer SDES`."""
    families: dict[str, list[str]] = {}
    for one in written:
        family, _, code = one.partition(":")
        families.setdefault(family, []).append(code)
    return ", ".join(f"{family} {' '.join(found)}" for family, found in families.items())


def _wrapped(head: str, text: str) -> list[str]:
    if not sys.stdout.isatty():
        return [head + text]
    width = max(40, min(shutil.get_terminal_size().columns, 100))
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * _INDENT, break_on_hyphens=False)
