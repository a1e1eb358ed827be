"""Incidents on disk: one JSON file, written whole or not at all, so that a kill or a power cut leaves a valid one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from .frequency import Occasions
from .record import Record

SCHEMA = 1
FILE = "state.json"
MAX_FILE_BYTES = 64 * 2**20

log = structlog.get_logger(component="incidents")


class State(Struct):
    """What is kept. `uuids` by PCI slot and `marks` hold for `boot_id` only.

    `marks` are number and time of the last fault of each source that is in here.
    """

    boot_id: str
    records: list[Record] = []
    occasions: tuple[Occasions, ...] = ()
    uuids: dict[str, str] = {}
    marks: dict[str, tuple[int, int]] = {}
    node: str = ""
    cluster: str = ""
    schema: int = SCHEMA


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(State)


def encode(state: State) -> bytes:
    return _encoder.encode(state)


def write(directory: Path, content: bytes) -> None:
    """Replaces the file in `directory`, which is made (mode 0700) when absent. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = directory / f".{FILE}.new"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(fd)
    finally:
        os.close(fd)
    unfinished.replace(directory / FILE)
    _sync_folder(directory)


def read(directory: Path) -> State | None:
    """What is saved, None where nothing is. Raises ValueError for a file that is not ours, OSError for one unread."""
    try:
        with (directory / FILE).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    state = _decoder.decode(content)
    if state.schema != SCHEMA:
        raise ValueError(f"schema {state.schema}, not {SCHEMA}")
    if any(not record.parts for record in state.records):
        raise ValueError("an incident without parts")
    return state


def read_or_set_aside(directory: Path) -> State | None:
    """What is saved; a file that cannot be used is kept under another name, and said."""
    try:
        return read(directory)
    except OSError as error:
        log.warning("incidents of before are not known", file=str(directory / FILE), reason=str(error))
    except (msgspec.MsgspecError, ValueError) as error:
        aside = directory / f"{FILE}.damaged-{time.time_ns()}"
        try:
            (directory / FILE).replace(aside)
        except OSError as failure:
            log.warning("a damaged file cannot be set aside", file=str(directory / FILE), reason=str(failure))
        log.warning("incidents of before are lost: their file is damaged", kept_as=str(aside), reason=str(error)[:200])
    return None


def _sync_folder(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
