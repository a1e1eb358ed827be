"""Thousands of calls of everything that crosses into C leave no descriptor and no memory behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from eagle_eye.native.bpf import Iterator, Object, Ring, libbpf_version, possible_cpus, record_dtype
from eagle_eye.native.errors import EagleEyeError
from eagle_eye.native.symbols import KernelSymbols

RECORD = np.dtype([("seq", "<u8", 4)])
SEEN_TASK = np.dtype([("cgroup_id", "<u8"), ("pid", "<u4"), ("tgid", "<u4"), ("comm", "S16")])


@pytest.fixture
def rings(opened):
    loaded = opened("rings")
    loaded.load()
    return loaded


@pytest.fixture
def hooks(opened):
    loaded = opened("hooks")
    loaded.leave_out("on_tp")
    loaded.load()
    return loaded


def test_open_and_close(opened, compiled, leaks):
    opened("rings")
    leaks(lambda: Object(compiled("rings")).close(), 2000)


def test_load_and_close(opened, compiled, leaks):
    opened("rings")

    def load() -> None:
        with Object(compiled("rings")) as one:
            one.resize("ring_1", 8192)
            one.leave_out("produce_9")
            one.load()

    leaks(load, 1000)


def test_load_with_relocations(opened, compiled, leaks):
    opened("hooks")

    def load() -> None:
        with Object(compiled("hooks")) as one:
            one.set_constants(watched_tgid=1)
            one.load()
            one.attach("on_tp_btf")

    leaks(load, 30, allowed_kb=2048)


def test_an_object_forgotten_is_closed(opened, compiled, leaks):
    opened("rings")

    def load() -> None:
        Object(compiled("rings")).load()

    leaks(load, 500)


def test_refused_load(opened, compiled, leaks):
    opened("refused")

    def load() -> None:
        with Object(compiled("refused")) as one, pytest.raises(EagleEyeError):
            one.load()

    leaks(load, 2000, allowed_kb=256)


def test_broken_file(leaks, tmp_path):
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(b"\x7fELF" + bytes(100))

    def load() -> None:
        with pytest.raises(EagleEyeError):
            Object(broken)

    leaks(load, 2000)


# The kernel waits for every CPU before a tracepoint is free of its program: some 15 ms.
@pytest.mark.parametrize(("program", "rounds"), [("on_raw_tp", 150), ("on_tp_btf", 150), ("on_task", 3000)])
def test_attach_and_close(hooks, leaks, program, rounds):
    leaks(lambda: hooks.attach(program).close(), rounds)
    assert len(hooks._links) <= 1


def test_attach_perf_event(hooks, leaks):
    leaks(lambda: hooks.attach_perf_event("on_perf_event", cpu=0, frequency_hz=99).close(), 200)


def test_attach_uprobe(hooks, leaks):
    leaks(lambda: hooks.attach_uprobe("on_uprobe", Path(sys.executable).resolve(), 0x1000, pid=os.getpid()).close(), 12)


def test_failed_attach(hooks, leaks):
    def attach() -> None:
        for attempt in (
            lambda: hooks.attach("on_uprobe"),
            lambda: hooks.attach("absent"),
            lambda: hooks.attach_uprobe("on_uprobe", Path("/bin/sh"), 1 << 40),
            lambda: hooks.attach_perf_event("on_perf_event", cpu=99999, frequency_hz=99),
            lambda: hooks.attach_perf_event("on_tp_btf", cpu=0, frequency_hz=99),
        ):
            with pytest.raises(EagleEyeError):
                attempt()

    leaks(attach, 1000)


def test_map_calls(opened, leaks):
    maps = opened("maps")
    maps.load()
    key, value = bytes(4), bytes(8)

    def use() -> None:
        table = maps.map("hash")
        table.put(key, value)
        assert table.get(key) == value
        assert len(list(table.items())) == 1
        assert table.delete(key)
        maps.map("per_cpu").get(key)
        maps.map("mmapable").view(np.dtype([("word", "<u4", 3)])).sum
        maps.map(".bss").view(np.dtype([("seen", "<u8", 4)]))

    leaks(use, 5000)


def test_set_constants(opened, leaks):
    maps = opened("maps")
    leaks(lambda: maps.set_constants(narrow=3, negative=-7, wide=9, flag=True), 5000)


def test_ring_open_drain_close(rings, run_program, leaks):
    def use() -> None:
        ring = Ring(rings.map("ring_4"), RECORD, capacity_records=64)
        run_program(rings, "produce_4", 20)
        assert len(ring.drain()) == 20
        ring.close()

    leaks(use, 3000)


def test_ring_forgotten(rings, leaks):
    def use() -> None:
        Ring(rings.map("ring_4"), RECORD, capacity_records=64)

    leaks(use, 1000)


def test_drain(rings, run_program, leaks):
    ring = Ring(rings.map("ring_4"), RECORD)

    def use() -> None:
        run_program(rings, "produce_4", 10)
        ring.drain()

    leaks(use, 20_000)


def test_iterator(hooks, leaks):
    iterator = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=4096)
    leaks(iterator.read, 3000)
    small = Iterator(hooks.attach("on_task"), SEEN_TASK, capacity_records=2)
    leaks(small.read, 1000)


def test_facts(leaks):
    def use() -> None:
        libbpf_version()
        possible_cpus()
        record_dtype("sched_long_wait")

    leaks(use, 5000)


def test_symbols_cache_is_bounded(leaks, tmp_path, monkeypatch):
    monkeypatch.setattr("eagle_eye.native.symbols.MAX_CACHED", 100)
    (tmp_path / "kallsyms").write_text("".join(f"{0xFFFFFFFF81000000 + 64 * i:016x} T f{i}\n" for i in range(1000)))
    symbols = KernelSymbols(tmp_path)
    counter = iter(range(10**9))
    leaks(lambda: symbols.resolve([0xFFFFFFFF81000000 + next(counter) % 64000]), 500)
    assert len(symbols._names) <= 100
