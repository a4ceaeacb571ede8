"""Scripts as people have them run unchanged: only the address is another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TRAINING, VALIDATION

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_fine_tuning_script_works_with_another_address(server, trained, tmp_path, script):
    (tmp_path / "train.jsonl").write_bytes(TRAINING)
    (tmp_path / "validation.jsonl").write_bytes(VALIDATION)
    done = subprocess.run(
        [sys.executable, script, "train.jsonl", "validation.jsonl"],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": server.api, "OPENAI_API_KEY": "sk-none"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status succeeded" in done.stdout
    assert "answer" in done.stdout
    if script.stem == "polling_2023":
        assert "The job has successfully completed" in done.stdout
        assert "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy" in done.stdout
