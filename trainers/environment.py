"""What a training child finds in its environment: what it needs, and nobody's keys."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.recipe import Recipe

GIVEN = frozenset({"HF_TOKEN"})
"""What every training gets: gated bases are loaded with it."""

_SECRET_NAME = re.compile(
    r"KEY|TOKEN(?!IZERS)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|PRIVATE|WEBHOOK"
    r"|(^|_)(PASS|PAT|PWD|PW|DSN|SAS)$",
    re.IGNORECASE,
)
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})

_SECRET_VALUE = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@"
    r"|(sk-|gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|AKIA|eyJ)[\w.-]{12,}",
    re.ASCII,
)
"""An address with a password, or what begins as the keys of well-known services do."""

_HERE = str(Path(__file__).parent.parent)
_SHORTEST = 8
"""Characters of the shortest value that is taken for a key wherever it stands."""


def without_secrets(
    environment: Mapping[str, str], given: Collection[str] = (), keys: Collection[str] = ()
) -> dict[str, str]:
    """Return `environment` without what is secret by its name or its value.

    `given` names the variables that stay whatever they hold, beside `GIVEN`; `keys` those that hold
    keys whatever they are called.
    """
    stays = GIVEN | set(given)
    secret = {name for name in environment if name in keys or _is_secret_name(name)}
    values = {environment[name] for name in secret | GIVEN & environment.keys()}
    known = {value for value in values if len(value) >= _SHORTEST and not os.path.isabs(value)}
    return {
        name: value
        for name, value in environment.items()
        if name in stays or not (name in secret or value in known or _SECRET_VALUE.match(value))
    }


def _is_secret_name(name: str) -> bool:
    return name.upper() not in _NO_SECRETS and bool(_SECRET_NAME.search(name))


def child_environment(recipe: Recipe, keys: Collection[str] = ()) -> dict[str, str]:
    """Return the environment of the process that trains `recipe`.

    `keys` names the variables in which the project keeps keys of services.
    """
    proxies = [name for name in os.environ if name.upper().endswith("_PROXY")]
    given = [*recipe.env, *(proxies if recipe.base.on_hub else ())]
    environment = {
        **without_secrets(os.environ, given, keys),
        "PYTHONPATH": os.pathsep.join(filter(None, [_HERE, os.environ.get("PYTHONPATH")])),
        # PEFT writes sets, whose order would differ from run to run.
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing is compiled; bitsandbytes would load the compiler, which takes a second.
        "TORCHDYNAMO_DISABLE": "1",
        # TRL refuses more than one visible GPU without a launcher.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
    }
    if not recipe.base.on_hub:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment
