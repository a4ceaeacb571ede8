"""A model that is gone: recorded, replayed, trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import Loopback

from harness.data.jsonl import read_rows
from harness.recording import read
from harness.store import Store

WITHOUT_OLD = '[tool.harness]\nbaseline = "replay:evals/baseline.jsonl"\n'
CANDIDATES = "".join(
    f'[tool.harness.candidates.{name}]\nmodel = "python:stub_models:{stub}"\n'
    for name, stub in (("better", "right"), ("worse", "wrong"))
)
OFFLINE = """
import socket


def refuse(*args, **options):
    raise OSError("the network is unreachable")


socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
FEW_SHOT = """
import pytest

pytestmark = pytest.mark.cases(
    "data/demo.jsonl", few_shot="data/few.jsonl", shots=[0, 1], validation="data/few.jsonl"
)


def test_exact(score):
    score.exact()


def test_says_yes(reply):
    assert reply.text == "yes"
"""


def saved(project):
    """A run with the old model, and what `harness baseline save` keeps of it."""
    project.settings(base="half", better="right", worse="wrong")
    live = project.run()
    status, said = project.harness("baseline", "save", "evals/baseline.jsonl")
    assert status == 0, said
    project.forget_calls()
    return live


def remove_old_model(project):
    """As if the service were switched off: no stub, no cache, no network."""
    stubs = (project.root / "stub_models.py").read_text()
    project.write("stub_models.py", stubs.replace("def half(", "def gone("))
    project.write("conftest.py", OFFLINE)
    for file in (project.root / ".harness").glob("store.sqlite*"):
        file.unlink()
    project.pyproject(WITHOUT_OLD + CANDIDATES)


def judged(run):
    """The metrics without the baseline's name."""
    return [{**metric, "baseline": ""} for metric in run.results["metrics"]]


def test_a_saved_baseline_gives_the_verdicts_of_the_live_one(project, workers, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "gone soon")
    live = saved(project)
    monkeypatch.delenv("OPENAI_API_KEY")
    remove_old_model(project)
    replayed = project.run(*workers)
    assert replayed.status == live.status == 1
    assert judged(replayed) == judged(live)
    assert {name for name, _ in project.calls()} == {"right", "wrong"}
    before, after = live.results["usage"]["base"], replayed.results["usage"]["baseline"]
    assert after["cached"] == after["requests"] == 24
    assert after["latency_p50_s"] == before["latency_p50_s"]
    note = "baseline is a recording of python:stub_models:half made on "
    assert note in replayed.text.replace("\n", " ")
    assert f"temperature 0 (run {live.results['run_id']})" in replayed.text.replace("\n", " ")


def test_a_saved_baseline_is_small_and_holds_the_scores(project):
    live = saved(project)
    recording = read(project.root / "evals/baseline.jsonl", "baseline")
    assert recording.source == f"run {live.results['run_id']}"
    assert len(recording.replies) == 24
    one = next(one for one in recording.replies if one.id == "c1")
    assert (one.suite, one.reply.text) == ("demo", "yes")
    score = one.scores["demo.exact_match"]
    assert (score.value, score.passed, len(score.check)) == (1.0, True, 64)


def test_a_replayed_baseline_keeps_the_shots_it_was_asked_with(project):
    project.write("evals/test_demo.py", FEW_SHOT)
    project.rows("data/few.jsonl", [project.row("for 91")])
    project.settings(base="by_shots", cand="half")
    live = project.run()
    assert live.metric("demo.exact_match")["baseline_mean"] == 1, "one shot was chosen"
    assert project.harness("baseline", "save", "evals/baseline.jsonl")[0] == 0
    project.forget_calls()
    project.pyproject(WITHOUT_OLD + CANDIDATES.replace("wrong", "half"))
    plan = project.run("--harness-plan")
    assert "choosing shots" not in plan.text
    assert "replies of baseline: read from " in plan.text
    replayed = project.run()
    assert replayed.metric("demo.exact_match")["baseline_mean"] == 1
    assert not [name for name, _ in project.calls() if name == "by_shots"]


def test_recorded_replies_are_scored_with_the_checks_of_today(project):
    saved(project)
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl")\n\n'
        "def test_exact(score):\n    score.contains('no')\n",
    )
    project.pyproject(WITHOUT_OLD + CANDIDATES)
    assert project.run().metric("demo.contains")["baseline_mean"] == 0.5


def test_cases_that_changed_or_came_later_are_named_before_anything_is_asked(project):
    saved(project)
    rows = project.questions(26)
    rows[3] = project.row("is it really 3", "c3")
    project.rows("data/demo.jsonl", rows)
    project.pyproject(WITHOUT_OLD + CANDIDATES.replace("right", "slow"))
    run = project.run()
    assert run.status == 6
    [told] = [error for error in run.results["errors"] if "recording" in error]
    assert "which answers 23 of 26 cases" in told
    assert "case c3 changed since it was recorded" in told
    assert "case c24 was not recorded; case c25 was not recorded; record" in told
    assert project.calls() == []
    project.rows("data/demo.jsonl", project.questions(40))
    assert "; and 6 more; record the model again" in project.run().text.replace("\n", " ")


def test_one_changed_byte_is_refused(project, workers):
    saved(project)
    file = project.root / "evals/baseline.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"text": "no"', b'"text": "on"', 1))
    project.pyproject(WITHOUT_OLD + CANDIDATES)
    run = project.run(*workers)
    assert run.status == 6
    assert "evals/baseline.jsonl: the recording is not as it was written" in run.text
    assert project.calls() == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "evals/baseline.jsonl: there is no such recording"),
        ("", "evals/baseline.jsonl: it is no recording"),
        ('{"messages": []}\n', "evals/baseline.jsonl: it is no recording"),
    ],
)
def test_a_file_that_is_no_recording_is_a_mistake(project, content, told):
    if content is not None:
        project.write("evals/baseline.jsonl", content)
    project.pyproject(WITHOUT_OLD + CANDIDATES)
    run = project.run()
    assert run.status == 4
    assert told in run.text


def test_a_recording_takes_no_prompt(project):
    project.pyproject(
        '[tool.harness]\nbaseline = "old"\n'
        '[tool.harness.models.old]\nmodel = "replay:x.jsonl"\nsystem = "be brief"\nshots = 1\n'
    )
    run = project.run()
    assert run.status == 4
    assert "x.jsonl is a recording, whose prompt and sampling are history; drop shots" in run.text


def test_a_recording_cannot_be_talked_to(project):
    saved(project)
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl")\n\n'
        'def test_more(model):\n    assert model.ask("is it 1").text\n',
    )
    project.pyproject(WITHOUT_OLD + CANDIDATES)
    run = project.run()
    assert run.status == 6
    assert "demo.test_more under baseline: 24 cases have no score" in " ".join(
        run.results["errors"]
    )
    assert "a recording cannot converse" in " ".join(run.text.split())


# ---------------------------------------------------------------------- harness record


def record(project, *more, model="python:stub_models:half"):
    return project.harness("record", model, "data/demo.jsonl", "-o", "evals/old.jsonl", *more)


def test_a_recorded_model_scores_like_the_live_one(project, workers):
    project.settings(base="half", cand="right")
    live = project.run()
    project.forget_calls()
    status, said = record(project)
    assert status == 0
    assert "evals/old.jsonl: 24 replies of python:stub_models:half made on " in said
    assert "(data/demo.jsonl)" in said
    assert project.calls() == [], "the cache of the run serves the recording"
    project.settings(base="replay:evals/old.jsonl", cand="right")
    replayed = project.run(*workers)
    assert replayed.status == live.status
    assert judged(replayed) == judged(live)


def test_a_recording_that_failed_writes_nothing_and_goes_on_where_it_stopped(project):
    project.settings()
    status, said = record(project, model="python:stub_models:unreachable_at_3")
    assert status == 6
    assert "did not answer 1 of 24 requests: c3: " in said
    assert "no route to the model" in said
    assert not (project.root / "evals/old.jsonl").exists()
    assert len(project.calls()) == 24
    project.forget_calls()
    assert record(project, model="python:stub_models:unreachable_at_3")[0] == 6
    assert project.calls() == [("unreachable_at_3", "is it 3")]


def test_what_a_server_says_reaches_no_terminal(project):
    project.settings()
    project.write("own.py", "def said(messages):\n    raise OSError('\\x1b[2J\\u202egone')\n")
    status, said = record(project, model="python:own:said")
    assert status == 6
    assert "OSError: \\u202egone" in said
    assert "\x1b" not in said


def test_a_recording_can_become_training_data(project):
    project.write(
        "data/../own.py",
        "def said(messages):\n"
        "    text = messages[-1]['content']\n"
        "    number = int(''.join(c for c in text if c.isdigit()))\n"
        "    ends = {1: 'length', 2: 'content_filter'}.get(number, 'stop')\n"
        "    texts = {3: ' ', 4: '\\ud800'}\n"
        "    return {'text': texts.get(number, 'yes'), 'finish_reason': ends}\n",
    )
    project.pyproject('[tool.harness.models.old]\nmodel = "python:own:said"\nsystem = "be brief"\n')
    status, said = record(project, "--training", "data/train.jsonl", "--trials", "2", model="old")
    assert status == 0, said
    assert "data/train.jsonl: 20 rows; left out: 1 broken, 1 empty, 1 refused, 1 truncated" in said
    rows = read_rows(project.root / "data/train.jsonl", project.root)
    assert [row.id for row in rows] == [f"c{n}" for n in range(24) if n not in (1, 2, 3, 4)]
    assert list(rows[0].messages) == [
        {"role": "user", "content": "is it 0"},
        {"role": "assistant", "content": "yes"},
    ]
    recording = read(project.root / "evals/old.jsonl", "old")
    assert len(recording.replies) == 48
    assert {one.trial for one in recording.replies} == {0, 1}


def test_training_data_of_nothing_is_refused(project):
    project.settings()
    project.write("own.py", "def said(messages):\n    return ''\n")
    status, said = record(project, "--training", "data/train.jsonl", model="python:own:said")
    assert status == 6
    assert "no reply is fit to train on (0 rows; left out: 24 empty)" in said
    assert not (project.root / "data/train.jsonl").exists()


def test_what_is_there_is_replaced_only_by_force(project):
    project.settings()
    project.write("evals/old.jsonl", "dear")
    status, said = record(project)
    assert (status, project.calls()) == (4, [])
    assert "evals/old.jsonl: it is there already" in said
    assert record(project, "--force")[0] == 0
    before = (project.root / "evals/old.jsonl").read_bytes()
    status, said = record(project, "--training", "data/demo.jsonl", "--force")
    assert status == 4
    assert "two of the files have one name" in said
    status, said = project.harness("record", "half", "data/demo.jsonl", "-o", "evals", "--force")
    assert (status, "evals: it is there already" in said) == (4, True)
    assert (project.root / "evals/old.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nobody", "there is no model 'nobody'"),
        ("python:stub_models:nobody", "cannot be imported"),
        ("magic:x", "there is no provider 'magic'"),
        ("replay:old.jsonl", "is a recording already"),
        ("cand", "cand is not trained yet; run: harness train cand"),
    ],
)
def test_a_model_that_cannot_be_recorded_is_told(project, model, told):
    project.pyproject(
        '[tool.harness]\nbaseline = "champion"\n'
        '[tool.harness.candidates.cand]\ntrainer = "lora"\ntrain = "data/demo.jsonl"\n'
    )
    status, said = record(project, model=model)
    assert status == (6 if model == "cand" else 4)
    assert told in said
    assert not (project.root / "evals/old.jsonl").exists()


def test_cases_that_cannot_be_read_are_told(project):
    project.settings()
    for path, told in (("none.jsonl", "there is no such file"), ("data", "it cannot be read")):
        status, said = project.harness("record", "python:stub_models:half", path, "-o", "x.jsonl")
        assert (status, told in said) == (4, True)


# ---------------------------------------------------------------------- the store


def stored(project):
    store = Store(project.root / ".harness/store.sqlite")
    [run] = store.run_ids()
    found = {model: store.run_replies(run, model) for model in store.run_models(run)}
    store.close()
    return found


def test_a_run_keeps_what_each_model_replied_to_each_case(project, workers):
    project.write("evals/test_demo.py", FEW_SHOT)
    project.rows("data/few.jsonl", [project.row("for 91")])
    project.settings(base="half", cand="right", lost="unreachable_at_3")
    run = project.run(*workers)
    assert run.status == 6
    found = stored(project)
    assert {model: len(replies) for model, replies in found.items()} == {
        "base": 24,
        "cand": 24,
        "lost": 23,
    }
    one = next(one for one in found["base"] if one.id == "c1")
    assert one.reply.text == "yes"
    assert one.reply.latency_s is not None
    assert set(one.scores) == {"demo.exact_match"}
    assert json.loads(Path(project.root / "reports/latest/results.json").read_text())["cases"]


def test_a_case_whose_test_could_not_begin_has_no_empty_reply(project):
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl")\n\n\n'
        "@pytest.fixture\ndef room(request):\n"
        "    if 'c7-cand' in request.node.name:\n        raise OSError('no room')\n\n\n"
        "def test_exact(room, score):\n    score.exact()\n",
    )
    project.settings(base="half", cand="right")
    assert project.run().status == 6
    assert [one.id for one in stored(project)["cand"] if not one.reply.text] == []
    assert len(stored(project)["cand"]) == 23


def test_the_headers_of_a_service_are_not_stored(project):
    with Loopback() as server:
        project.pyproject(
            '[tool.harness]\nbase = "old"\n[tool.harness.models.old]\nmodel = "openai:x"\n'
            f'base_url = "{server.url}"\nheaders = {{ authorization = "secret-1" }}\n'
        )
        assert project.run().status == 0
    store = Store(project.root / ".harness/store.sqlite")
    [run] = store.run_ids()
    [arm] = store.arms(run)
    store.close()
    assert arm.spec.options == {"base_url": server.url}
