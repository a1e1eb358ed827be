"""The tests of one process once more, with older versions of vLLM: install.sh VERSION… puts them beside ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("0.28.0", "0.30.0", "0.31.0")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_in_process(version):
    folder = ROOT / "build/engine-vllm" / version
    if not (folder / "vllm").is_dir():
        pytest.skip(f"vLLM {version} is not there: tests/engine/install.sh {version}")
    here = Path(__file__).parent
    settings = dict(os.environ, PYTHONPATH=str(folder), EXPECTED_VLLM=version)
    command = [sys.executable, "-m", "pytest", "-c", here / "pytest.ini", "--rootdir", here, "--confcutdir", here]
    done = subprocess.run(
        [*command, "-q", "-p", "no:logging", here / "test_in_process.py"],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6000:]
