"""Finds the few texts that hold one of many literals, in whole batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._sift import ffi, lib

if TYPE_CHECKING:
    from .kmsg import Batch

_MAX_HITS = 4096


class Hit(NamedTuple):
    """A line with literals. `line` is its number; `start` and `end` are where it is in the data."""

    line: int
    start: int
    end: int
    mask: int


class Sift:
    """Literals of 4 to 64 bytes, each with a mask of up to 64 bits. Case counts. Safe from several threads."""

    def __init__(self, literals: Mapping[bytes, int]) -> None:
        """Raises ValueError for a literal that is too short or too long, or when there are more than 1024."""
        self._sift = ffi.gc(lib.sift_new(), lib.sift_free)
        for literal, mask in literals.items():
            if lib.sift_add(self._sift, literal, len(literal), mask):
                raise ValueError(f"{literal!r} has not 4 to 64 bytes, or is one literal too many")

    def text(self, text: bytes) -> int:
        """Masks of the literals in `text`, ORed."""
        return lib.sift_text(self._sift, text, len(text))

    def records(self, batch: Batch) -> np.ndarray[Any, Any]:
        """The same for the text of each record of `batch`, as uint64."""
        records = np.ascontiguousarray(batch.records)
        masks = np.zeros(len(records), np.uint64)
        if len(records):
            buffer = ffi.from_buffer("char[]", batch.buffer)
            at = ffi.cast("struct kmsg_record *", ffi.from_buffer("char[]", records))
            lib.sift_records(self._sift, buffer, len(buffer), at, len(records), ffi.from_buffer("uint64_t[]", masks))
        return masks

    def lines(self, data: bytes, first_line: int = 1) -> tuple[list[Hit], int]:
        """The lines of `data` with a literal, in order, and the number of the line after its last."""
        buffer = ffi.from_buffer("char[]", data)
        place = ffi.new("struct sift_place *", {"line": first_line})
        hits: list[Hit] = []
        while place.offset < len(data):
            hits.extend(self._some(buffer, len(data), place))
        return hits, place.line

    def _some(self, buffer: Any, length: int, place: Any) -> Iterator[Hit]:
        found = ffi.new("struct sift_hit[]", _MAX_HITS)
        count = lib.sift_lines(self._sift, buffer, length, place, found, _MAX_HITS)
        for index in range(count):
            hit = found[index]
            yield Hit(hit.line, hit.start, hit.start + hit.bytes, hit.mask)
