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
LISTS_KEEP_S = 24 * 3600


@dataclass(frozen=True)
class Series:
    """Where the kernels of a series are: folder and suite of the mirror, their releases, their packages."""

    suite: str
    release: str
    parts: tuple[str, ...] = ("image",)


SERIES = {
    # The last point release: later builds carry changes of newer kernels.
    "5.10": Series("debian bullseye", r"5\.10\.0-[0-9]+-cloud-amd64"),
    "6.1": Series("debian-security bookworm-security", r"6\.1\.[0-9]+-[0-9]+-cloud-amd64"),
    "6.12": Series("debian-security bookworm-security", r"6\.12\.[0-9]+\+deb12-cloud-amd64"),
    "sid": Series("debian sid", r"[0-9.]+\+deb[0-9]+-cloud-amd64", ("binary", "base", "modules")),
}
USUAL = ("5.10", "6.1", "6.12")


class KernelUnavailable(Exception):
    """No package of this series could be had; the message says why."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel; its modules are in `root`/lib/modules/`release`."""

    release: str
    image: Path
    root: Path


def cache_folder() -> Path:
    """Outside the repository, so that `make clean` does not fetch 80 MB again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eagle-eye" / "kernels"


def fetch(name: str, cache: Path) -> Kernel:
    """The newest kernel of a series, else the one in the cache; KernelUnavailable when there is neither."""
    series, home = SERIES[name], cache / name
    home.mkdir(parents=True, exist_ok=True)
    try:
        release = newest_release(series, cache)
        if not (home / release).exists():
            unpack(series, release, home, cache)
    except KernelUnavailable:
        unpacked = sorted((folder.name for folder in home.iterdir()), key=by_numbers)
        if not unpacked:
            raise
        release = unpacked[-1]
    remove_others(home, release)
    return unpacked_kernel(home / release)


def newest_release(series: Series, cache: Path) -> str:
    refresh_lists(series, cache)
    prefix = f"linux-{series.parts[0]}-"
    found = apt("apt-cache", series, cache, "search", "--names-only", f"^{prefix}{series.release}$").splitlines()
    names = sorted((line.split(" ")[0] for line in found), key=by_numbers)
    if not names:
        raise KernelUnavailable(f"no kernel {series.release} in {MIRROR}/{series.suite}")
    return names[-1].removeprefix(prefix)


def by_numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", name)]


def refresh_lists(series: Series, cache: Path) -> None:
    state = apt_state(series, cache)
    stamp = state / "refreshed"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_KEEP_S:
        return
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR}/{series.suite} main\n")
    apt("apt-get", series, cache, "update")
    stamp.touch()


def unpack(series: Series, release: str, home: Path, cache: Path) -> None:
    unfinished = cache / f"unfinished-{os.getpid()}"
    unfinished.mkdir()
    try:
        names = [f"linux-{part}-{release}" for part in series.parts]
        apt("apt-get", series, cache, "download", *names, cwd=unfinished)
        for archive in unfinished.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, unfinished], check=True)
            archive.unlink()
        if not (unfinished / "lib").exists():
            (unfinished / "lib").symlink_to("usr/lib")
        unfinished.rename(home / release)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_others(home: Path, release: str) -> None:
    for folder in home.iterdir():
        if folder.name != release:
            shutil.rmtree(folder)


def unpacked_kernel(root: Path) -> Kernel:
    subprocess.run(["depmod", "-b", root, root.name], check=True)
    images = root / "boot" / f"vmlinuz-{root.name}", root / "lib/modules" / root.name / "vmlinuz"
    return Kernel(root.name, next(image for image in images if image.exists()), root)


def apt_state(series: Series, cache: Path) -> Path:
    return cache / "apt" / series.suite.replace(" ", "-")


def apt(tool: str, series: Series, cache: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Runs apt with sources and state of its own; the machine's stay as they are."""
    state = apt_state(series, cache)
    own = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state,
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    options = [f"-o{name}={value}" for name, value in own.items()]
    done = subprocess.run([tool, "-qq", *options, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        last_words = done.stderr.strip().rpartition("\n")[2]
        raise KernelUnavailable(f"{tool} {arguments[0]} failed: {last_words}")
    return done.stdout
