"""Builds `eagle_eye.native._bpf`: libbpf, the ring drain, and the record structs of bpf/*.h.

The structs are declared without `...`, so cffi compares them with the C compiler's own layout and
a header that drifts from its BPF object raises at its first use.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).parent.parent
RECORDS = sorted(path for path in ROOT.glob("bpf/*.h") if path.name != "types.h" and not path.name.endswith(".bpf.h"))
BORDERS = [ROOT / "native" / name for name in ("ring.h", "libbpf_border.h")]

TYPES = """
typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
"""

LIBBPF = """
struct bpf_program;
struct bpf_map;
struct bpf_link;
struct bpf_object_open_opts;
struct bpf_iter_attach_opts;
enum bpf_map_type { BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_RINGBUF, ... };

const char *libbpf_version_string(void);
int libbpf_num_possible_cpus(void);

struct bpf_object *bpf_object__open_file(const char *path, const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *obj, const char *name);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *obj, const char *name);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);

const char *bpf_program__name(const struct bpf_program *prog);
const char *bpf_program__section_name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
bool bpf_program__autoload(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
struct bpf_link *bpf_program__attach(const struct bpf_program *prog);
struct bpf_link *bpf_program__attach_uprobe(const struct bpf_program *prog, bool retprobe, int pid,
                                            const char *binary_path, size_t func_offset);
struct bpf_link *bpf_program__attach_perf_event(const struct bpf_program *prog, int pfd);

int bpf_link__fd(const struct bpf_link *link);
int bpf_link__destroy(struct bpf_link *link);
int bpf_iter_create(int link_fd);

const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
enum bpf_map_type bpf_map__type(const struct bpf_map *map);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
uint32_t bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
int bpf_map__set_autocreate(struct bpf_map *map, bool autocreate);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *psize);

int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
"""


def declarations(header: str) -> str:
    """What cffi's parser can read of a C header: no directives but numbers, no assertions."""
    header = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    header = re.sub(r"_Static_assert\s*\(.*?\)\s*;", "", header, flags=re.DOTALL)
    number = re.compile(r"#\s*define\s+\w+\s+(0x[0-9A-Fa-f]+|[0-9]+)\s*$")
    return "\n".join(line for line in header.splitlines() if not line.lstrip().startswith("#") or number.match(line))


ffibuilder = FFI()
for text in (TYPES, LIBBPF, *(declarations(path.read_text()) for path in (*BORDERS, *RECORDS))):
    ffibuilder.cdef(text)

ffibuilder.set_source(
    "eagle_eye.native._bpf",
    "\n".join(
        [
            "#include <stdbool.h>",
            "#include <linux/types.h>",
            "#include <bpf/bpf.h>",
            "#include <bpf/libbpf.h>",
            *(f'#include "{path.relative_to(ROOT)}"' for path in (*BORDERS, *RECORDS)),
        ]
    ),
    sources=["native/ring.c", "native/libbpf_border.c"],
    depends=[str(path.relative_to(ROOT)) for path in (*BORDERS, *RECORDS)],
    libraries=["bpf"],
    # Quoted names only: bpf/sched.h must not hide the system's <sched.h>.
    extra_compile_args=["-iquote", ".", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"],
)
