"""All families, in the order in which they are asked about a text: the first that knows it has it."""

from __future__ import annotations

from . import (  # isort: split
    ascend,
    ascend_device,
    hang,
    kernel_fault,
    machine_check,
    nic,
    nvidia_fallen,
    nvidia_identity,
    nvidia_init_assert,
    nvidia_sxid,
    nvidia_xid,
    oom,
    other_vendor,
    pcie,
    storage,
)

from .family import Family

FAMILIES: tuple[Family, ...] = (
    nvidia_xid.FAMILY,
    nvidia_sxid.FAMILY,
    nvidia_fallen.FAMILY,
    nvidia_init_assert.FAMILY,
    nvidia_identity.FAMILY,
    ascend.HOST,
    ascend_device.FAMILY,
    pcie.FAMILY,
    machine_check.FAMILY,
    oom.FAMILY,
    nic.MLX5,
    nic.OTHERS,
    storage.FAMILY,
    hang.FAMILY,
    other_vendor.FAMILY,
    kernel_fault.FAMILY,
)
