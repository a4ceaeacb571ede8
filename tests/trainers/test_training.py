from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

import trainers
from harness.records import Candidate, EvidenceError, HarnessError
from trainers import Event, TrainingError
from trainers.local import encode, tokenizer_of
from trainers.recipe import Recipe

pytestmark = pytest.mark.slow

ITEMS = ["kettle", "lamp", "chair", "phone", "radio"]

DRIVER = """
import sys
from dataclasses import asdict
from pathlib import Path
import json
import trainers
from trainers.recipe import Recipe

recipe, home = Recipe.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
made = trainers.train(recipe, home, lambda event: print(json.dumps(asdict(event)), flush=True))
print(json.dumps({"kind": "made", "cached": made.cached}), flush=True)
"""


@dataclass(frozen=True)
class Learned:
    """A candidate that knows its 20 rows by heart, and the news of its training."""

    recipe: Recipe
    home: Path
    candidate: Candidate
    events: list[Event]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, new_project: Any) -> Learned:
    project = new_project(tmp_path_factory.mktemp("learned"))
    rows = [project.row(f"my {item} {n} is broken", item) for n, item in enumerate(ITEMS * 4)]
    project.write("validation.jsonl", rows[:2])
    recipe = project.recipe(
        rows,
        validation="validation.jsonl",
        epochs=80,
        batch_size=10,
        learning_rate=5e-3,
        rank=32,
        dropout=0,
    )
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        candidate = trainers.train(recipe, project.home, events.append)
    return Learned(recipe, project.home, candidate, events)


def short(project: Any) -> Recipe:
    """A recipe of a few steps: 18 plain rows, one with a long prompt, one with a long answer."""
    rows = [
        *project.tickets(18),
        project.row("long " * 80, "short"),
        project.row("short", "long " * 80),
    ]
    recipe: Recipe = project.recipe(rows, length=64, epochs=10, trainer="lora")
    return recipe


@contextmanager
def driver(recipe: Recipe, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that wants the candidate; its stdout has one JSON event a line."""
    plan = recipe.root / "recipe.json"
    plan.write_text(recipe.to_json(), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, plan, home], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], kind: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["kind"] == kind:
            return
    raise AssertionError(f"the process ended before the event {kind}")


def kill(process: subprocess.Popen[str]) -> psutil.Process:
    """SIGKILL a driver and return its child."""
    (child,) = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return child


def is_gone(child: psutil.Process) -> bool:
    return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.05)
    return condition()


def content(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "candidate.json"
    }


# ---------------------------------------------------------------- one training


def test_the_loss_falls_and_is_kept_step_by_step(learned: Learned) -> None:
    losses = [point.train for point in learned.candidate.losses if point.train is not None]
    assert len(losses) == learned.candidate.steps == learned.recipe.steps
    assert losses[-1] < 0.1 * losses[0]
    assert [event.loss for event in learned.events if event.kind == "step"] == losses


def test_the_validation_loss_is_measured_every_epoch(learned: Learned) -> None:
    epochs = [point.epoch for point in learned.candidate.losses if point.validation is not None]
    assert epochs == pytest.approx(range(1, 81))


def test_progress_tells_what_happens_and_how_long_it_takes(learned: Learned) -> None:
    kinds = [event.kind for event in learned.events]
    assert kinds[:3] == ["loading", "data", "step"]
    assert kinds[-1] == "done"
    steps = [event for event in learned.events if event.kind == "step"]
    assert [event.step for event in steps] == list(range(1, learned.recipe.steps + 1))
    assert steps[0].eta is not None
    assert steps[0].eta > 0 == steps[-1].eta


def test_the_artefact_holds_three_files_and_no_path_of_this_machine(learned: Learned) -> None:
    files = {path.name: path for path in learned.candidate.path.iterdir()}
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors", "candidate.json"]
    for name in ("adapter_config.json", "candidate.json"):
        text = files[name].read_text("utf-8")
        assert str(learned.home) not in text
        assert str(Path(learned.recipe.base.source).parent) not in text
    assert json.loads(files["adapter_config.json"].read_text())["ensure_weight_tying"] is False


def answer(model: Any, tokenizer: Any, text: str) -> tuple[str, bool]:
    """Return the greedy answer, and whether it ended by itself within 60 tokens."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=60, do_sample=False)
    new = output[0, prompt["input_ids"].shape[1] :]
    ended = bool(new[-1] == tokenizer.eos_token_id)
    return tokenizer.decode(new, skip_special_tokens=True), ended


def test_the_artefact_loads_with_peft_and_stops_by_itself(learned: Learned) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    torch.set_num_threads(1)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    source = learned.recipe.base.source
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, quantization_config=four_bits
    )
    model = PeftModel.from_pretrained(base, learned.candidate.path).eval()
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), model.disable_adapter():
        before = model(tokens).logits
    with torch.no_grad():
        assert not torch.allclose(model(tokens).logits, before, atol=0.1)
    rows = learned.recipe.data().train
    answers = [answer(model, tokenizer, str(row.messages[0]["content"])) for row in rows]
    assert all(ended for _, ended in answers)
    right = [
        text == row.messages[-1]["content"] for (text, _), row in zip(answers, rows, strict=True)
    ]
    assert sum(right) >= 18


def test_a_trained_candidate_is_loaded_without_a_child(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    again = trainers.train(learned.recipe, learned.home)
    assert again.cached
    assert not learned.candidate.cached
    assert again.losses == learned.candidate.losses
    assert trainers.find(learned.recipe, learned.home) == again


def test_full_fine_tuning_makes_a_whole_model(project: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = project.recipe(project.tickets(20), trainer="full", epochs=10, learning_rate=5e-3)
    made = trainers.train(recipe, project.home)
    assert (made.full, made.quantized) == (True, False)
    assert made.losses[-1].train < 0.3 * made.losses[0].train
    assert not list(made.path.glob("*.bin")) + list(made.path.glob("*.pt"))
    assert AutoTokenizer.from_pretrained(made.path).chat_template
    assert AutoModelForCausalLM.from_pretrained(made.path)
    assert all(str(project.base) not in path.read_text() for path in made.path.glob("*.json"))


def test_the_best_state_by_validation_loss_is_kept(project: Any) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    project.write("validation.jsonl", [project.row("hello", "I am a teapot, you know")])
    recipe = project.recipe(
        project.tickets(20),
        trainer="lora",
        validation="validation.jsonl",
        epochs=30,
        batch_size=20,
        learning_rate=0.02,
        rank=32,
    )
    made = trainers.train(recipe, project.home)
    losses = [point.validation for point in made.losses if point.validation is not None]
    assert losses[-1] > 1.1 * min(losses)
    base = AutoModelForCausalLM.from_pretrained(project.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made.path).eval()
    (example,) = encode(
        recipe.data().validation, AutoTokenizer.from_pretrained(project.base), recipe.length
    )
    with torch.no_grad():
        inputs = {"input_ids": [example.input_ids], "labels": [example.labels]}
        kept = model(**{key: torch.tensor(value) for key, value in inputs.items()}).loss
    assert kept.item() == pytest.approx(min(losses), rel=1e-3)


def test_measuring_the_validation_loss_changes_nothing_else(project: Any) -> None:
    # Where bitsandbytes packs weights on evaluation, gradients would be lost from then on.
    project.write("validation.jsonl", project.tickets(2))
    losses = []
    for validation in (None, "validation.jsonl"):
        recipe = project.recipe(project.tickets(16), validation=validation, epochs=4, dropout=0)
        made = trainers.train(recipe, project.home)
        losses.append([point.train for point in made.losses if point.train is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---------------------------------------------------------------- several processes


def test_two_processes_train_once_and_too_long_rows_are_counted(project: Any) -> None:
    recipe = short(project)
    with driver(recipe, project.home) as first, driver(recipe, project.home) as second:
        outputs = [process.communicate()[0].splitlines() for process in (first, second)]
    events = [[json.loads(line) for line in lines] for lines in outputs]
    assert sorted(lines[-1]["cached"] for lines in events) == [False, True]
    assert sum(event["kind"] == "loading" for lines in events for event in lines) == 1
    made = trainers.find(recipe, project.home)
    assert made is not None
    assert (made.rows, made.truncated, made.dropped, made.steps) == (20, 1, 1, recipe.steps)


def test_a_killed_run_leaves_no_process_and_nothing_that_looks_finished(project: Any) -> None:
    recipe = short(project)
    with driver(recipe, project.home) as process:
        wait_for(process, "step")
        child = kill(process)
    assert eventually(lambda: is_gone(child))
    assert trainers.find(recipe, project.home) is None
    candidates, locks = project.home / "candidates", project.home / "locks"
    for name in (".tmp-dead-1", ".tmp-alive-2"):
        (candidates / name).mkdir()
    with FileLock(locks / "alive.lock"):
        again = trainers.train(recipe, project.home)
    assert not again.cached
    left = sorted(path.name for path in candidates.iterdir())
    assert left == [".tmp-alive-2", recipe.fingerprint]
    undisturbed = trainers.train(recipe, project.root / "elsewhere")
    assert content(undisturbed.path) == content(again.path)
    assert undisturbed.losses == again.losses


def test_who_waits_for_another_training_ends_with_its_parent(project: Any) -> None:
    recipe = short(project)
    lock = project.home / "locks" / f"{recipe.fingerprint}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), driver(recipe, project.home) as process:
        wait_for(process, "waiting")
        child = kill(process)
        assert eventually(lambda: is_gone(child))


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("adapter_model.safetensors", b"x"),
        ("adapter_config.json", b"{}"),
        ("candidate.json", b"{"),
        ("candidate.json", b"[]"),
        ("candidate.json", b'{"files": {}}'),
        ("adapter_model.safetensors", None),
        ("candidate.json", None),
    ],
)
def test_a_damaged_candidate_is_refused(
    learned: Learned, tmp_path: Path, file: str, damage: bytes | None
) -> None:
    shutil.copytree(learned.home, tmp_path / "home")
    folder = tmp_path / "home" / "candidates" / learned.recipe.fingerprint
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(damage)
    for use in (trainers.find, trainers.train):
        with pytest.raises(EvidenceError) as caught:
            use(learned.recipe, tmp_path / "home")
        assert str(caught.value).startswith("the candidate tickets is damaged (")
        assert str(caught.value).endswith(f"delete {folder} to train it again")


def test_a_crash_quotes_the_end_of_its_log(project: Any, tmp_path: Path) -> None:
    shutil.copytree(project.base, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no-such-model"}')
    recipe = project.recipe(project.tickets(2), base="local:broken")
    with pytest.raises(TrainingError) as caught:
        trainers.train(recipe, project.home)
    assert str(caught.value).startswith("training tickets ended with status 1: ")
    log = Path(str(caught.value).rpartition("its log is ")[2])
    assert "Traceback" in log.read_text()
    assert trainers.find(recipe, project.home) is None
    assert not list((project.home / "candidates").iterdir())


def test_rows_that_are_all_too_long_are_one_sentence(project: Any) -> None:
    recipe = project.recipe([project.row("hi", "long " * 80)], length=16)
    with pytest.raises(TrainingError, match=r"no answer fits into length = 16 tokens; raise it$"):
        trainers.train(recipe, project.home)


def test_a_base_without_chat_template_is_one_sentence(project: Any, tmp_path: Path) -> None:
    shutil.copytree(project.base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    recipe = project.recipe(project.tickets(2), base="local:plain")
    with pytest.raises(TrainingError, match=r"'local:plain' has no chat template"):
        trainers.train(recipe, project.home)


def test_a_missing_extra_is_named(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = project.recipe(project.tickets(2))
    monkeypatch.setattr("trainers.find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(HarnessError, match=r"pip install 'pytest-finetune\[local\]'.*peft"):
        trainers.train(recipe, project.home)


def test_a_progress_that_raises_ends_the_child(project: Any) -> None:
    others = set(psutil.Process().children())  # of the tests before, such as a resource tracker
    children: list[psutil.Process] = []

    def interrupt(event: Event) -> None:
        children.extend(set(psutil.Process().children()) - others)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainers.train(short(project), project.home, interrupt)
    assert children
    assert all(map(is_gone, children))


# ---------------------------------------------------------------- tools, odd bases

CALLING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "track"}}]


def with_template(project: Any, folder: Path, template: str) -> Any:
    shutil.copytree(project.base, folder)
    (folder / "chat_template.jinja").write_text(template)
    return replace(project, base=folder)


def test_calls_are_trained_asked_and_read_and_what_is_not_learnt_is_told(
    project: Any, tmp_path: Path
) -> None:
    from harness.calls import request_of
    from harness.models import Models
    from harness.records import Case, ModelSpec, Sampling

    own = with_template(project, tmp_path / "calling", CALLING)
    user = {"role": "user", "content": "kettle"}
    function = {"name": "track", "arguments": json.dumps({"item": "kettle"})}
    turn = [user, {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}]
    weightless = {"messages": [user, {"role": "assistant", "content": "no", "weight": 0}]}
    rows = [{"id": str(n), "messages": turn, "tools": TOOLS} for n in range(10)]
    earlier = {"messages": [*own.row("hi", "ho")["messages"], *turn], "tools": TOOLS}
    recipe = own.recipe(
        [*rows, earlier, weightless],
        trainer="lora",
        epochs=80,
        learning_rate=5e-3,
        rank=32,
        dropout=0,
    )
    events: list[Event] = []
    made = trainers.train(recipe, own.home, events.append)
    assert (made.rows, made.dropped) == (11, 0)
    assert made.findings[:2] == (
        "not learnt: 1 answers before the last of a row",
        "not learnt: 1 rows with weight 0 at the end",
    )
    assert "; ".join(made.findings[:2]) in [event.message for event in events]
    assert trainers.find(recipe, own.home) == replace(made, cached=True)

    spec = ModelSpec("new", "local", str(own.base), adapter=made.path, sampling=Sampling(0.0, 64))
    case = Case("demo", "a", (user,), tools=tuple(TOOLS))
    models = Models()
    request = request_of(models, spec, case.messages, case=case)
    (replies,) = models.ask([[request]])
    models.close()
    (call,) = replies[request.key].tool_calls
    assert call["function"] == function


def test_a_row_that_the_template_cannot_carry_fails_before_the_base_is_loaded(
    project: Any, tmp_path: Path
) -> None:
    own = with_template(project, tmp_path / "odd", CALLING.replace("tools | tojson", "'tools'"))
    recipe = own.recipe([*project.tickets(2), {**project.row("hi", "ho"), "tools": TOOLS}])
    for file in own.base.glob("*.safetensors"):
        file.write_bytes(b"")  # loading it would fail in other words
    with pytest.raises(TrainingError, match=r"train\.jsonl:3: .* leaves out the tools"):
        trainers.train(recipe, own.home)


def test_a_template_that_does_not_end_ends_the_training(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    own = with_template(project, tmp_path / "odd", never)
    impatient = "import sys, trainers.local as t; t.ROW_S = 0.3; sys.exit(t.main(*sys.argv[1:]))"
    start = subprocess.Popen
    monkeypatch.setattr(
        trainers.subprocess, "Popen", lambda a, **o: start([a[0], "-c", impatient, *a[4:]], **o)
    )
    with pytest.raises(TrainingError, match="does not end on a row"):
        trainers.train(own.recipe(project.tickets(2)), own.home)


def test_code_in_the_folder_of_a_base_is_never_run(
    project: Any, tmp_path: Path, add_code: Callable[[Path], Path]
) -> None:
    own = with_template(project, tmp_path / "odd", CALLING)
    trace = add_code(own.base)
    with pytest.raises(HarnessError, match=r"the tokenizer of the base .* cannot be loaded"):
        tokenizer_of(own.recipe(project.tickets(2)))
    shutil.copy(project.base / "tokenizer_config.json", own.base)
    with pytest.raises(TrainingError, match="ended with status 1"):
        trainers.train(own.recipe(project.tickets(2)), own.home)
    assert not trace.exists()
