from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.config import CandidateSettings
from harness.records import HarnessError
from trainers.base import Base, file_digest, find_base
from trainers.recipe import Mix, Recipe, rank_for, resolve

PLAIN = Recipe(
    name="tickets",
    trainer="qlora",
    base=Base("bundled:pocket", "/somewhere", None, "b" * 64, 4_000_000, 2_048),
    root=Path("/project"),
    train=Path("/project/train.jsonl"),
    validation=None,
    mix=None,
    behaviour=None,
    seed=0,
    epochs=3.0,
    learning_rate=2e-3,
    rank=16,
    alpha=32,
    dropout=0.05,
    batch_size=16,
    accumulation=1,
    length=2_048,
    train_embeddings=True,
    weight_decay=0.0,
    warmup=0.1,
    rows=300,
    general_rows=0,
    digests={"train": "t", "general": "g", "validation": "v"},
)

RATES = st.floats(1e-6, 0.9, allow_nan=False)
NUMBERS = st.integers(1, 10_000)
HYPERPARAMETERS: dict[str, st.SearchStrategy[Any]] = {
    "trainer": st.sampled_from(["lora", "qlora", "full"]),
    "seed": st.integers(0, 2**31),
    "epochs": st.floats(0.1, 100),
    "learning_rate": RATES,
    "rank": NUMBERS,
    "alpha": NUMBERS,
    "dropout": RATES,
    "batch_size": NUMBERS,
    "accumulation": NUMBERS,
    "length": NUMBERS,
    "train_embeddings": st.booleans(),
    "weight_decay": RATES,
    "warmup": RATES,
    "base": st.text("abcdef", min_size=1).map(lambda text: replace(PLAIN.base, digest=text)),
    "mix": RATES.map(lambda share: Mix(Path("general.jsonl"), share)),
    "digests": st.sampled_from(["train", "general", "validation"]).map(
        lambda kind: {**PLAIN.digests, kind: "changed"}
    ),
}


@given(
    st.sampled_from(sorted(HYPERPARAMETERS)).flatmap(
        lambda k: st.tuples(st.just(k), HYPERPARAMETERS[k])
    )
)
def test_every_hyperparameter_changes_the_fingerprint(change: tuple[str, Any]) -> None:
    key, value = change
    changed = replace(PLAIN, **{key: value})
    assert (changed.fingerprint == PLAIN.fingerprint) == (value == getattr(PLAIN, key))


@given(st.text(), st.text("abc/", min_size=1), st.none() | st.text())
def test_names_and_paths_do_not_change_the_fingerprint(
    name: str, path: str, behaviour: str | None
) -> None:
    moved = replace(
        PLAIN,
        name=name,
        behaviour=behaviour,
        root=Path(path),
        train=Path(path),
        validation=Path(path),
        base=replace(PLAIN.base, spec=f"local:{path}", source=path),
    )
    assert moved.fingerprint == PLAIN.fingerprint


@given(RATES, st.none() | st.text("abc/", min_size=1))
def test_a_recipe_survives_the_way_to_its_child(share: float, path: str | None) -> None:
    recipe = replace(PLAIN, validation=Path(path) if path else None, mix=Mix(Path("m"), share))
    assert Recipe.from_json(recipe.to_json()) == recipe


@given(st.integers(1, 20_000), st.integers(1, 64), st.integers(1, 16), st.floats(0.1, 20))
def test_planned_steps_cover_the_epochs_and_not_a_batch_more(
    rows: int, batch: int, accumulation: int, epochs: float
) -> None:
    recipe = replace(PLAIN, rows=rows, batch_size=batch, accumulation=accumulation, epochs=epochs)
    per_epoch = -(-rows // (batch * accumulation))
    assert epochs * per_epoch <= recipe.steps < epochs * per_epoch + 1


@pytest.mark.parametrize(
    ("rows", "rank"),
    [(1, 8), (199, 8), (200, 16), (1_000, 16), (1_001, 32), (5_000, 32), (5_001, 64)],
)
def test_rank_grows_with_the_rows(rows: int, rank: int) -> None:
    assert rank_for(rows) == rank


def test_automatic_choices_for_a_small_base(project: Any) -> None:
    recipe = project.recipe(project.tickets(20))
    assert recipe.rows == 20
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (8, 16, 0.05)
    assert (recipe.epochs, recipe.learning_rate, recipe.length) == (3, 2e-3, 2_048)
    assert recipe.batch_size * recipe.accumulation == 16
    assert recipe.train_embeddings
    assert recipe.steps == 6


def test_automatic_choices_for_a_large_base(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large = Base("local:org/large", "org/large", "c" * 40, "d" * 64)
    monkeypatch.setattr("trainers.recipe.find_base", lambda spec, root, revision: large)
    recipe = project.recipe(project.tickets(20))
    assert recipe.learning_rate == 2e-4
    assert (recipe.batch_size, recipe.accumulation) == (4, 4)
    assert not recipe.train_embeddings
    assert project.recipe(trainer="full").learning_rate == 2e-5


def test_full_fine_tuning_has_no_adapter(project: Any) -> None:
    recipe = project.recipe(project.tickets(20), trainer="full")
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.train_embeddings) == (0, 0, 0, False)
    assert (recipe.learning_rate, recipe.weight_decay) == (5e-4, 0.01)
    with pytest.raises(HarnessError, match=r"candidates\.tickets\.rank: full fine-tuning has no"):
        project.recipe(trainer="full", rank=8)


def test_what_the_user_sets_is_not_chosen_again(project: Any) -> None:
    given_settings = {"rank": 3, "alpha": 5, "dropout": 0.0, "epochs": 7, "batch_size": 32}
    recipe = project.recipe(project.tickets(20), **given_settings, train_embeddings=False)
    assert {key: getattr(recipe, key) for key in given_settings} == given_settings
    assert recipe.accumulation == 1
    assert not recipe.train_embeddings


@pytest.mark.parametrize(
    ("own", "general", "share", "mixed"), [(90, 100, 0.1, 10), (80, 100, 0.2, 20), (90, 4, 0.5, 4)]
)
def test_a_mix_has_its_share_of_the_whole_as_far_as_the_rows_go(
    project: Any, own: int, general: int, share: float, mixed: int
) -> None:
    project.write("general.jsonl", [project.row(f"hello {i}", "hi") for i in range(general)])
    recipe = project.recipe(project.tickets(own), mix={"path": "general.jsonl", "share": share})
    assert (recipe.general_rows, recipe.rows) == (mixed, own + mixed)


def test_the_seed_picks_the_mixed_rows(project: Any) -> None:
    project.write("general.jsonl", [project.row(f"hello {i}", "hi") for i in range(100)])
    mix = {"path": "general.jsonl", "share": 0.1}

    def picked(seed: int) -> list[str]:
        recipe = project.recipe(project.tickets(90), mix=mix, seed=seed)
        return [one.id for one in recipe.data().general]

    assert picked(1) == picked(1) != picked(2)


def test_moving_a_project_keeps_the_fingerprint(project: Any) -> None:
    here = project.recipe(project.tickets(20), validation="train.jsonl")
    moved = project.root / "moved"
    moved.mkdir()
    project.write("moved/other.jsonl", [{**one, "tags": ["x"]} for one in project.tickets(20)])
    shutil.copytree(project.base, moved / "base")
    chosen = CandidateSettings(trainer="qlora", train="other.jsonl", validation="other.jsonl")
    there = resolve("another", chosen, "local:base", moved)
    assert there.fingerprint == here.fingerprint


def test_other_rows_or_weights_change_the_fingerprint(project: Any) -> None:
    first = project.recipe(project.tickets(20))
    assert project.recipe(project.tickets(21)).fingerprint != first.fingerprint
    shutil.copytree(project.base, project.root / "base")
    weights = project.root / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    other = project.recipe(project.tickets(20), base="local:base")
    assert other.fingerprint != first.fingerprint


def test_data_that_changed_after_the_plan_is_refused(project: Any) -> None:
    recipe = project.recipe(project.tickets(20))
    project.write("train.jsonl", project.tickets(19))
    with pytest.raises(HarnessError, match=r"train\.jsonl: the training data changed"):
        recipe.data()


def test_a_bad_training_line_is_named(project: Any) -> None:
    (project.root / "train.jsonl").write_text(
        json.dumps(project.tickets(1)[0]) + "\n{oops\n", "utf-8"
    )
    with pytest.raises(HarnessError, match=r"^train\.jsonl:2: "):
        project.recipe()


def test_a_row_without_an_answer_is_named(project: Any) -> None:
    with pytest.raises(HarnessError, match=r"^train\.jsonl:3: the last message is no assistant's"):
        project.recipe([*project.tickets(2), project.row("and now?", None)])


def test_a_missing_file_is_named(project: Any) -> None:
    with pytest.raises(HarnessError, match=r"nothing\.jsonl"):
        project.recipe(train="nothing.jsonl")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("bundled:ocean", r"no bundled model 'ocean'; the bundled model is 'pocket'"),
        ("openai:gpt", r"the base 'openai:gpt' cannot be trained here"),
        ("pocket", r"the base 'pocket' cannot be trained here"),
        ("local:", r"cannot be trained here"),
        ("local:no such/folder", r"neither a folder nor a model on the hub"),
    ],
)
def test_an_unknown_base_is_one_sentence(
    spec: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessError, match=sentence):
        find_base(spec, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 20, b"\x05\0\0\0\0\0\0\0[1,2]"])
def test_a_damaged_base_is_one_sentence(damage: bytes, tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(damage)
    with pytest.raises(HarnessError, match=r"local:base"):
        find_base("local:base", tmp_path)


def test_the_size_of_a_base_is_read_from_its_files(tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    base = find_base(f"local:{tiny_base}", tmp_path)
    tensors = load_file(tiny_base / "model.safetensors")
    assert base.parameters == sum(tensor.size for tensor in tensors.values())
    assert base.vocabulary == json.loads((tiny_base / "config.json").read_text())["vocab_size"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@example(0)
@example(4_095)
@given(st.integers(0, 4_095))
def test_a_large_file_is_hashed_by_samples_that_reach_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr("trainers.base._LARGE_FILE", 1_000)
    monkeypatch.setattr("trainers.base._BLOCK", 64)
    content = bytearray(4_096)
    path = tmp_path / "large"
    path.write_bytes(content)
    before = file_digest(path)
    content[position] = 1
    path.write_bytes(content)
    assert file_digest(path) != before


def test_a_recipe_needs_none_of_the_heavy_libraries(project: Any) -> None:
    project.write("train.jsonl", project.tickets(3))
    script = f"""
import sys
from pathlib import Path
import trainers
from types import SimpleNamespace
from trainers.recipe import resolve
keys = ("base validation mix behaviour epochs learning_rate rank alpha dropout batch_size length "
        "train_embeddings env").split()
chosen = SimpleNamespace(**dict.fromkeys(keys), trainer="qlora", train="train.jsonl", seed=0)
root = Path({str(project.root)!r})
recipe = resolve("x", chosen, "local:{project.base}", root)
assert trainers.find(recipe, root / ".harness") is None
heavy = "torch transformers trl peft datasets bitsandbytes numpy pydantic openai filelock"
print([name for name in heavy.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


CALLING = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "user", "content": "hi"}, CALLING]}, "calls of tools"),
    ],
)
def test_rows_that_no_template_of_the_base_speaks_of_are_refused_at_once(
    project: Any, row: dict[str, Any], said: str
) -> None:
    rows = [*project.tickets(2), {**project.row("hi", "there"), **row}]
    with pytest.raises(HarnessError, match=rf"^train\.jsonl:3: .* has no place for {said}"):
        project.recipe(rows)


def test_what_was_made_of_data_without_tools_stays_known(project: Any) -> None:
    weighted = project.row("hi", "there")
    weighted["messages"][1]["weight"] = 1
    recipe = replace(project.recipe([*project.tickets(3), weighted]), base=PLAIN.base)
    assert recipe.fingerprint == "d2150d555f78b7fc"


def test_the_table_of_the_base_counts_where_it_changes_the_prompt(project: Any) -> None:
    project.write("train.jsonl", project.tickets(3))
    settings = CandidateSettings(trainer="lora", train="train.jsonl")

    def fingerprint(**options: Any) -> str:
        base = f"local:{project.base}"
        return resolve("a", settings, base, project.root, None, options).fingerprint

    plain = fingerprint()
    assert plain == fingerprint(quantization="nf4", thinking="strip")
    others = [{"chat_template_kwargs": {"a": 1}}, {"thinking": "off"}, {"tools": [{"name": "f"}]}]
    assert len({plain, *(fingerprint(**other) for other in others)}) == 4
    with pytest.raises(HarnessError, match=r"the base .* tools is no list of tables"):
        fingerprint(tools=5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", "[]"),
        ("config.json", '{"num_hidden_layers": 1000000000}'),
        ("config.json", '{"text_config": {"n_layer": "all"}}'),
        ("more.safetensors", "\0" * 8),
        ("more.safetensors", "\x02\0\0\0\0\0\0\0[]"),
        ("more.safetensors", '\x0b\0\0\0\0\0\0\0{"a": true}'),
    ],
)
def test_an_odd_base_is_one_sentence(
    tiny_base: Path, tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_base, folder)
    (folder / name).write_text(content)
    with pytest.raises(HarnessError, match=r"is no whole model in [^\n]+$"):
        find_base(f"local:{folder}", tmp_path)


@pytest.mark.parametrize("text", [5, [], {"vocab_size": "x"}])
def test_a_vocabulary_of_a_wrong_type_is_unknown(
    tiny_base: Path, tmp_path: Path, text: object
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_base, folder)
    (folder / "config.json").write_text(json.dumps({"text_config": text}))
    assert find_base(f"local:{folder}", tmp_path).vocabulary is None
