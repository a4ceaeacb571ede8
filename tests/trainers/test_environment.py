"""A training gets what it needs of the environment, and nobody's keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trainers
from harness.config import parse
from harness.records import HarnessError
from trainers.environment import without_secrets

TELLING = """
import json, os, sys
if "trainers.local" in sys.orig_argv:
    json.dump(dict(os.environ), open(os.environ["TOLD"], "w"))
    print(json.dumps({"kind": "failed", "message": "told"}), flush=True)
    os._exit(0)
"""
"""A `sitecustomize` that writes down the environment in place of a training."""

SECRETS = {
    "OPENAI_API_KEY": "sk-canary-openai-1234",
    "WANDB_API_KEY": "canary-wandb-1234",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-1234",
    "GITHUB_TOKEN": "canary-github-1234",
    "DB_PASSWORD": "canary-db-1234",
    "PGPASSWORD": "canary-pg-1234",
    "registry_pass": "canary-registry-1234",
    "GOOGLE_APPLICATION_CREDENTIALS": "/canary/credentials.json",
    "TEAM_ACCOUNT": "canary-of-a-table-1234",
    "JUDGE_ACCOUNT": "canary-of-a-judge-1234",
    "COPY": "canary-of-a-table-1234",
    "DATABASE_URL": "postgres://user:canary@db/x",
    "MY_SETTING": "ghp_canary0123456789abcdef",
}
"""Secrets by their name, by a table's `api_key_env`, as copies of those, and by their shape."""

HARMLESS = {
    "HF_TOKEN": "hf_token0123456789abcdef",
    "HF_HOME": "/models",
    "MY_MODE": "fast",
    "PROXY_URL": "http://proxy:3128/x@y",
    "TOKENIZERS_PARALLELISM": "true",
}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where children write their environment down."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(TELLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("TOLD", str(tmp_path / "told.json"))
    for name, value in {**SECRETS, **HARMLESS}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "told.json"


def environment(project: Any, told: Path, **settings: Any) -> dict[str, str]:
    """Train something and return what its process found in its environment."""
    recipe = project.recipe(project.tickets(4), trainer="lora", **settings)
    keys = parse(
        {
            "models": {"m": {"model": "openai:x", "api_key_env": "TEAM_ACCOUNT"}},
            "judges": {"j": {"model": "openai:y", "api_key_env": "JUDGE_ACCOUNT"}},
        }
    ).key_variables
    with pytest.raises(trainers.TrainingError, match="told"):
        trainers.train(recipe, project.home, keys=keys)
    assert "canary" not in "".join(p.read_text() for p in project.home.rglob("*") if p.is_file())
    found: dict[str, str] = json.loads(told.read_text())
    return found


def test_a_training_gets_no_secrets_but_its_hub_token(project: Any, told: Path) -> None:
    found = environment(project, told)
    assert {name for name, value in found.items() if "canary" in value} == set()
    assert found.items() >= {**HARMLESS, "TOKENIZERS_PARALLELISM": "false"}.items()
    assert found.keys() >= {"PATH", "HOME"}


def test_a_recipe_names_the_secrets_that_its_training_gets(project: Any, told: Path) -> None:
    named = ["WANDB_API_KEY", "TEAM_ACCOUNT", "NOT_SET"]
    found = environment(project, told, env=named)
    secrets = {name: value for name, value in found.items() if "canary" in value}
    assert secrets == {name: SECRETS[name] for name in ("WANDB_API_KEY", "TEAM_ACCOUNT")}
    plain = project.recipe(trainer="lora")
    assert project.recipe(trainer="lora", env=named).fingerprint == plain.fingerprint


def test_short_values_and_paths_are_no_keys() -> None:
    plain = {"PATH": "/home/me", "HOME": "/home/me", "OMP_NUM_THREADS": "1", "PWD": "/home/me"}
    secret = {"SSH_KEY_DIR": "/home/me", "USE_TOKENS": "1", "HF_HUB_TOKEN": "hf-1234567890"}
    found = without_secrets({**plain, **secret, "HF_TOKEN": "hf-1234567890", "X": "hf-1234567890"})
    assert found == {**plain, "HF_TOKEN": "hf-1234567890"}


@pytest.mark.parametrize("env", [["sk-canary"], ["A B"], ["1X"], [""], "WANDB_API_KEY", [5]])
def test_what_names_no_variable_is_refused_unseen(env: object) -> None:
    table = {"trainer": "lora", "train": "x.jsonl", "env": env}
    with pytest.raises(HarnessError, match=r"candidates\.c\.env") as problem:
        parse({"candidates": {"c": table}})
    assert "canary" not in str(problem.value)
    with pytest.raises(HarnessError, match="a service does not take `env`"):
        parse({"candidates": {"c": {"trainer": "openai", "train": "x", "env": ["X"]}}})
