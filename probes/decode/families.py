"""All families, in the order in which they are asked about a text: the first that knows it has it."""

from __future__ import annotations

from . import nvidia_fallen, nvidia_identity, nvidia_init_assert, nvidia_sxid, nvidia_xid
from .family import Family

FAMILIES: tuple[Family, ...] = (
    nvidia_xid.FAMILY,
    nvidia_sxid.FAMILY,
    nvidia_fallen.FAMILY,
    nvidia_init_assert.FAMILY,
    nvidia_identity.FAMILY,
)
