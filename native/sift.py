"""Finds the few texts that hold one of many literals, in whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ._sift import ffi, lib

if TYPE_CHECKING:
    from .kmsg import Batch

MIN_BYTES = int(lib.SIFT_MIN_BYTES)
_MAX_HITS = 4096
_HIT = Struct("=4Q")

Hit = tuple[int, int, int, int]
"""A line with literals: their mask, the line's number, where it starts in the data, its bytes without newline."""


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
        room = min(_MAX_HITS, len(data) // (MIN_BYTES + 1) + 1)
        found = ffi.new("struct sift_hit[]", room)
        hits: list[Hit] = []
        while place.offset < len(data):
            count = lib.sift_lines(self._sift, buffer, len(data), place, found, room)
            hits += _HIT.iter_unpack(bytes(ffi.buffer(found, count * _HIT.size)))
        return hits, place.line
