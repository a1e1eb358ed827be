"""The command line. The only place that prints errors and picks exit codes."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from . import __version__
from .native.errors import EagleEyeError, UsageError
from .native.frugal import be_frugal

INTERRUPTED = 128 + signal.SIGINT


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "run": Command(".collector.commands.run", "watch this machine: agent, NATS server and live view in one"),
    "agent": Command(".collector.commands.agent", "the agent alone, as a service of a node"),
    "check": Command(".collector.commands.check", "what works here, what is missing and how to mend it"),
    "kmsg": Command(".collector.commands.kmsg", "faults that a kernel log tells of, and what to do about them"),
    "incidents": Command(".collector.commands.incidents", "what is wrong on this node, and the operator's word on it"),
    "forensics": Command(".collector.commands.forensics", "evidence frozen around faults: list, show, export, replay"),
    "explain": Command(".collector.commands.explain", "what a fault code means, and what to check and do"),
    "schema": Command(".collector.commands.schema", "JSON Schema of the messages on NATS"),
    "simulate": Command(".collector.commands.simulate", "accelerators that are not there, for any program"),
    "config": Command(".collector.commands.config", "every setting, its value and where it came from"),
}

SUMMARY = """\
Says within the same second why an inference node is slow or broken, and proves
it with evidence from the kernel.
exit status: 0 ok, 1 failure, 2 usage, 3 missing privilege or capability,
130 interrupted
"""

EXAMPLES = """\
  eagle-eye check                what works on this machine
  eagle-eye run                  all of it, live, on this terminal
  eagle-eye run -d 10 | grep process.exit
  eagle-eye agent --nats nats://nats.example:4222
"""


class Parser(argparse.ArgumentParser):
    """A parser whose help fits 80 columns and whose errors are the product's own."""

    def __init__(self, prog: str, description: str, examples: str = "", **options: Any) -> None:
        epilog = f"examples:\n{examples}" if examples else None
        super().__init__(
            prog, description=description, epilog=epilog, formatter_class=_help, allow_abbrev=False, **options
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message + self._near(message), remedy=f"{self.prog} --help")

    def _near(self, message: str) -> str:
        if not message.startswith("unrecognized arguments: -"):
            return ""
        unknown = message.split()[2].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=2)
        return f"; did you mean {' or '.join(near)}?" if near else ""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line; gives the exit code."""
    be_frugal()
    try:
        return _flushed(_dispatch(list(sys.argv[1:] if words is None else words)))
    except EagleEyeError as error:
        return _report(error)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        return _report(EagleEyeError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    try:
        if words and words[0] in COMMANDS:
            return _run(words[0], words[1:])
        return _front_page(words)
    except SystemExit as end:  # argparse has printed the help
        return int(end.code or 0)


def _run(name: str, words: list[str]) -> int:
    module = importlib.import_module(COMMANDS[name].module, __package__)
    parser = Parser(f"eagle-eye {name}", module.__doc__ or "", module.EXAMPLES, usage=f"%(prog)s {module.USAGE}")
    module.arguments(parser)
    code: int = module.run(parser.parse_args(words))
    return code


def _front_page(words: list[str]) -> int:
    parser = _contents()
    if parser.parse_args(words).version:
        _print_version()
        return 0
    parser.print_help()
    return UsageError.exit_code


def _contents() -> Parser:
    parser = Parser("eagle-eye", SUMMARY, EXAMPLES)
    parser.add_argument("-V", "--version", action="store_true", help="print versions of Eagle Eye, kernel, BTF, libbpf")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="eagle-eye")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, description="")
    return parser


def _help(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size().columns, 80) - 2
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=width)


def _print_version() -> None:
    from .collector.commands.version import facts

    sys.stdout.write(f"eagle-eye {__version__}\n")
    sys.stdout.writelines(f"{name} {value}\n" for name, value in facts().items())


def _flushed(code: int) -> int:
    sys.stdout.flush()
    return code


def _report(error: EagleEyeError) -> int:
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.write(f"eagle-eye: {_printable(error.message)}\n")
    if error.remedy:
        sys.stderr.write(f"  try: {_printable(error.remedy)}\n")
    return error.exit_code


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def _reader_gone() -> int:
    # Python flushes stdout once more on its way out and would complain then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EagleEyeError.exit_code


if __name__ == "__main__":
    sys.exit(main())
