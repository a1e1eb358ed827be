"""Faults in the kernel log: repeats are folded before anything is decoded, and nothing distinct is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec import structs

from ..native.kmsg import Batch
from .decode.grammar import HOLD_NS, Decoder, Found, sift
from .decode.record import Record
from .faults import fault_id, make_fault
from .flood import Bucket
from .model import Fault

WINDOW_NS = 1_000_000_000
# Decoding one takes some 20 µs: at most a tenth of a core and 10 ms of a round, whatever the log says.
DECODES_PER_SECOND = 5_000
DECODES_AT_ONCE = 500
MAX_WAITING = 4096
# A fault costs its readers milliseconds where all are distinct: incidents, disk, NATS.
TOLD_PER_SECOND = 100
TOLD_AT_ONCE = 100
# Of faults that differ in details only, those after so many in a window are told as a number.
TOLD_ALIKE = 16
_MAX_SEEN = 16_384
# Of texts that differ in numbers only, those after so many in a window give way to others; so do those of one family.
_RARE = 16
_RARE_OF_FAMILY = 1024
# Who may speak of faults: the kernel (0), and who writes to its log in its place (1).
_KERNEL, _USER = 0, 1

Indices = np.ndarray[Any, np.dtype[np.intp]]


class _Line:
    """A record that is the first of its kind in this window, and how often others like it came since."""

    def __init__(self, record: Record, mask: int, facility: int, is_rare: bool) -> None:
        self.is_rare = is_rare
        self.record = record
        self.mask = mask
        self.is_simulated = facility != _KERNEL
        self.decoded_ns = 0
        self.fault: Fault | None = None
        self.told_as: _Line | None = None
        self.alike = 0
        self.repeats = 0
        self.last_seq = record.line
        self.last_ns = record.at_ns

    def repeat(self, count: int, seq: int, at_ns: int) -> None:
        self.repeats += count
        if seq >= self.last_seq:
            self.last_seq, self.last_ns = seq, at_ns

    def may_become_a_fault(self, now_ns: int) -> bool:
        """It waits for its turn, or for records that belong to it."""
        return self.fault is None and (not self.decoded_ns or now_ns - self.decoded_ns < HOLD_NS)


class LogFaults:
    """Faults of one kernel log, at most one per distinct record and second, with their counts.

    Of one code on one device a second has at most `TOLD_ALIKE` with details of their own, and one more with the
    number of all others; all devices and codes together have `TOLD_PER_SECOND`, the rare ones first. `dropped` counts
    records that were left out because more distinct ones came than that.
    """

    def __init__(self, boot_id: str, driver: str = "") -> None:
        """`driver` is the version of NVIDIA's, where it is known before the log says it."""
        self.dropped = 0
        self._boot_id = boot_id
        self._decoder = Decoder()
        self._budget = Bucket(DECODES_PER_SECOND, DECODES_AT_ONCE)
        self._tellable = Bucket(TOLD_PER_SECOND, TOLD_AT_ONCE)
        self._window_ns = 0
        self._seen: dict[int, _Line] = {}
        self._alike: Counter[int] = Counter()
        self._of_family: Counter[int] = Counter()
        self._waiting: list[_Line] = []
        self._by_seq: dict[int, _Line] = {}
        self._kinds: dict[tuple[object, ...], _Line] = {}
        self._driver = driver

    @property
    def hold_ns(self) -> int:
        """How long from now on something waits for more records or for its turn; 0 when nothing does."""
        return HOLD_NS if self._decoder.waits or self._waiting else 0

    def take(self, batch: Batch, skew_ns: int, now_ns: int) -> list[Fault]:
        """What the records of `batch` tell; `skew_ns` is from the log's clock to CLOCK_MONOTONIC."""
        masks = sift().records(batch)
        facility = batch.records["facility"]
        hits = np.flatnonzero((masks != 0) & ((facility == _KERNEL) | (facility == _USER)))
        if len(hits):
            self._fold(batch, hits, masks, skew_ns)
        return self._decode(now_ns)

    def flush(self, now_ns: int) -> list[Fault]:
        """What has waited long enough, and the counts of a window that has ended."""
        faults = self._decode(now_ns)
        faults += self._made(self._decoder.flush(now_ns))
        if now_ns - self._window_ns >= WINDOW_NS:
            self._window_ns = now_ns
            faults += self._repeated(now_ns)
        return faults

    def _fold(self, batch: Batch, hits: Indices, masks: np.ndarray[Any, Any], skew_ns: int) -> None:
        keys = batch.records["fact_hash"][hits]
        unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
        last = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        for n in np.argsort(first).tolist():
            key, count = int(unique[n]), int(counts[n])
            line = self._seen.get(key)
            if line is None:
                line = self._first(batch, int(hits[first[n]]), int(masks[hits[first[n]]]), skew_ns, key)
                count -= 1
            if line is None:
                self.dropped += count + 1
            elif count:
                newest = batch.records[hits[last[n]]]
                line.repeat(count, int(newest["seq"]), int(newest["time_ns"]) + skew_ns)

    def _first(self, batch: Batch, index: int, mask: int, skew_ns: int, key: int) -> _Line | None:
        one = batch.records[index]
        is_rare = self._is_rare(int(one["template_hash"]), mask)
        share = 1 if is_rare else 2
        if len(self._waiting) >= MAX_WAITING // share or len(self._seen) >= _MAX_SEEN // share:
            return None
        record = Record(batch.text(index), int(one["seq"]), int(one["time_ns"]) + skew_ns, level=int(one["level"]))
        line = self._seen[key] = _Line(record, mask, int(one["facility"]), is_rare)
        self._waiting.append(line)
        return line

    def _is_rare(self, template: int, mask: int) -> bool:
        self._of_family[mask] += 1
        if self._of_family[mask] > _RARE_OF_FAMILY:
            return False
        self._alike[template] += 1
        return self._alike[template] <= _RARE

    def _decode(self, now_ns: int) -> list[Fault]:
        """As many of those that wait as there is time for, and as their readers have."""
        self._budget.refill(now_ns)
        self._tellable.refill(now_ns)
        turn = min(len(self._waiting), int(self._budget.tokens))
        if turn < len(self._waiting) or turn > self._tellable.tokens:
            self._waiting.sort(key=lambda line: not line.is_rare)
        faults: list[Fault] = []
        decoded = 0
        while decoded < turn and self._tellable.tokens >= 1:
            line = self._waiting[decoded]
            line.decoded_ns = now_ns
            self._by_seq[line.record.line] = line
            faults += self._made(self._decoder.take(line.record, line.mask, now_ns))
            decoded += 1
        del self._waiting[:decoded]
        self._budget.take(decoded)
        return faults

    def _made(self, found: list[Found]) -> list[Fault]:
        faults = [fault for one in found if (fault := self._fault(one)) is not None]
        self._tellable.tokens -= len(faults)  # what was held comes at once, and is owed
        return faults

    def _fault(self, found: Found) -> Fault | None:
        self._learn(found)
        line = self._by_seq.get(found.lines[0])
        fault = make_fault(
            found.decoded,
            at_ns=found.record.at_ns,
            source="kmsg",
            driver=self._driver if found.decoded.family.startswith("nvidia.") else "",
            event_id=f"{self._boot_id}:kmsg:{found.record.line}",
            count=found.count,
            simulated=line is not None and line.is_simulated,
        )
        if line is None or fault is None:
            return fault
        line.fault = fault
        return fault if self._is_told(line, fault) else None

    def _is_told(self, line: _Line, fault: Fault) -> bool:
        kind = (fault.family, fault.code, fault.subcode, fault.entity, fault.cause, fault.phase, fault.simulated)
        first = self._kinds.setdefault(kind, line)
        first.alike += 1
        if first.alike > TOLD_ALIKE:
            line.told_as = first
        return line.told_as is None

    def _learn(self, found: Found) -> None:
        version = found.decoded.fields.get("driver")
        if isinstance(version, str) and found.decoded.family == "nvidia.identity":
            self._driver = version

    def _repeated(self, now_ns: int) -> Iterator[Fault]:
        """The repeats of a window that has ended, as one fault each; what comes next is decoded anew."""
        for line in self._seen.values():
            if line.told_as is not None and line.fault is not None:
                line.told_as.repeat(line.fault.count + line.repeats, line.last_seq, line.last_ns)
        for line in self._seen.values():
            if line.fault is not None and line.told_as is None and line.repeats:
                yield structs.replace(
                    line.fault,
                    id=fault_id(f"{self._boot_id}:kmsg:{line.last_seq}", line.last_ns),
                    event_id=f"{self._boot_id}:kmsg:{line.last_seq}",
                    at_ns=line.last_ns,
                    count=line.repeats,
                )
        self._seen = {key: line for key, line in self._seen.items() if line.may_become_a_fault(now_ns)}
        self._by_seq = {line.record.line: line for line in self._seen.values() if line.decoded_ns}
        self._kinds.clear()
        self._alike.clear()
        self._of_family.clear()
