"""The incidents of this node: faults of one cause, with the action they ask for.

A running agent heeds `clear` within a second, else the next one does. An ID
may be shortened as long as only one begins so.
"""

from __future__ import annotations

import argparse
import fcntl
import getpass
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...native.errors import EagleEyeError, UsageError
from ...probes.model import Incident, IncidentPart
from ..incidents import requests, state
from ..incidents.engine import MERGED
from ..incidents.incidents import DIRECTORY
from ..view.lines import timestamp
from ..view.words import clean, span

STATE_DIR = "/var/lib/eagle-eye"
ANSWER_S = 5.0
USAGE = "[list | show ID | clear ID] [OPTIONS]"
EXAMPLES = """\
  eagle-eye incidents                                    what is open
  eagle-eye incidents show 1f3a                          one, with its evidence
  eagle-eye incidents clear 1f3a --reason "GPU replaced" the operator's word
  eagle-eye incidents list --all -j                      one JSON object each
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, json=False, all=False, state_dir=Path(os.environ.get("EAGLE_EYE_STATE_DIR") or STATE_DIR))
    actions = parser.add_subparsers(metavar="ACTION", dest="action", prog=parser.prog)
    listing = actions.add_parser("list", description="Open incidents.", help="open incidents; also without a word")
    show = actions.add_parser(
        "show", description="An incident with its evidence.", help="one with everything that was told"
    )
    clear = actions.add_parser("clear", description="Ends an incident.", help="the operator says that it is over")
    for action in (show, clear):
        action.add_argument("id", metavar="ID", help="of an incident, or how it begins")
    clear.add_argument("--reason", metavar="TEXT", required=True, help="why it is over; kept with the incident")
    for action in (listing, show, clear):
        _add_common(action, **dict.fromkeys(("json", "all", "state_dir"), argparse.SUPPRESS))


def _add_common(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """What may stand before the action and after it."""
    parser.add_argument(
        "-j", "--json", action="store_true", default=defaults["json"], help="one JSON object per incident and line"
    )
    parser.add_argument(
        "--all", action="store_true", default=defaults["all"], help="also those that were cleared lately"
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        default=defaults["state_dir"],
        help=f"the agent's state folder; also EAGLE_EYE_STATE_DIR (default {STATE_DIR})",
    )


def run(arguments: argparse.Namespace) -> int:
    actions = {"list": _list, "show": _show, "clear": _clear}
    return actions[arguments.action or "list"](arguments, arguments.state_dir / DIRECTORY)


def _list(arguments: argparse.Namespace, directory: Path) -> int:
    known = read(directory)
    shown = [one for one in known if arguments.all or one.state == "open"]
    if arguments.json:
        _write_json(shown)
        return 0
    asked = {request.id for _, request in requests.waiting(directory)}
    sys.stdout.writelines(f"{line}\n" for line in _table(shown, asked))
    return 0


def _show(arguments: argparse.Namespace, directory: Path) -> int:
    found = _find(read(directory), arguments.id)
    if arguments.json:
        _write_json([found])
    else:
        sys.stdout.writelines(f"{line}\n" for line in _details(found))
    return 0


def _clear(arguments: argparse.Namespace, directory: Path) -> int:
    reason = clean(arguments.reason).strip()
    if not reason:
        raise UsageError("the reason is empty; it stays with the incident", remedy='--reason "GPU replaced"')
    found = _find(read(directory), arguments.id)
    if found.state == "cleared":
        raise EagleEyeError(f"incident {found.id} is cleared already: {clean(found.cleared_by)}")
    request = requests.put(directory, requests.Request(id=found.id, reason=reason[:500], by=_user()))
    if not _is_running(arguments.state_dir):
        sys.stdout.write(f"no agent runs here: incident {found.id} will be cleared when one starts\n")
        return 0
    if not _was_cleared(directory, request, found.id):
        raise EagleEyeError(
            f"the agent has not cleared incident {found.id} within {ANSWER_S:g} s; the request waits in {request}",
            remedy="look for its log lines of component=incidents",
        )
    sys.stdout.write(f"cleared {found.id}: {_cause(found)}\n")
    return 0


def read(directory: Path) -> list[Incident]:
    """The saved incidents, the oldest first. Raises EagleEyeError where there are none to be read."""
    try:
        saved = state.read(directory)
    except (ValueError, msgspec.MsgspecError) as error:
        raise EagleEyeError(f"{directory / state.FILE} is damaged: {error}", remedy="restart the agent") from None
    if saved is None:
        raise EagleEyeError(f"no agent has kept incidents in {directory}", remedy=_where_else())
    found = [record.export(saved.node, saved.cluster) for record in saved.records]
    return sorted(found, key=lambda one: one.opened_wall_ns)


def _where_else() -> str:
    """`run` without a state folder has a temporary one; those that there are."""
    folders = sorted(Path(tempfile.gettempdir()).glob(f"eagle-eye-*/{DIRECTORY}/{state.FILE}"))
    if folders:
        return " or ".join(f"eagle-eye incidents --state-dir {path.parent.parent}" for path in folders[:3])
    return "name the agent's state folder with --state-dir"


def _find(known: Sequence[Incident], begins: str) -> Incident:
    found = [one for one in known if one.id.startswith(begins)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} incidents begin with" if found else "no incident is called"
    raise EagleEyeError(f"{what} {begins!r}", remedy="eagle-eye incidents list --all")


def _was_cleared(directory: Path, request: Path, wanted: str) -> bool:
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        if not request.exists() and any(one.id == wanted and one.state == "cleared" for one in read(directory)):
            return True
        time.sleep(0.05)
    return False


def _is_running(state_dir: Path) -> bool:
    """Whether an agent holds the state folder, by the lock of its spool."""
    try:
        with (state_dir / "spool/lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _user() -> str:
    try:
        return getpass.getuser()[:64]
    except (KeyError, OSError):
        return str(os.getuid())


def _write_json(incidents: Sequence[Incident]) -> None:
    sys.stdout.writelines(f"{msgspec.json.encode(one).decode()}\n" for one in incidents)


def _table(incidents: Sequence[Incident], asked: set[str]) -> Iterator[str]:
    if not incidents:
        yield "no incidents are open"
        return
    yield f"{'ID':<11} {'STATE':<8} {'SEVERITY':<8} {'ACTION':<19} {'OPEN FOR':<9} {'TIMES':>6}  CAUSE"
    for one in incidents:
        state_word = "merged" if one.cleared_by.startswith(MERGED) else "ending" if one.id in asked else one.state
        times = f"{one.occurrences:>6}"
        yield f"{one.id:<11} {state_word:<8} {one.severity:<8} {one.action:<19} {_age(one):<9} {times}  {_cause(one)}"


def _age(one: Incident) -> str:
    until_ns = time.time_ns() if one.state == "open" else one.updated_wall_ns
    return span(max(0.0, (until_ns - one.opened_wall_ns) / 1e9))


def _cause(one: Incident) -> str:
    name = f" {clean(one.mnemonic)}" if one.mnemonic else ""
    simulated = " (simulated)" if one.simulated else ""
    return f"{clean(one.family)} {clean(one.code)}{name} on {clean(one.entity)}{_address(one)}{simulated}"


def _address(one: Incident) -> str:
    """Where it is, if its name does not say so, and how many others it hit."""
    others = len({part.entity for part in one.parts} - {one.entity})
    more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
    return (f" at {clean(one.device)}" if one.device and one.device not in one.entity else "") + more


def _details(one: Incident) -> Iterator[str]:
    yield f"{one.id}  {one.state}, {one.severity}, action: {one.action}"
    rows = {
        "cause": _cause(one),
        "asked by": _verdict(one),
        "means": one.meaning,
        "check": one.check,
        "opened": timestamp(one.opened_wall_ns),
        "updated": timestamp(one.updated_wall_ns),
        "raised": one.escalated,
        "reopened": _times(one.reopened) if one.reopened else "",
        "cleared": one.cleared_by,
        "note": one.note,
    }
    yield from (f"  {name:<9} {clean(text)}" for name, text in rows.items() if text)
    yield f"  {one.occurrences} fault{'s' if one.occurrences != 1 else ''}:"
    yield from (f"    {_part(part)}" for part in sorted(one.parts, key=lambda part: part.first_ns))


def _verdict(one: Incident) -> str:
    """Who has the last word on what to do, where that is not the cause."""
    told = [part for part in one.parts if part.role == "verdict"]
    return ", ".join(f"{part.family} {part.code} {part.mnemonic} on {part.entity}" for part in told)


def _times(count: int) -> str:
    return f"{count} times" if count != 1 else "once"


def _part(part: IncidentPart) -> str:
    sources = ", ".join(map(clean, part.sources))
    return (
        f"{timestamp(part.first_ns)} {part.role:<9} {clean(part.family)} {clean(part.code)} "
        f"{clean(part.mnemonic)} on {clean(part.entity)}, {_times(part.count)}, by {sources}"
    )
