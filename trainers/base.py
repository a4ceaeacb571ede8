"""The base model of a recipe: where its weights are, what they are, how large."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.model_folder import refuse_endless, settings_of, tensors_of
from harness.records import HarnessError, digest_of

SMALL = 50_000_000
"""A base with fewer parameters learns at ten times the usual rate (measured)."""

SMALL_VOCABULARY = 8_192
"""Up to so many entries the embeddings are trained too: a small base has not seen all words."""

MODEL_FILES = {".json", ".jinja", ".model", ".safetensors", ".txt"}

_LARGE_FILE = 1 << 28
_BLOCK = 1 << 20
_BLOCKS = 64


@dataclass(frozen=True)
class Base:
    """A base model: `source` and `revision` are what `from_pretrained` takes.

    `digest` names the weights and nothing else: neither path nor device. `parameters` and
    `vocabulary` are None for a model on the hub, which may not be on this machine yet.
    """

    spec: str
    source: str
    revision: str | None
    digest: str
    parameters: int | None = None
    vocabulary: int | None = None

    @property
    def small(self) -> bool:
        """Whether the model is far smaller than those that the usual settings are made for."""
        return self.parameters is not None and self.parameters < SMALL

    @property
    def on_hub(self) -> bool:
        """Whether loading the model may need the network."""
        return self.parameters is None


def find_base(spec: str, root: Path, revision: str | None = None) -> Base:
    """Return the base that `spec` names: `bundled:NAME`, `local:PATH` or `local:HUB-ID`.

    A path may be relative to `root`. `revision` is a branch, tag or commit on the hub.

    Raises:
        HarnessError: there is no such model, or it is none that can be trained here.

    """
    provider, _, target = spec.partition(":")
    if provider == "bundled":
        return _folder(spec, _bundled(target))
    if provider != "local" or not target:
        raise HarnessError(
            f"the base {spec!r} cannot be trained here; "
            "name one as 'bundled:pocket', 'local:PATH' or 'local:HUB-ID'"
        )
    if (root / target).is_dir():
        return _folder(spec, root / target)
    commit = _commit(target, revision)
    return Base(spec, target, commit, digest_of([target, commit]))


def _bundled(name: str) -> Path:
    if name != "pocket":
        raise HarnessError(f"there is no bundled model {name!r}; the bundled model is 'pocket'")
    from trainers import pocket

    return pocket.path()


def _folder(spec: str, folder: Path) -> Base:
    try:
        config = settings_of(folder / "config.json")
        tensors = [s for path in folder.glob("*.safetensors") for s in tensors_of(path).values()]
        if tensors:
            refuse_endless(config, len(tensors))
    except (OSError, ValueError) as problem:
        raise HarnessError(
            f"the base {spec!r} is no whole model in {folder}: {problem}; "
            "name a folder with config.json, a tokenizer and *.safetensors"
        ) from None
    if not (parameters := sum(map(math.prod, tensors))):
        raise HarnessError(f"the base {spec!r} has no *.safetensors in {folder}; save it as such")
    return Base(spec, str(folder), None, _weights_digest(folder), parameters, _vocabulary(config))


def _vocabulary(config: dict[str, Any]) -> int | None:
    text = config.get("text_config", config)
    size = text.get("vocab_size") if isinstance(text, dict) else None
    return size if isinstance(size, int) else None


def _weights_digest(folder: Path) -> str:
    files = (path for path in folder.iterdir() if path.suffix in MODEL_FILES and path.is_file())
    return digest_of({path.name: file_digest(path) for path in files})


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; above 256 MiB of its size and 64 of its MiB, evenly spread.

    Gigabytes of weights would take longer to hash than a run that finds everything cached.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _LARGE_FILE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        sample = hashlib.sha256(str(size).encode())
        for start in _block_starts(size):
            file.seek(start)
            sample.update(file.read(_BLOCK))
    return sample.hexdigest()


def _block_starts(size: int) -> Iterator[int]:
    return (index * (size - _BLOCK) // (_BLOCKS - 1) for index in range(_BLOCKS))


def _commit(hub_id: str, revision: str | None) -> str:
    """Return the commit of a hub model: the one on this machine, else the hub's newest."""
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        raise HarnessError("training needs the extra: pip install 'pytest-finetune[local]'")
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(hub_id, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        return str(HfApi().model_info(hub_id, revision=revision).sha)
    except Exception as problem:  # the hub's, its HTTP client's and the system's errors alike
        first = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        raise HarnessError(
            f"the base 'local:{hub_id}' is neither a folder nor a model on the hub: {first}; "
            "correct the path or the id"
        ) from None
