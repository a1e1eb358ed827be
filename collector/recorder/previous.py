"""How the recording before this one ended, and what the kernel saved of its own last words.

The kernel's persistent store (pstore: ERST, EFI variables, RAM) shows the end of the log of a boot that panicked as
files; systemd moves them to a folder of its own. They are read once and never deleted here.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from msgspec import Struct

from .segment import DamagedError
from .store import Store

SPARED_NS = 600 * 10**9
MAX_FILES = 16
MAX_FILE_BYTES = 2**20
MAX_SEEN = 512
MAX_WORDS = 300

_PANIC = re.compile(r"Kernel panic|BUG:|Oops|Unable to handle|general protection|watchdog: .*LOCKUP|Hardware Error")
_STAMP = re.compile(r"^(?:<\d{1,3}>)?\[[ \d.]+\](?:\[[^\]]{1,12}\])? ?")

log = structlog.get_logger(component="recorder")


class SavedLog(Struct, frozen=True):
    """One file of the kernel's persistent store; `written_wall_ns` in nanoseconds since 1970."""

    name: str
    written_wall_ns: int
    text: str
    boot_id: str = ""


class Previous(Struct, frozen=True):
    """The recording before this one. `end` is of the agent: unclean when it could not say that it stops.

    `boot_id` is "" when there was no recording. `last_ns` is on that boot's clock.
    """

    boot_id: str
    end: Literal["clean", "unclean", "unknown"]
    last_ns: int
    last_wall_ns: int
    files_kept: int
    saved_logs: tuple[SavedLog, ...]


def examine(store: Store, boot_id: str, pstore: Sequence[Path]) -> Previous:
    """Looks once, at the start of a recording, and spares the last minutes of a boot that is over."""
    found, end, last_ns, last_wall_ns, kept = "", "unknown", 0, 0, 0
    reader = store.take_over()
    if reader is not None:
        with suppress(DamagedError):
            last_ns = reader.last_ns()
            last_wall_ns = last_ns and last_ns + reader.last_wall_offset_ns()
        reader.close()
        found = reader.about.get("boot_id", "")
        end = "clean" if reader.about.get("end") == "clean" else "unclean"
    if found not in ("", boot_id):
        kept = store.spare(found, SPARED_NS)
    saved = tuple(_new_logs(store.folder / "pstore.seen", pstore, found if found != boot_id else ""))
    return Previous(found, end, last_ns, last_wall_ns, kept, saved)  # type: ignore[arg-type]


def tell(previous: Previous, boot_id: str) -> tuple[str, str, dict[str, Any]] | None:
    """(kind, severity, attributes) of the event, None when there is nothing to tell."""
    over = previous.boot_id not in ("", boot_id)
    if not over and not previous.saved_logs:
        return _tell_run(previous)
    attributes: dict[str, Any] = {
        "previous_boot_id": previous.boot_id,
        "end": previous.end,
        "files_kept": previous.files_kept,
        "saved_logs": [saved.name for saved in previous.saved_logs],
    }
    if over and previous.last_wall_ns:
        attributes["last_record_wall_ns"] = previous.last_wall_ns
        attributes |= _darkness(previous)
    if words := last_words(previous.saved_logs):
        attributes["last_words"] = words
    crashed = bool(words) or (over and previous.end != "clean")
    return "recorder.previous_boot", "error" if words else "warning" if crashed else "info", attributes


def _tell_run(previous: Previous) -> tuple[str, str, dict[str, Any]] | None:
    if not previous.boot_id or previous.end == "clean":
        return None
    return "recorder.previous_run", "warning", {"end": previous.end, **_darkness(previous)}


def _darkness(previous: Previous) -> dict[str, float]:
    """How long nobody has recorded anything; nothing where that is not known."""
    if not previous.last_wall_ns:
        return {}
    return {"dark_seconds": max(0.0, round((time.time_ns() - previous.last_wall_ns) / 1e9, 3))}


def last_words(saved: Sequence[SavedLog]) -> str:
    """The line that says why, of the newest saved log that has one; "" when none does."""
    for each in sorted(saved, key=lambda one: one.written_wall_ns, reverse=True):
        for line in each.text.splitlines():
            if _PANIC.search(line):
                return _STAMP.sub("", line).strip()[:MAX_WORDS]
    return ""


def _new_logs(seen_file: Path, folders: Sequence[Path], boot_id: str) -> Iterator[SavedLog]:
    seen = _seen(seen_file)
    known, fresh = set(seen), []
    for path in _files(folders):
        try:
            with path.open("rb") as file:
                body = file.read(MAX_FILE_BYTES)
            written_wall_ns = path.stat().st_mtime_ns
        except OSError as error:
            log.warning("a saved kernel log cannot be read", file=str(path), reason=error.strerror)
            continue
        digest = hashlib.sha256(body).hexdigest()
        if digest not in known:
            known.add(digest)
            fresh.append(digest)
            yield SavedLog(path.name, written_wall_ns, _text(body), boot_id)
    if fresh:
        unfinished = seen_file.with_suffix(".tmp")
        unfinished.write_bytes(msgspec.json.encode([*seen, *fresh][-MAX_SEEN:]))
        unfinished.replace(seen_file)


def _files(folders: Sequence[Path]) -> list[Path]:
    """The newest files, oldest first; the archive has them in folders by date."""
    found: list[tuple[int, Path]] = []
    for folder in folders:
        with suppress(OSError):
            for path in (*folder.iterdir(), *folder.glob("*/*")):
                if path.is_file() and not path.is_symlink():
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)[-MAX_FILES:]]


def _seen(path: Path) -> list[str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[str])
    except (OSError, msgspec.DecodeError):
        return []


def _text(body: bytes) -> str:
    """As text; compressed ones, which a kernel could not unpack itself, only say what they are."""
    text = body.decode("utf-8", "replace")
    garbage = text.count("\ufffd") + text.count("\0")
    return f"(not text: {len(body)} bytes)" if garbage * 10 > len(text) else text
