"""What the operator asks of incidents: one small file per request, which a running agent notices within a second.

A request waits while no agent runs; the next one heeds it. Files are taken only from who owns the folder, or root.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta, Struct

from ...native.errors import EagleEyeError

FOLDER = "requests"
MAX_REQUEST_BYTES = 8192
MAX_REQUESTS = 256
ENDING = ".json"

log = structlog.get_logger(component="incidents")


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Clear the incident `id` for `reason`. `by` is who asked."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    by: Annotated[str, Meta(max_length=64)] = ""


_decoder = msgspec.json.Decoder(Request)


def put(directory: Path, request: Request) -> Path:
    """Leaves a request for the agent of this state folder. Raises EagleEyeError when that cannot be."""
    folder = directory / FOLDER
    name = f"{time.time_ns():020}-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = folder / f".{name}"
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(request))
        unfinished.rename(folder / f"{name}{ENDING}")
    except OSError as error:
        raise EagleEyeError(
            f"{folder} cannot be written: {error.strerror}", remedy="run it as the agent's user"
        ) from None
    return folder / f"{name}{ENDING}"


def waiting(directory: Path) -> Iterator[tuple[Path, Request]]:
    """The requests that wait, oldest first; what is none is removed and said."""
    folder = directory / FOLDER
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(ENDING) and not name.startswith("."))
    except OSError:
        return
    for name in names[:MAX_REQUESTS]:
        try:
            yield folder / name, _read(folder / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("a request was refused", file=str(folder / name), reason=str(error)[:200])
            done(folder / name)


def done(path: Path) -> None:
    """The request was heeded or refused."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a request cannot be removed", file=str(path), reason=str(error))


def _read(path: Path) -> Request:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
            raise ValueError("not a plain file that only its owner can write")
        if status.st_uid not in (0, os.geteuid()):
            raise ValueError(f"it belongs to user {status.st_uid}")
        content = os.read(fd, MAX_REQUEST_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) > MAX_REQUEST_BYTES:
        raise ValueError("it is too long")
    return _decoder.decode(content)
