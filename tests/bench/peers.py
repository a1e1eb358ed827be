"""Peers that need the distribution's Python and kernel headers: BCC, in a child process."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BCC_PYTHON = "/usr/bin/python3"
HEADERS = Path("/usr/src")


@contextmanager
def kernel_headers() -> Iterator[None]:
    """BCC compiles against /lib/modules/$(uname -r): linked to any installed headers while it runs."""
    home = Path("/lib/modules") / platform.release()
    links = {
        home / name: sorted(HEADERS.glob(f"linux-headers-*-{kind}"))[-1:]
        for name, kind in (("build", "a[mr][dm]64"), ("source", "common"))
    }
    if (home / "build").exists() or not all(links.values()):
        yield
        return
    home_is_new = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    for link, (target,) in links.items():
        link.symlink_to(target)
    try:
        yield
    finally:
        for link in links:
            link.unlink()
        if home_is_new:
            home.rmdir()


def run_bcc(script: Path, *arguments: object) -> Any:
    """The JSON object that `script` prints last."""
    command = [BCC_PYTHON, str(script), *map(str, arguments)]
    with kernel_headers():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script.name} failed (needs python3-bpfcc and linux-headers):\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])
