"""The files of a model's folder, which may come from anybody: read with limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.files import read_file

LARGEST = 64 * 2**20
"""Bytes of a file of settings; real ones have kilobytes, tokenizers up to half of it."""

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def settings_of(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of settings.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, too large, nested too deeply, or holds no JSON object.

    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST >> 20} MiB")
    try:
        found = json.loads(read_file(path))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def tensors_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a *.safetensors file, by name.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, cut off, or its header is none.

    """
    if not path.is_file():
        raise ValueError(f"{path.name} is no plain file")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError(f"{path.name} is cut off")
        if size > LARGEST:
            raise ValueError(f"{path.name} has a header of more than {LARGEST >> 20} MiB")
        header = file.read(size)
    try:
        entries = json.loads(header)
    except RecursionError:
        raise ValueError(f"{path.name} has a header that is nested too deeply") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} has no header")
    return {n: _shape(e, path) for n, e in entries.items() if n != "__metadata__"}


def _shape(entry: object, path: Path) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_is_size, shape)):
        raise ValueError(f"{path.name} has a tensor without a shape")
    return tuple(shape)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def refuse_endless(config: Mapping[str, Any], tensors: int) -> None:
    """Raise ValueError if `config` has more layers than its weights have tensors.

    A library would build them all before it looks.
    """
    for name, value in _layers(config):
        if type(value) is not int or not 0 <= value <= tensors:
            raise ValueError(
                f"config.json has {name} = {str(value)[:40]}, and the weights {tensors} tensors"
            )


def _layers(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for part in (config, config.get("text_config")):
        for name in _LAYERS:
            if isinstance(part, Mapping) and part.get(name) is not None:
                yield name, part[name]


def templates_of(folder: Path) -> str:
    """Return the text of all chat templates in a folder, as far as they can be read; "" if none."""
    named = (folder.glob("*.jinja"), folder.glob("additional_chat_templates/*.jinja"))
    texts = [_text(path) for paths in named for path in sorted(paths)]
    for name in ("tokenizer_config.json", "chat_template.json"):
        try:
            texts.append(str(settings_of(folder / name).get("chat_template") or ""))
        except (OSError, ValueError):
            continue
    return "\n".join(texts)


def _text(path: Path) -> str:
    try:
        fits = path.is_file() and path.stat().st_size <= LARGEST
        return path.read_text("utf-8") if fits else ""
    except (OSError, ValueError):
        return ""
