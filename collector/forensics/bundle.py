"""A bundle: the files of one frozen piece of evidence, in a folder of STATE_DIR/forensics or in an archive.

manifest.json       what, when, where, of which versions (`Manifest`)
records.jsonl.zst   one JSON object per line and record, by time: kind, at_ns, wall_ns, data
processes.json      what /proc told of the processes involved, at the trigger and at the end of the window
config.json         the merged settings
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import zstandard
from msgspec import Struct, field

from ...native.errors import EagleEyeError, UsageError
from ...probes.model import EngineState, Event, Snapshot, Stall
from ..recorder.previous import SavedLog

MANIFEST, RECORDS, PROCESSES, CONFIG = "manifest.json", "records.jsonl.zst", "processes.json", "config.json"
FILES = (MANIFEST, RECORDS, PROCESSES, CONFIG)
MAX_LINE_BYTES = 16 * 2**20
MAX_FILE_BYTES = 64 * 2**20
MAX_LINES_BYTES = 512 * 2**20
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9._-]{1,80}")


class Trigger(Struct, frozen=True):
    """What asked for it. `event` is the id of an event or incident, "" when a person asked."""

    reason: str
    kind: str
    severity: str = "error"
    entity: str = ""
    event: str = ""
    cause: str = ""
    pids: tuple[int, ...] = ()


class Manifest(Struct, frozen=True):
    """`at_ns` is the moment of the trigger on the clock of the boot, `wall_offset_ns` leads from there to Unix time.

    `versions` are of the node's software, `hashes` SHA-256 of the programs in the kernel. `incomplete` says in
    sentences what is missing.
    """

    id: str
    trigger: Trigger
    node: str
    cluster: str
    boot_id: str
    at_ns: int
    wall_offset_ns: int
    start_ns: int
    end_ns: int
    agent: str
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    counts: Mapping[str, int] = {}
    incomplete: tuple[str, ...] = ()
    simulated: bool = False
    schema: int = 1


class Line(Struct, frozen=True):
    """One record. `data` is as it was published: an Event, a Snapshot, a list of EngineState, …"""

    kind: str
    at_ns: int
    data: Any = field(default=None)


class SeenThread(Struct, frozen=True):
    """What is shown of a thread: its state in the letters of ps, its kernel stack."""

    tid: int
    state: str = ""
    stack: str = ""


class Seen(Struct, frozen=True):
    """What is shown of a process."""

    pid: int
    comm: str = "?"
    threads: tuple[SeenThread, ...] = ()


class Steps(Struct, frozen=True):
    """Steps of one engine rank: `rows` of what `columns` name, `start_ns` and `end_ns` among them."""

    engine: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int | float, ...], ...]
    dp_rank: int = 0

    def __post_init__(self) -> None:
        if not {"start_ns", "end_ns"} <= set(self.columns) or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("rows and columns of steps do not fit")


# What the data of a line must look like; readers then need not doubt it.
SHAPES: Mapping[str, Any] = {
    "event": Event,
    "snapshot": Snapshot,
    "engine": list[EngineState],
    "stall": Stall,
    "kmsg": list[dict[str, Any]],
    "pstore": SavedLog,
    "step": Steps,
}
UNREADABLE = "unreadable"


class Bundle(Struct, frozen=True):
    """`files` holds the raw bytes by name; `size_bytes` is what it takes where it is kept."""

    manifest: Manifest
    files: Mapping[str, bytes]
    size_bytes: int

    def lines(self) -> Iterator[Line]:
        """Records by time, those of no known shape as UNREADABLE. Raises EagleEyeError where they were damaged."""
        try:
            yield from _lines(io.BytesIO(self.files.get(RECORDS, b"")))
        except (zstandard.ZstdError, msgspec.DecodeError, ValueError) as error:
            raise EagleEyeError(f"bundle {self.manifest.id}: its records cannot be read: {error}") from None

    def processes(self) -> list[list[Seen]]:
        """The processes involved, each time that they were asked for; empty where there are none."""
        try:
            return msgspec.json.decode(self.files.get(PROCESSES, b"[]"), type=list[list[Seen]])
        except msgspec.DecodeError as error:
            raise EagleEyeError(f"bundle {self.manifest.id}: {PROCESSES} cannot be read: {error}") from None


_line_decoder = msgspec.json.Decoder(Line)


def _lines(raw: BinaryIO) -> Iterator[Line]:
    if not raw.getbuffer().nbytes:  # type: ignore[attr-defined]
        return
    total = 0
    with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw) as stream:
        text = io.BufferedReader(stream, 2**18)
        while line := text.readline(MAX_LINE_BYTES):
            total += len(line)
            if total > MAX_LINES_BYTES or len(line) >= MAX_LINE_BYTES:
                raise ValueError("more than a bundle ever holds")
            yield _checked(_line_decoder.decode(line))


def _checked(line: Line) -> Line:
    try:
        msgspec.convert(line.data, SHAPES[line.kind])
    except (KeyError, msgspec.ValidationError):
        return Line(UNREADABLE, line.at_ns, {})
    return line


def manifest_of(raw: bytes, where: str) -> Manifest:
    """Raises EagleEyeError when it is none."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise EagleEyeError(f"{where} is no bundle: {error}") from None
    if not ID.fullmatch(manifest.id):
        raise EagleEyeError(f"{where} is no bundle: its id is not one")
    return manifest


def load_folder(folder: Path) -> Bundle:
    """Raises EagleEyeError when there is no whole bundle."""
    files = {name: _read(folder / name) for name in FILES if (folder / name).is_file()}
    if MANIFEST not in files:
        raise EagleEyeError(f"{folder} holds no bundle")
    return Bundle(manifest_of(files[MANIFEST], str(folder)), files, sum(map(len, files.values())))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise EagleEyeError(f"{path} is larger than a bundle's file ever is")
    return raw


def bundle_folders(home: Path) -> list[Path]:
    """Folders of finished bundles, oldest first."""
    try:
        found = [each for each in home.iterdir() if ID.fullmatch(each.name) and (each / MANIFEST).is_file()]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda each: each.name)


def find(home: Path, name: str) -> Path:
    """The folder of the bundle that `name` begins, or ends, or `last`. Raises UsageError when it is not exactly one."""
    folders = bundle_folders(home)
    if name == "last" and folders:
        return folders[-1]
    found = [each for each in folders if each.name == name]
    found = found or [each for each in folders if each.name.startswith(name) or each.name.endswith(name)]
    if len(found) == 1:
        return found[0]
    many = f"{len(found)} bundles are called so" if found else "there is no such bundle"
    raise UsageError(f"{name!r}: {many} in {home}", remedy="eagle-eye forensics list")
