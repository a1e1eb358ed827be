"""Accelerators of other vendors: AMD, Intel, AWS Neuron, Intel Gaudi."""

from __future__ import annotations

from msgspec import structs

from . import scan
from .family import Decoded, Family
from .shape import by_shapes, triggers_of

_NAME = "other_vendor"
_DRIVERS = frozenset({"amdgpu", "i915", "xe", "habanalabs", "neuron"})
_MARKS = ("[drm:amdgpu", "[drm] GPU HANG", "NEURON_HW_ERR=", "habanalabs ", "amdgpu: ", "neuron:")
_LAYERS = ("amdgpu: ", "[drm] ", "*ERROR* ", "CRITICAL: ")
_by_shape = by_shapes(_NAME)


def parse(text: str) -> Decoded | None:
    driver, device, rest = scan.device_message(text)
    if driver not in _DRIVERS:
        if not any(mark in text for mark in _MARKS):
            return None
        device, rest = "", text
    for layer in _LAYERS:
        rest = rest.removeprefix(layer)
    found = _by_shape(rest)
    if found is None:
        return None
    if found.fields.get("errors") == 0:  # a count that has not risen
        found = structs.replace(found, code="")
    return structs.replace(found, device=device or found.device, fields={**scan.known(driver=driver), **found.fields})


FAMILY = Family(_NAME, triggers_of(_NAME), parse)
