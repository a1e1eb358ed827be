"""The folder of bundles: names, bounds, and requests of people.

<id>/                  a bundle
.<id>.tmp/             one that is being written
requests/<name>.json   what `eagle-eye forensics freeze` asks of the agent; `<name>.done` is its answer
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from .bundle import bundle_folders
from .redact import redacted_text

MAX_REQUESTS = 16
MAX_REQUEST_BYTES = 4096
FORGOTTEN_AFTER_S = 3600.0

_DULL = re.compile(r"[^a-z0-9._]+")
_REQUEST = re.compile(r"[0-9a-f]{32}\.json")


class Request(Struct, frozen=True):
    """`pids` are those whose stacks are wanted beside the devices' holders."""

    reason: str
    pids: tuple[int, ...] = ()


def new_id(home: Path, reason: str, wall_ns: int) -> str:
    """A name that says when and why, and that no bundle has."""
    slug = _DULL.sub("-", redacted_text(reason).lower()).strip("-.")[:40].strip("-.") or "by-hand"
    stem = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(wall_ns / 1e9))}-{slug}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    return next(name for name in names if not (home / name).exists() and not (home / f".{name}.tmp").exists())


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def make_room(home: Path, *, most: int, limit_bytes: int, spare_bytes: int) -> int:
    """Deletes the oldest bundles until one more of `spare_bytes` fits; how many those were. Raises OSError."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in home.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)
    folders = bundle_folders(home)
    sizes = {each: size_of(each) for each in folders}
    deleted = 0
    while folders and (len(folders) >= most or sum(sizes.values()) + spare_bytes > limit_bytes):
        oldest = folders.pop(0)
        sizes.pop(oldest)
        shutil.rmtree(oldest, ignore_errors=True)
        deleted += 1
    return deleted


# Requests


def ask(home: Path, request: Request) -> Path:
    """Leaves a request for the agent; the file that will hold its answer. Raises OSError."""
    folder = home / "requests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    unfinished = folder / f"{name}.tmp"
    unfinished.write_bytes(msgspec.json.encode(request))
    unfinished.replace(folder / f"{name}.json")
    return folder / f"{name}.done"


def requests(home: Path) -> Iterator[tuple[Path, Request]]:
    """What is asked now, with the file for the answer; each is taken away. Answers nobody fetched go after an hour."""
    folder = home / "requests"
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in found:
        if path.suffix == ".done" and time.time() - path.stat().st_mtime > FORGOTTEN_AFTER_S:
            path.unlink(missing_ok=True)
    for path in [path for path in found if _REQUEST.fullmatch(path.name)][:MAX_REQUESTS]:
        with suppress(OSError, msgspec.DecodeError):
            with path.open("rb") as file:
                request = msgspec.json.decode(file.read(MAX_REQUEST_BYTES), type=Request)
            path.unlink()
            yield path.with_suffix(".done"), request
        path.unlink(missing_ok=True)


def answer(done: Path, body: bytes) -> None:
    """Written whole, for somebody waits for the file. Raises OSError."""
    unfinished = done.with_suffix(".answer")
    unfinished.write_bytes(body)
    unfinished.replace(done)
