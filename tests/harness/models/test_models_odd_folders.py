"""Folders of models come from anybody: whatever they hold ends in a sentence, within seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.models import Models, endless
from harness.records import EvidenceError, HarnessError, ModelSpec, Reply, Request, Sampling

DEEP = "[" * 100_000
NEVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BACKTRACKING = {
    "type": "Split",
    "pattern": {"Regex": r"(\w+\s?)*$"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.fixture
def models() -> Iterator[Models]:
    models = Models()
    yield models
    models.close()


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base, to be changed."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in tiny_base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def asked(models: Models, folder: Path, **fields: Any) -> Reply:
    spec = ModelSpec("odd", "local", str(folder), sampling=Sampling(max_tokens=2), **fields)
    models.identity(spec)
    text = "the kettle with a very long name is broken!"
    request = Request("0" * 64, spec, ({"role": "user", "content": text},), 9)
    (replies,) = models.ask([[request]])
    return replies[request.key]


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [DEEP, '{"a": ' * 100_000, "[]", "5", '"x"', "{}", "\xff", ""])
def test_a_file_of_settings_that_is_none_is_a_sentence(
    models: Models, folder: Path, name: str, content: str
) -> None:
    (folder / name).write_text(content, "latin-1")
    if (name, content) == ("tokenizer_config.json", "{}"):
        return  # everything in it has a default
    with pytest.raises(HarnessError, match=r"cannot be loaded: [^\n]+$"):
        asked(models, folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": "many"},
        {"num_hidden_layers": -1},
        {"hidden_size": 10**12},
        {"vocab_size": None},
        {"architectures": 5},
        {"model_type": ["qwen3"]},
        {"rope_parameters": "none"},
        {"layer_types": {"a": 1}},
        {"text_config": {"num_hidden_layers": 10**9}},
    ],
)
def test_a_configuration_of_wrong_types_or_sizes_is_a_sentence(
    models: Models, folder: Path, change: dict[str, Any]
) -> None:
    changed(folder / "config.json", lambda values: values.update(change))
    with suppress(HarnessError):  # what a library leaves alone is harmless
        assert isinstance(asked(models, folder), Reply)


def test_a_template_that_fills_the_memory_is_stopped(models: Models, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**11 }}")
    with pytest.raises(HarnessError, match="chat template does not end"):
        asked(models, folder)


def test_a_template_that_does_not_end_with_tools_alone_is_stopped(
    models: Models, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endless, "WALL_S", 3.0)
    plain = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(f"{{% if tools %}}{NEVER}{{% endif %}}{plain}")
    with pytest.raises(HarnessError, match="chat template does not end"):
        asked(models, folder)


@pytest.mark.parametrize("template", ["{% for i in range(10**12) %}x{% endfor %}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_costs_the_reply(models: Models, folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert "it fails on the messages" in (asked(models, folder).error or "")


def test_a_pattern_that_does_not_end_costs_the_reply(models: Models, folder: Path) -> None:
    changed(folder / "tokenizer.json", lambda values: values.update(pre_tokenizer=BACKTRACKING))
    assert "the tokenizer fails on the text" in (asked(models, folder).error or "")


def test_a_pipe_is_not_waited_for(models: Models, folder: Path) -> None:
    for name in ("config.json", "extra.safetensors"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    with pytest.raises(HarnessError, match=r"extra\.safetensors is no plain file"):
        asked(models, folder)
    (folder / "extra.safetensors").unlink()
    with pytest.raises(HarnessError, match="it is not a regular file"):
        asked(models, folder)


@pytest.mark.parametrize("content", [DEEP, "[]", "{}", '{"peft_type": 5}', '{"r": "x"}'])
def test_an_odd_adapter_is_a_sentence(
    models: Models, tiny_base: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(EvidenceError, match=r"the adapter cannot be loaded: [^\n]+$"):
        asked(models, tiny_base, adapter=tmp_path)


def test_code_in_a_folder_is_never_run(
    models: Models, folder: Path, add_code: Callable[[Path], Path]
) -> None:
    trace = add_code(folder)
    with pytest.raises(HarnessError, match="cannot be loaded"):
        asked(models, folder)
    assert not trace.exists()
