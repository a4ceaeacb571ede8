"""Which weights, which arithmetic: a local model's identity, told without importing torch."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from harness.records import EvidenceError, HarnessError, ModelSpec

BUNDLED = ("pocket",)
QUANTIZATIONS = ("none", "nf4")
WHOLE_BYTES = 64 * 2**20
EDGE_BYTES = 2**20

_MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def digest_of_source(source: Path | str) -> str:
    """Return the digest of a folder; of a model on the hub, which its revision pins, the id."""
    return folder_digest(source) if isinstance(source, Path) else f"hub:{source}"


def folder_digest(folder: Path, patterns: Sequence[str] = _MODEL_FILES) -> str:
    """Return the SHA-256 (64 hex digits) of the files in `folder` whose names match.

    Of files above 64 MiB only the name, size, time of change and both ends count: hashing
    gigabytes would take longer than a run.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
            digest.update(f"{path.name}\0{_file_digest(path)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    with path.open("rb") as file:
        if status.st_size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        digest.update(file.read(EDGE_BYTES))
        file.seek(-EDGE_BYTES, os.SEEK_END)
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def device() -> str:
    """Return the device that models are asked on: `cuda`, `mps` or `cpu`."""
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    has_driver = Path("/proc/driver/nvidia/version").exists() or Path("/dev/dxg").exists()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return "cuda" if has_driver and not hidden and "+cpu" not in _torch_version() else "cpu"


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "+cpu"


def kernel(quantization: str) -> str:
    """Return which arithmetic answers: the device, and what changes logits on it.

    bitsandbytes computes 4-bit layers in bfloat16 where the CPU has instructions for it.
    """
    if device() == "cpu" and quantization == "nf4" and _has_bf16_instructions():
        return "cpu-avx512bf16"
    return device()


def _has_bf16_instructions() -> bool:
    with suppress(OSError):
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return False


def source_of(spec: ModelSpec) -> Path | str:
    """Return where the base of `spec` is: a folder, or the id of a repository on the hub.

    Raises:
        HarnessError: there is no such bundled model or folder.

    """
    if spec.provider == "bundled":
        return _bundled(spec)
    path = Path(spec.target).expanduser()
    if path.is_dir():
        return _checked(path, spec)
    if path.exists() or not _HUB_ID.fullmatch(spec.target):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}): there is no folder {spec.target}; "
            "write the path of a folder with a model, or its id on the hub"
        )
    return spec.target


def _bundled(spec: ModelSpec) -> Path:
    if spec.target not in BUNDLED:
        raise HarnessError(
            f"the model {spec.name!r} is {spec.spec!r}, and there is no such bundled model; "
            f"use one of {', '.join(f'bundled:{name}' for name in BUNDLED)}"
        )
    folder = Path(str(files(f"trainers.{spec.target}"))) / "weights"
    if not folder.is_dir():
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) has no weights in {folder}; "
            f"install the package again, or make them: python -m trainers.{spec.target}.build"
        )
    return _checked(folder, spec)


def is_bundled(folder: Path) -> bool:
    """Whether `folder` holds the weights of a bundled model."""
    return folder.parent.parent == Path(str(files("trainers")))


def _checked(folder: Path, spec: ModelSpec) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}): {folder} holds no weights as .safetensors; "
            "convert them, other formats can run code when they are loaded"
        )
    return folder


def quantization_of(spec: ModelSpec) -> str:
    """Return `none` or `nf4`, as the model's options say; HarnessError for anything else."""
    value = spec.options.get("quantization", "none")
    if value not in QUANTIZATIONS:
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) has quantization = {value!r}; "
            f"use one of {', '.join(QUANTIZATIONS)}"
        )
    return str(value)


def adapter_digest(spec: ModelSpec) -> str | None:
    """Return the digest of the trained artefact of `spec`; EvidenceError if a file is missing."""
    if spec.adapter is None:
        return None
    if missing := [name for name in _ADAPTER_FILES if not (spec.adapter / name).is_file()]:
        raise EvidenceError(
            f"{spec.adapter}: the candidate {spec.name!r} has lost its {missing[0]}; "
            "delete the folder to train it again"
        )
    return folder_digest(spec.adapter, _ADAPTER_FILES)
