"""What an x86 machine-check bank's status word says (Intel SDM volume 3B, chapter on interpreting MCA error codes)."""

from __future__ import annotations

_FLAGS = ((63, "valid"), (62, "overflow"), (61, "uncorrected"), (60, "enabled"), (59, "misc_valid"),
          (58, "address_valid"), (57, "context_corrupt"))  # fmt: skip
_SIMPLE = {
    0x0000: "no_error", 0x0001: "unclassified", 0x0002: "microcode_rom_parity", 0x0003: "external",
    0x0004: "functional_redundancy_check", 0x0005: "internal_parity", 0x0006: "smm_handler", 0x0400: "internal_timer",
    0x0E0B: "generic_io",
}  # fmt: skip
# (bits that count, their value, what it is); the first that fits. Bit 12 only says how counting is filtered.
_COMPOUND = (
    (0xEFFC, 0x000C, "cache_hierarchy"), (0xEFF0, 0x0010, "tlb"), (0xEF80, 0x0080, "memory_controller"),
    (0xEF80, 0x0280, "memory_as_cache"), (0xEF00, 0x0100, "cache"), (0xE800, 0x0800, "bus_interconnect"),
    (0xFC00, 0x0400, "internal_unclassified"),
)  # fmt: skip
_MEMORY = ("generic", "read", "write", "address_command", "scrub")
_CORRECTED_COUNT_SHIFT, _CORRECTED_COUNT_MASK = 38, 0x7FFF


def describe_status(status: int) -> dict[str, object]:
    """Flags, class of the MCA code, severity (corrected, uncorrected, fatal) and, of memory, operation and channel."""
    code = status & 0xFFFF
    kind = error_class(code)
    told: dict[str, object] = {
        "flags": [name for bit, name in _FLAGS if status >> bit & 1],
        "mca_code": code,
        "mca_class": kind,
        "severity": _severity(status),
    }
    if kind.startswith("memory_"):
        told.update(_memory(code))
    if not status >> 61 & 1:
        told["corrected_count"] = status >> _CORRECTED_COUNT_SHIFT & _CORRECTED_COUNT_MASK
    return told


def error_class(code: int) -> str:
    return _SIMPLE.get(code) or next((name for mask, value, name in _COMPOUND if code & mask == value), "unknown")


def _severity(status: int) -> str:
    if not status >> 61 & 1:
        return "corrected"
    return "fatal" if status >> 57 & 1 else "uncorrected"


def _memory(code: int) -> dict[str, object]:
    operation, channel = code >> 4 & 7, code & 15
    told: dict[str, object] = {"operation": _MEMORY[operation]} if operation < len(_MEMORY) else {}
    return told if channel == 15 else {**told, "channel": channel}
