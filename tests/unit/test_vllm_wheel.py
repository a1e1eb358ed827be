"""The plugin's own wheel: everything in it, nothing needed."""

import ast
import configparser
import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "probes/engine/vllm"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, FOLDER]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("eagle_eye_vllm-*-py3-none-any.whl"))) as opened:
        yield opened


def read(wheel, name):
    return wheel.read(next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))).decode()


def test_it_holds_the_folder_s_modules_and_nothing_else(wheel):
    inside = {path for path in wheel.namelist() if ".dist-info/" not in path}

    assert inside == {f"eagle_eye_vllm/{path.name}" for path in FOLDER.glob("*.py")}


def test_it_needs_nothing(wheel):
    said = email.message_from_string(read(wheel, "METADATA"))

    assert said.get_all("Requires-Dist") is None
    assert said["Requires-Python"] == ">=3.9"
    assert said["License-Expression"] == "Apache-2.0"


def test_vllm_finds_both_halves(wheel):
    points = configparser.ConfigParser()
    points.read_string(read(wheel, "entry_points.txt"))

    assert set(points.sections()) == {"vllm.general_plugins", "vllm.stat_logger_plugins"}
    for section in points.sections():
        for value in points[section].values():
            module, name = value.split(":")
            tree = ast.parse((FOLDER / f"{module.rpartition('.')[2]}.py").read_text())
            assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_nothing_is_left_in_the_tree(wheel):
    assert not (FOLDER / "build").exists()
