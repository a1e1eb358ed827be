"""The plugin in a real vLLM in one process, where `make test-engine` has installed one."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "build/engine-venv"


@pytest.mark.timeout(600)
def test_steps_of_a_real_engine():
    if not (ENGINE / ".installed").exists():
        pytest.skip("no vLLM here (2 GB): make test-engine installs it into build/engine-venv")
    subprocess.run([ROOT / "tests/engine/install.sh"], check=True, capture_output=True)
    here = ROOT / "tests/engine"
    options = ["-c", here / "pytest.ini", "--rootdir", here, "--confcutdir", here, "-q", "-x", "-m", "not more"]
    command = ["nice", ENGINE / "bin/python", "-m", "pytest", *options, here / "test_in_process.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
