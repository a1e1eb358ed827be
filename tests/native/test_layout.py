"""Both halves see the same records: the C compiler here, the BPF compiler for each machine there."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native.bpf import record_dtype
from eagle_eye.native.errors import BpfMapError
from eagle_eye.native.failures import missing_capabilities

ROOT = Path(__file__).parent.parent.parent
HEADERS = [path for path in sorted(ROOT.glob("bpf/*.h")) if path.name != "types.h" and not path.name.endswith(".bpf.h")]
STRUCTS = {
    name: path.stem for path in HEADERS for name in re.findall(r"^struct (\w+) \{", path.read_text(), re.MULTILINE)
}
OBJECTS = [path for machine in ("x86_64", "aarch64") for path in sorted((ROOT / "bpf/obj" / machine).glob("*.bpf.o"))]


@pytest.fixture(scope="session")
def declarations():
    spec = importlib.util.spec_from_file_location("build_bpf", ROOT / "native/build_bpf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.declarations


def btf_structs(path: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """Size and member offsets in bytes of each struct that the object's BTF describes."""
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", path], capture_output=True, text=True, check=True)
    return {
        one["name"]: (one["size"], {member["name"]: member["bits_offset"] // 8 for member in one["members"]})
        for one in json.loads(dump.stdout)["types"]
        if one["kind"] == "STRUCT"
    }


def test_the_headers_declare_records():
    assert {"sched_long_wait", "sched_stats"} <= STRUCTS.keys()
    assert {path.parent.name for path in OBJECTS} == {"x86_64", "aarch64"}


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_numpy_and_bpf_agree(path):
    described = btf_structs(path)
    own = [name for name, header in STRUCTS.items() if f"{header}.bpf.o" == path.name]
    assert set(own) & described.keys(), "the object's BTF describes none of its header's records"
    for name in set(own) & described.keys():
        dtype = record_dtype(name)
        offsets = {field: offset for field, (_, offset) in dtype.fields.items()}
        assert (dtype.itemsize, offsets) == described[name], name


@pytest.mark.parametrize("name", STRUCTS)
def test_records_have_no_hidden_padding_and_whole_words(name):
    dtype = record_dtype(name)
    assert sum(kind.itemsize for kind, *_ in dtype.fields.values()) == dtype.itemsize
    assert dtype.itemsize % 8 == 0


def test_kinds_of_members():
    from cffi import FFI

    from eagle_eye.native.layout import _field, _struct

    ffi = FFI()
    ffi.cdef(
        """struct inner { unsigned char small; signed char sign; short pair[2]; };
        enum kind { A, B }; enum negative { C = -1 };
        struct outer { unsigned long long wide; long long deep; char text[16]; struct inner in[2];
                       enum kind kind; enum negative negative; unsigned int word; _Bool flag; };
        struct opaque; struct floats { double value; }; struct pointer { char *value; };"""
    )
    dtype = _struct(ffi.typeof("struct outer"))
    assert dtype["text"] == np.dtype("S16")
    assert dtype["in"].shape == (2,)
    assert dtype["in"].base["pair"] == np.dtype(("<i2", (2,)))
    assert (dtype["wide"].kind, dtype["deep"].kind, dtype["negative"].kind, dtype["kind"].kind) == ("u", "i", "i", "u")
    assert dtype.itemsize == ffi.sizeof("struct outer")
    for wrong in ("struct opaque", "struct floats", "struct pointer"):
        with pytest.raises(BpfMapError):
            _struct(ffi.typeof(wrong))
    assert _field(ffi.typeof("int")) == "i4"


def test_a_record_read_back_field_by_field():
    """The dtype against ctypes, a second source of the platform's layout rules."""

    class Mixed(ctypes.Structure):
        _fields_ = (("a", ctypes.c_uint8), ("b", ctypes.c_uint64), ("c", ctypes.c_uint16), ("d", ctypes.c_uint32))

    from cffi import FFI

    from eagle_eye.native.layout import _struct

    ffi = FFI()
    ffi.cdef("struct mixed { unsigned char a; unsigned long long b; unsigned short c; unsigned int d; };")
    dtype = _struct(ffi.typeof("struct mixed"))
    value = np.frombuffer(bytes(Mixed(1, 2**63 + 2, 3, 4)), dtype)[0]
    assert value.tolist() == (1, 2**63 + 2, 3, 4)


def test_unknown_struct():
    with pytest.raises(BpfMapError, match="struct absent") as caught:
        record_dtype("absent")
    assert "build_ext --inplace" in caught.value.remedy


def test_declarations_keep_structs_and_numbers_only(declarations):
    header = """/* comment; with struct x { */
#ifndef GUARD_H
#define GUARD_H
#include <linux/types.h>
#define SLOTS 16
#define MASK 0xff // trailing
#define TEXT "x"
#define CALL(x) (x)
struct one { __u64 a[SLOTS]; };
_Static_assert(sizeof(struct one) == 128,
               "one");
#endif
"""
    kept = [line for line in declarations(header).splitlines() if line.strip()]
    assert kept == ["#define SLOTS 16", "#define MASK 0xff ", "struct one { __u64 a[SLOTS]; };"]


def test_capabilities_of_this_process_are_read():
    assert set(missing_capabilities()) <= {"CAP_BPF", "CAP_PERFMON"}
