"""Maps: bytes in, bytes out; mmapable arrays as live views."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from eagle_eye.native.errors import BpfMapError

THREE_WORDS = np.dtype([("word", "<u4", 3)])


@pytest.fixture
def maps(opened):
    one = opened("maps")
    one.load()
    return one


def key(number: int) -> bytes:
    return struct.pack("<I", number)


def test_hash_round_trip(maps):
    table = maps.map("hash")
    assert (table.name, table.key_bytes, table.value_bytes, table.max_entries) == ("hash", 4, 8, 16)
    assert table.get(key(1)) is None
    table.put(key(1), bytes(range(8)))
    table.put(key(2), bytes(8))
    assert table.get(key(1)) == bytes(range(8))
    assert dict(table.items()) == {key(1): bytes(range(8)), key(2): bytes(8)}
    assert table.delete(key(1)) is True
    assert table.delete(key(1)) is False
    assert dict(table.items()) == {key(2): bytes(8)}


def test_full_map_says_so(maps):
    table = maps.map("hash")
    for number in range(16):
        table.put(key(number), bytes(8))
    with pytest.raises(BpfMapError, match="cannot update map 'hash': E2BIG") as caught:
        table.put(key(99), bytes(8))
    assert caught.value.errno > 0
    assert len(list(table.items())) == 16


def test_per_cpu_value_holds_all_cpus(maps, cpus):
    array = maps.map("per_cpu")
    assert array.value_bytes == 8 * cpus
    array.put(key(1), b"".join(struct.pack("<Q", cpu + 10) for cpu in range(cpus)))
    assert struct.unpack(f"<{cpus}Q", array.get(key(1))) == tuple(cpu + 10 for cpu in range(cpus))


@pytest.mark.parametrize("size", [0, 3, 5, 4096])
def test_wrong_sizes_never_reach_the_kernel(maps, size):
    table = maps.map("hash")
    for use in (table.get, table.delete, lambda raw: table.put(raw, bytes(8))):
        with pytest.raises(BpfMapError, match=f"the key has {size} bytes instead of 4"):
            use(bytes(size))
    with pytest.raises(BpfMapError, match=f"the value has {size} bytes instead of 8"):
        table.put(key(0), bytes(size))


def test_view_is_live_strided_and_read_only(maps):
    array = maps.map("mmapable")
    view = array.view(THREE_WORDS)
    assert view.shape == (3,)
    array.put(key(0), struct.pack("<3I", 1, 2, 3))
    array.put(key(2), struct.pack("<3I", 7, 8, 9))
    assert view["word"].tolist() == [[1, 2, 3], [0, 0, 0], [7, 8, 9]]
    with pytest.raises(ValueError, match="read-only"):
        view["word"][0] = 5


def test_view_outlives_its_object(maps):
    array = maps.map("mmapable")
    array.put(key(1), struct.pack("<3I", 4, 5, 6))
    view = array.view(THREE_WORDS)
    maps.close()
    assert view["word"][1].tolist() == [4, 5, 6]


def test_view_of_anything_else_is_refused(maps):
    for name in ("hash", "plain", "per_cpu"):
        with pytest.raises(BpfMapError, match="no array with BPF_F_MMAPABLE"):
            maps.map(name).view(np.dtype("<u8"))
    with pytest.raises(BpfMapError, match="holds values of 12 bytes, the dtype has 8"):
        maps.map("mmapable").view(np.dtype("<u8"))
