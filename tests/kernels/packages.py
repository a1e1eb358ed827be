"""Debian's own kernels: found, fetched and unpacked below a cache folder, nothing installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = ("debian bullseye", "debian-security bookworm-security")
# Of 5.10 the last point release: later builds carry changes of newer kernels.
SERIES = {
    "5.10": r"^linux-image-5\.10\.0-[0-9]+-cloud-amd64$",
    "6.1": r"^linux-image-6\.1\.[0-9]+-[0-9]+-cloud-amd64$",
    "6.12": r"^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64$",
}
LISTS_KEEP_S = 24 * 3600


class KernelUnavailable(Exception):
    """No package of this series could be had; the message says why."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package; `modules` is its lib/modules/RELEASE."""

    series: str
    release: str
    image: Path
    modules: Path


def cache_folder() -> Path:
    """Outside the repository, so that `make clean` does not fetch 80 MB again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eagle-eye" / "kernels"


def fetch(series: str, cache: Path) -> Kernel:
    """The newest kernel of `series`, else the one in the cache; KernelUnavailable when there is neither."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        package = newest_package(series, cache)
        if not (cache / package).exists():
            unpack(package, cache / package, cache)
    except KernelUnavailable:
        unpacked = sorted(cache.glob(f"linux-image-{series}.*"), key=by_numbers)
        if not unpacked:
            raise
        package = unpacked[-1].name
    remove_others(package, series, cache)
    return unpacked_kernel(series, cache / package)


def remove_others(package: str, series: str, cache: Path) -> None:
    for folder in cache.glob(f"linux-image-{series}.*"):
        if folder.name != package:
            shutil.rmtree(folder)


def newest_package(series: str, cache: Path) -> str:
    trouble = refresh_lists(cache)
    found = apt("apt-cache", cache, "search", "--names-only", SERIES[series]).splitlines()
    names = sorted((line.split(" ")[0] for line in found), key=by_numbers)
    if not names:
        raise KernelUnavailable(f"no Linux {series} in {' and '.join(SUITES)} of {MIRROR} {trouble}".strip())
    return names[-1]


def by_numbers(name: str | Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", Path(name).name)]


def refresh_lists(cache: Path) -> str:
    """Why not all suites could be read, "" when they could; what was read before stays."""
    stamp = cache / "apt/refreshed"
    lines = [f"deb [signed-by={KEYRING}] {MIRROR}/{suite} main\n" for suite in SUITES]
    if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_KEEP_S and stamp.read_text() == "".join(lines):
        return ""
    (cache / "apt/lists/partial").mkdir(parents=True, exist_ok=True)
    (cache / "apt/archives/partial").mkdir(parents=True, exist_ok=True)
    (cache / "apt/sources.list").write_text("".join(lines))
    try:
        apt("apt-get", cache, "update")
    except KernelUnavailable as reason:
        return str(reason)
    stamp.write_text("".join(lines))
    return ""


def unpack(package: str, folder: Path, cache: Path) -> None:
    unfinished = folder.with_name(f"unfinished-{os.getpid()}")
    unfinished.mkdir()
    try:
        apt("apt-get", cache, "download", package, cwd=unfinished)
        (archive,) = unfinished.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, unfinished], check=True)
        archive.unlink()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def unpacked_kernel(series: str, folder: Path) -> Kernel:
    release = folder.name.removeprefix("linux-image-")
    subprocess.run(["depmod", "-b", folder, release], check=True)
    return Kernel(series, release, folder / "boot" / f"vmlinuz-{release}", folder / "lib/modules" / release)


def apt(tool: str, cache: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Runs apt with sources and state of its own; the machine's stay as they are."""
    own = {
        "Dir::Etc::sourcelist": cache / "apt/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": cache / "apt/lists",
        "Dir::Cache": cache / "apt",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    options = [f"-o{name}={value}" for name, value in own.items()]
    done = subprocess.run([tool, "-qq", *options, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        last_words = done.stderr.strip().rpartition("\n")[2]
        raise KernelUnavailable(f"{tool} {arguments[0]} failed: {last_words}")
    return done.stdout
