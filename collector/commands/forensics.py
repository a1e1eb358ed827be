"""Evidence frozen around faults: shown, exported, and judged anew.

A bundle is named by its id, a part of it that begins or ends no other, `last`,
or the path of an exported archive. `show` prints the timeline, times in
seconds from the trigger; `replay` decodes the bundle's kernel records again
with today's rules: exit status 0 when they say the same, 1 when they differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...native.errors import EagleEyeError, UsageError
from ...probes.options import Option
from ...probes.paths import Paths
from ..flags import parse_option
from ..forensics import archive, shelf
from ..forensics.bundle import Bundle, Trigger, bundle_folders, find, load_folder
from ..forensics.order import Order, Result
from ..forensics.replay import Difference, replay
from ..forensics.report import shown
from ..forensics.timeline import Entry, timeline
from ..forensics.writer import write
from ..recorder.reading import last_moment
from ..settings import Settings
from ..state_lock import StateLock
from ..view.words import clean, size

STATE_DIR = "/var/lib/eagle-eye"
SPAN = Option("span", "duration", None, "")
REQUEST_DEADLINE_S = 420.0
USAGE = "list|show|export|replay|freeze …"
EXAMPLES = """\
  eagle-eye forensics list
  eagle-eye forensics show last --since 10s   from 10 s before the trigger
  eagle-eye forensics export last -o node7.tar.zst
  eagle-eye forensics replay node7.tar.zst    what today's rules say
  eagle-eye forensics freeze --reason "slow since noon"
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command", prog="eagle-eye forensics"
    )
    _add(commands, "list", "bundles, oldest first", named=False)
    one = _add(commands, "show", "the timeline of a bundle")
    span = parse_option(SPAN, "--since")
    one.add_argument("--since", type=span, metavar="TIME", help="from so long before the trigger")
    one.add_argument("--until", type=span, metavar="TIME", help="to so long after the trigger")
    one = _add(commands, "export", "write a bundle as one file", json=False)
    one.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="such as bundle.tar.zst")
    one.add_argument("--force", action="store_true", help="replace FILE")
    _add(commands, "replay", "judge a bundle by today's rules")
    one = _add(commands, "freeze", "freeze a bundle now", named=False, json=False)
    one.add_argument("--reason", default="by hand", metavar="TEXT", help="why, in a few words")
    one.add_argument("-p", "--pid", action="append", type=int, default=[], metavar="PID", help="also of this process")


def _add(commands: Any, name: str, text: str, *, named: bool = True, json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    if named:
        parser.add_argument("bundle", metavar="BUNDLE", help="id or part of it, `last`, or the path of an archive")
    if json:
        parser.add_argument("-j", "--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--state-dir", metavar="PATH", help=f"of the agent (default {STATE_DIR})")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; also EAGLE_EYE_CONFIG")
    return parser


def run(arguments: argparse.Namespace) -> int:
    state_dir = Path(arguments.state_dir) if arguments.state_dir else _settings(arguments).state_dir
    assert state_dir is not None
    return _COMMANDS[arguments.command](arguments, state_dir)


def _settings(arguments: argparse.Namespace) -> Settings:
    # Costs most of a second, which only those pay who do not name the folder.
    from ...probes.registry import PROBES
    from ..config import load

    return load(PROBES, {}, os.environ, file=arguments.config, defaults={"state_dir": STATE_DIR})


def _load(name: str, state_dir: Path) -> Bundle:
    path = Path(name)
    if path.is_file() or ("/" in name and path.is_dir()):
        return archive.load(path)
    return load_folder(find(state_dir / "forensics", name))


def _print(lines: Sequence[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _list(arguments: argparse.Namespace, state_dir: Path) -> int:
    for folder in bundle_folders(state_dir / "forensics"):
        try:
            bundle = load_folder(folder)
        except EagleEyeError as error:
            sys.stderr.write(f"eagle-eye: {error.message}\n")
            continue
        manifest = bundle.manifest
        if arguments.json:
            _print([_json({"size_bytes": bundle.size_bytes, **msgspec.to_builtins(manifest)})])
        else:
            mark = "  (simulated)" if manifest.simulated else ""
            severity, reason = manifest.trigger.severity, clean(manifest.trigger.reason)
            _print([f"{manifest.id:<44} {severity:<7} {size(bundle.size_bytes):>9}  {reason}{mark}"])
    return 0


def _show(arguments: argparse.Namespace, state_dir: Path) -> int:
    bundle = _load(arguments.bundle, state_dir)
    at_ns = bundle.manifest.at_ns
    first = None if arguments.since is None else at_ns - arguments.since
    last = None if arguments.until is None else at_ns + arguments.until
    entries = [one for one in timeline(bundle) if _within(one, first, last)]
    if arguments.json:
        _print([_json({"seconds": round((one.at_ns - at_ns) / 1e9, 9), **msgspec.to_builtins(one)}) for one in entries])
    else:
        _print([*_head(bundle), "", *(shown(one, at_ns) for one in entries)])
    return 0


def _within(entry: Entry, first: int | None, last: int | None) -> bool:
    return (first is None or entry.at_ns >= first) and (last is None or entry.at_ns <= last)


def _head(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime((manifest.at_ns + manifest.wall_offset_ns) / 1e9))
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.counts.items())) or "nothing"
    lines = [
        f"bundle     {manifest.id}{' (simulated devices)' if manifest.simulated else ''}",
        f"trigger    {clean(manifest.trigger.reason)}, {manifest.trigger.severity}, {moment}",
        f"node       {clean(manifest.node)}, boot {clean(manifest.boot_id)}, eagle-eye {clean(manifest.agent)}",
        f"records    {counts}",
    ]
    return [*lines, *(f"missing    {clean(sentence)}" for sentence in manifest.incomplete)]


def _export(arguments: argparse.Namespace, state_dir: Path) -> int:
    written = archive.export(_load(arguments.bundle, state_dir), arguments.output, force=arguments.force)
    _print([f"{arguments.output}: {size(written)}"])
    return 0


def _replay(arguments: argparse.Namespace, state_dir: Path) -> int:
    found = replay(_load(arguments.bundle, state_dir))
    if arguments.json:
        _print([_json({"same": one.same, **msgspec.to_builtins(one)}) for one in found])
    else:
        _print(_told(found))
    return 0 if all(one.same for one in found) else EagleEyeError.exit_code


def _told(found: Sequence[Difference]) -> list[str]:
    lines = [_difference(one) for one in found]
    if not found:
        return ["no faults, neither then nor today"]
    different = sum(not one.same for one in found)
    return [*lines, f"{different} of {len(found)} differ" if different else f"all {len(found)} are judged as then"]


def _difference(one: Difference) -> str:
    what = f"{one.what:<8} {clean(one.family)} {clean(one.code)} on {clean(one.entity)}"
    if one.then is None or one.today is None:
        told, verdict = ("only today", one.today) if one.then is None else ("only then ", one.then)
        return f"{told} {what}: {', '.join(map(clean, (verdict or {}).values()))}"
    changed = [
        f"{name} was {clean(one.then[name])}, is {clean(one.today[name])}"
        for name in one.then
        if one.then[name] != one.today[name]
    ]
    return f"differs    {what}: {'; '.join(changed)}" if changed else f"same       {what}"


def _freeze(arguments: argparse.Namespace, state_dir: Path) -> int:
    home = state_dir / "forensics"
    if not (state_dir / "recorder").is_dir():
        raise UsageError(f"{state_dir} has no black box", remedy="name the agent's folder with --state-dir")
    request = shelf.Request(clean(arguments.reason)[:200], tuple(arguments.pid))
    raw = _asked(home, request) if _agent_runs(state_dir) else _frozen_here(arguments, state_dir, request)
    try:
        result = msgspec.json.decode(raw, type=Result)
    except msgspec.DecodeError:
        raise EagleEyeError(f"nothing was frozen: {raw[:500].decode('utf-8', 'replace')}") from None
    _print([result.id, *(f"missing: {sentence}" for sentence in result.incomplete)])
    return 0


def _agent_runs(state_dir: Path) -> bool:
    try:
        StateLock(state_dir / "recorder").close()
    except UsageError:
        return True
    return False


def _asked(home: Path, request: shelf.Request) -> bytes:
    done = shelf.ask(home, request)
    if sys.stderr.isatty():
        sys.stderr.write("the agent freezes evidence; it waits for the end of the window\n")
    end_s = time.monotonic() + REQUEST_DEADLINE_S
    while not done.exists():
        if time.monotonic() > end_s:
            done.with_suffix(".json").unlink(missing_ok=True)
            raise EagleEyeError("the agent has not answered", remedy="is forensics switched off there?")
        time.sleep(0.1)
    raw = done.read_bytes()
    done.unlink(missing_ok=True)
    return raw


def _frozen_here(arguments: argparse.Namespace, state_dir: Path, request: shelf.Request) -> bytes:
    """Without an agent: the end of what was recorded."""
    home = state_dir / "forensics"
    moment = last_moment(state_dir / "recorder")
    if moment is None:
        raise EagleEyeError(f"{state_dir / 'recorder'} holds no recording")
    settings = _settings(arguments).forensics
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    order = Order(
        id=shelf.new_id(home, request.reason, moment.at_ns + moment.wall_offset_ns),
        home=str(home),
        recorder=str(state_dir / "recorder"),
        trigger=Trigger(reason=request.reason, kind="request", severity="info", pids=request.pids),
        node=moment.node,
        cluster=moment.cluster,
        boot_id=moment.boot_id,
        at_ns=moment.at_ns,
        wall_offset_ns=moment.wall_offset_ns,
        before_ns=settings.before_ns,
        after_ns=settings.after_ns,
        live=moment.boot_id == Paths().boot_id() and bool(request.pids),
    )
    return msgspec.json.encode(write(order, lambda _: None))


_COMMANDS: dict[str, Callable[[argparse.Namespace, Path], int]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "replay": _replay,
    "freeze": _freeze,
}
