"""Steps of engines between their compact form in the recorder and the plain one of a bundle."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


def packed_steps(about: dict[str, Any], records: np.ndarray[Any, Any]) -> bytes:
    """MessagePack of `about` with the records as they are in memory."""
    assert records.dtype.names is not None
    columns = [(name, records.dtype[name].str) for name in records.dtype.names]
    return msgspec.msgpack.encode(
        {**about, "columns": columns, "records": np.ascontiguousarray(packed(records)).tobytes()}
    )


def packed(records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same records without the gaps that C leaves between their fields."""
    assert records.dtype.names is not None
    dtype = np.dtype([(name, records.dtype[name].str) for name in records.dtype.names])
    return records.astype(dtype, copy=False)


def plain_steps(value: dict[str, Any]) -> dict[str, Any]:
    """As lists: `columns` are names, `rows` the values. Raises ValueError where it is not what was packed."""
    columns = [(str(name), str(kind)) for name, kind in value.pop("columns")]
    records = np.frombuffer(value.pop("records"), np.dtype(columns))
    return {**value, "columns": [name for name, _ in columns], "rows": [list(row) for row in records.tolist()]}
