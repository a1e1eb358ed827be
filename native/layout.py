"""numpy's view of the structs that bpf/*.h declares."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _bpf
from .errors import BpfMapError

_INTEGERS = {(False, 1): "u1", (False, 2): "u2", (False, 4): "u4", (False, 8): "u8"} | {
    (True, 1): "i1",
    (True, 2): "i2",
    (True, 4): "i4",
    (True, 8): "i8",
}


def record_dtype(struct: str) -> np.dtype[Any]:
    """The structured dtype of `struct <name>` as the C compiler laid it out.

    Integers keep their width and sign, `char x[N]` is bytes, arrays and structs nest.
    Raises BpfMapError when no bpf/*.h declares the struct, or when cffi finds that the header and
    the compiled module differ (`python setup.py build_ext --inplace` mends both).
    """
    try:
        ctype = _bpf.ffi.typeof(f"struct {struct}")
        return _struct(ctype)
    except _bpf.ffi.error as why:
        raise BpfMapError(
            f"struct {struct}: {why}", remedy="rebuild the C modules: python setup.py build_ext --inplace"
        ) from None


def _struct(ctype: Any) -> np.dtype[Any]:
    if ctype.fields is None:
        raise BpfMapError(f"{ctype.cname} is declared but not defined")
    names = [name for name, _ in ctype.fields]
    fields = [field for _, field in ctype.fields]
    return np.dtype(
        {
            "names": names,
            "formats": [_field(field.type) for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": _bpf.ffi.sizeof(ctype),
        }
    )


def _field(ctype: Any) -> Any:
    if ctype.kind == "struct":
        return _struct(ctype)
    if ctype.kind == "array":
        return f"S{ctype.length}" if ctype.item.cname == "char" else (_field(ctype.item), (ctype.length,))
    if ctype.kind in ("primitive", "enum") and ctype.cname not in ("float", "double", "long double"):
        signed = int(_bpf.ffi.cast(ctype, -1)) < 0
        return _INTEGERS[signed, _bpf.ffi.sizeof(ctype)]
    raise BpfMapError(f"records hold no {ctype.cname}: fixed-width integers, char arrays and structs only")
