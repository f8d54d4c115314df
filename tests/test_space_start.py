"""The staged tree in a virtual environment of its own, as the Hub builds it (slow: installs torch).

python -m pytest -m slow tests/test_space_start.py -s
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from gradio_client import Client

from tests.serving import ROOT, serve

VERSIONS = "import torch, pydantic, sys; print(sys.version_info[:2], torch.__version__)"


def python_of(card: Path) -> str:
    """The interpreter that the card names, or this one where it is not installed."""
    version = yaml.safe_load(card.read_text("utf-8").split("---\n")[1])["python_version"]
    found = shutil.which(f"python{version}")
    works = found and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    return found if works else sys.executable


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_staged_tree_starts_from_its_own_requirements_alone(tmp_path):
    tree, venv = tmp_path / "space", tmp_path / "venv"
    stage = [sys.executable, "spaces/space.py", "stage", "--output", str(tree)]
    subprocess.run(stage, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    began = time.monotonic()
    subprocess.run([python_of(tree / "README.md"), "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "-r", str(tree / "requirements.txt")]
    subprocess.run(install, check=True)
    installed = time.monotonic()
    clean = {"SYSTEM": "spaces", "SPACE_ID": "x/y", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    with serve(tmp_path, program=(str(tree / "app.py"),), python=python, **clean) as space:
        served = time.monotonic()
        client = Client(space.url, verbose=False)
        try:
            pictures, details = client.predict(
                prompt="a photo of a blue circle", num_steps=4, api_name="/compare"
            )
        finally:
            client.close()
    assert [Path(each["image"]).suffix for each in pictures] == [".png"] * 3
    assert details["num_predictions"] == 4 * (1 + 2 + 2)
    done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    seconds = {"install": installed - began, "serve": served - installed}
    sys.stdout.write(f"\n{done.stdout.strip()} {json.dumps(seconds)}\n")
