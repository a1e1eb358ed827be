"""BPF test programs, compiled with the product's own flags, and ways to run them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eagle_eye.native import failures
from eagle_eye.native._bpf import lib
from eagle_eye.native.bpf import Object
from eagle_eye.native.device import Board
from eagle_eye.native.maps import possible_cpus
from eagle_eye.native.nvml import Nvml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def load_module(path: Path):
    """A file that is no part of the package, as a module."""
    spec = importlib.util.spec_from_file_location(f"eagle_eye_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build():
    """setup.py as a module."""
    return load_module(ROOT / "setup.py")


@pytest.fixture(scope="session")
def compiled(build, tmp_path_factory):
    """`compiled("rings")` is the path of the object of tests/native/rings.bpf.c."""
    if shutil.which(build.CLANG) is None:
        pytest.skip("clang is not installed")
    home = tmp_path_factory.mktemp("bpf") / platform.machine()
    done: dict[str, Path] = {}

    def compile_once(name: str) -> Path:
        if name not in done:
            build.compile_bpf(HERE / f"{name}.bpf.c", home / f"{name}.bpf.o")
            done[name] = home / f"{name}.bpf.o"
        return done[name]

    return compile_once


@pytest.fixture
def opened(compiled):
    """`opened("rings")` is an Object, closed after the test. Skips where BPF is not allowed."""
    missing = failures.missing_capabilities()
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing")
    if not failures.BTF_PATH.exists():
        pytest.skip("the kernel has no BTF")
    objects = []

    def open_one(name: str) -> Object:
        objects.append(Object(compiled(name)))
        return objects[-1]

    yield open_one
    for one in objects:
        one.close()


@pytest.fixture(scope="session")
def run_program():
    """`run_program(object, "name", 1, 2, 3)` runs a raw_tp program once with these arguments."""
    bpf_run = load_module(ROOT / "tests/bench/bpf_run.py")

    def run(loaded: Object, program: str, *arguments: int) -> None:
        bpf_run.run_program(lib.bpf_program__fd(loaded._find_program(program)), *arguments)

    return run


@pytest.fixture
def in_child():
    """`in_child(code, *prefix)` runs Python in a child process behind a prefix such as unshare(1)."""

    def run(code: str, *prefix: str) -> str:
        command = [*prefix, sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "nothing is printed behind the caller's back"
        return done.stdout.strip()

    return run


@pytest.fixture
def leaks():
    """`leaks(action, rounds)` asserts that many rounds leave no descriptor and no memory behind."""

    def usage() -> SimpleNamespace:
        resident_kb = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
        return SimpleNamespace(fds=len(os.listdir("/proc/self/fd")), resident_kb=resident_kb)

    def check(action, rounds: int, allowed_kb: int = 512) -> None:
        for _ in range(rounds // 4 + 1):
            action()
        before = usage()
        for _ in range(rounds):
            action()
        after = usage()
        assert after.fds == before.fds
        assert after.resident_kb - before.resident_kb <= allowed_kb

    return check


@pytest.fixture(scope="session")
def cpus() -> int:
    return possible_cpus()


@pytest.fixture(scope="session")
def nvml_stub(tmp_path_factory):
    """nvml_stub.py as a module, with the whole library compiled at `nvml_stub.whole`."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    module = load_module(HERE / "nvml_stub.py")
    module.whole = module.compile_stub(tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1")
    return module


@pytest.fixture
def stub(nvml_stub, tmp_path):
    """The variables of a stub library that no other test has loaded."""
    return nvml_stub.Stub(Path(shutil.copy(nvml_stub.whole, tmp_path / "libnvidia-ml.so.1")))


@pytest.fixture
def board():
    board = Board.create()
    yield board
    board.close()


@pytest.fixture
def nvml(stub):
    """The stub opened, initialized and its first device in slot 0."""
    with Nvml(stub.path) as nvml:
        nvml.init()
        nvml.watch(0, "GPU-a")
        yield nvml
