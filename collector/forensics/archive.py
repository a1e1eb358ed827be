"""Bundles as one file, `.tar.zst`: written so that the same bundle gives the same bytes, read with distrust."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import zstandard

from ...native.errors import EagleEyeError, UsageError
from .bundle import CONFIG, FILES, MANIFEST, MAX_FILE_BYTES, PROCESSES, RECORDS, Bundle, load_folder, manifest_of
from .perfetto import trace
from .report import report
from .timeline import timeline

LEVEL = 9
BLOCK = 512
PLAIN_RECORDS, TRACE, REPORT = "records.jsonl", "trace.json", "report.md"
CONTENTS = (MANIFEST, PLAIN_RECORDS, PROCESSES, CONFIG, TRACE, REPORT)
MAX_MEMBER_BYTES = 512 * 2**20
MAX_TOTAL_BYTES = 640 * 2**20
MAX_ARCHIVE_BYTES = 256 * 2**20
REFUSED = "an archive of `eagle-eye forensics export` holds a few plain files of known names, and nothing else"


def export(bundle: Bundle, path: Path, *, force: bool) -> int:
    """Writes the archive whole or not at all; its bytes. Raises UsageError when it is there, EagleEyeError, OSError."""
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", remedy="give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder", remedy=f"mkdir {path.parent}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "xb", opener=_private) as file:
            _write(bundle, file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path.stat().st_size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)  # a kernel log is not for everyone


def _write(bundle: Bundle, file: BinaryIO) -> None:
    entries = timeline(bundle)
    files = {
        **{name: bundle.files[name] for name in (MANIFEST, PROCESSES, CONFIG) if name in bundle.files},
        PLAIN_RECORDS: _plain(bundle.files.get(RECORDS, b"")),
        TRACE: trace(bundle, entries),
        REPORT: report(bundle, entries).encode(),
    }
    seconds = (bundle.manifest.at_ns + bundle.manifest.wall_offset_ns) // 10**9
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    with (
        compressor.stream_writer(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(f"{bundle.manifest.id}/{name}")
            member.size, member.mtime, member.mode = len(files[name]), seconds, 0o644
            tar.addfile(member, io.BytesIO(files[name]))


def _plain(raw: bytes) -> bytes:
    if not raw:
        return b""
    with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(io.BytesIO(raw)) as stream:
        plain = stream.read(MAX_MEMBER_BYTES + 1)
    if len(plain) > MAX_MEMBER_BYTES:
        raise EagleEyeError("the records are more than a bundle ever holds")
    return plain


def load(path: Path) -> Bundle:
    """A bundle out of a folder or an archive. Raises EagleEyeError for what is none, whoever made it."""
    if path.is_dir():
        return load_folder(path)
    if path.stat().st_size > MAX_ARCHIVE_BYTES:
        raise EagleEyeError(f"{path} is larger than an archive ever is")
    try:
        with path.open("rb") as file:
            files = dict(_members(file))
    except (zstandard.ZstdError, tarfile.TarError, ValueError) as error:
        raise EagleEyeError(f"{path} is refused: {error}", remedy=REFUSED) from None
    return _bundle(files, path)


def _bundle(files: Mapping[str, bytes], path: Path) -> Bundle:
    if MANIFEST not in files:
        raise EagleEyeError(f"{path} is refused: it has no {MANIFEST}", remedy=REFUSED)
    own = {name: body for name, body in files.items() if name in FILES and len(body) <= MAX_FILE_BYTES}
    packed = zstandard.ZstdCompressor(level=1).compress(files[PLAIN_RECORDS]) if files.get(PLAIN_RECORDS) else b""
    return Bundle(manifest_of(files[MANIFEST], str(path)), {**own, RECORDS: packed}, path.stat().st_size)


def _members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Name without folder, and body. Only plain files of known names, each once; headers are trusted in nothing."""
    folder, seen, left = "", set(), MAX_TOTAL_BYTES
    with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file) as stream:
        while (header := _take(stream, BLOCK)) and header.strip(b"\0"):
            member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            inside, _, name = member.name.rpartition("/")
            folder = folder or inside
            if not member.isreg() or name not in CONTENTS or name in seen or inside != folder or "/" in inside:
                raise ValueError(f"it holds {member.name[:80]!r}")
            left -= member.size
            if not 0 <= member.size <= MAX_MEMBER_BYTES or left < 0:
                raise ValueError(f"{name} is larger than it ever is")
            seen.add(name)
            body = _take(stream, member.size + -member.size % BLOCK)[: member.size]
            if len(body) < member.size:
                raise ValueError(f"{name} is cut off")
            yield name, body


def _take(stream: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(min(size, 2**20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
