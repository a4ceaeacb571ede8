"""What is checked, counted and refused before anything is uploaded."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from harness.config import parse
from harness.hosting import Consent
from harness.prices import Price, Prices
from harness.records import EvidenceError, HarnessError
from trainers.hosted_cost import automatic_epochs, estimate
from trainers.preflight import KNOWN, NotTrainable, examine
from trainers.service import Service

DEAR = Prices({"openai:base-1": Price(1.0, 2.0, training=1000.0)})


def rows(count: int) -> list[dict[str, Any]]:
    """Rows whose lengths differ a lot."""
    return [
        {
            "messages": [
                {"role": "system", "content": "Say yes."},
                {"role": "user", "content": f"is it {n} " + "very much so " * (n * 7 % 31)},
                {"role": "assistant", "content": "yes"},
            ]
        }
        for n in range(count)
    ]


def refused(project: Any, **settings: Any) -> str:
    with pytest.raises(HarnessError) as problem:
        project.recipe(**settings)
    return str(problem.value)


# ---------------------------------------------------------------------- data


def test_fewer_than_ten_examples_are_refused(account: Any) -> None:
    project = account()
    project.write(rows(9))
    assert refused(project).startswith("train.jsonl: a service asks for 10 examples at least")


def test_a_message_that_services_refuse_is_named(account: Any) -> None:
    project = account()
    for change, told in (
        ({"weight": 2}, "train.jsonl:12: messages[2]: weight must be 0 or 1, not 2"),
        ({"weight": True}, "weight must be 0 or 1, not True"),
        ({"mood": "good"}, "messages[2] has the key 'mood'"),
    ):
        bad = rows(12)
        bad[-1]["messages"][-1].update(change)
        project.write(bad)
        assert told in refused(project)


def test_calls_are_uploaded_as_the_protocol_has_them(account: Any) -> None:
    project = account()
    calling = rows(12)
    function = {"name": "track", "arguments": {"order": 7}}
    call = {"id": "t1", "type": "function", "function": function}
    calling[3]["messages"][-1] = {"role": "assistant", "tool_calls": [call], "refusal": None}
    project.write(calling)
    project.train(project.recipe())
    uploaded = json.loads(project.service.files["file-0"].splitlines()[3])["messages"][-1]
    sent = {**call, "function": {**function, "arguments": '{"order":7}'}}
    assert uploaded == {"role": "assistant", "content": None, "tool_calls": [sent]}


def test_a_weight_is_uploaded_and_only_an_answer_has_one(account: Any) -> None:
    project = account()
    good = rows(12)
    good[3]["messages"][-1]["weight"] = 0
    project.write(good)
    project.train(project.recipe())
    assert project.service.files["file-0"].count(b'"weight": 0') == 1
    good[3]["messages"][0]["weight"] = 0
    project.write(good)
    assert "only an assistant's message can" in refused(project)


def test_pairs_are_uploaded_as_dpo_takes_them(account: Any) -> None:
    project = account()
    project.write([pair(n) for n in range(12)])
    project.train(project.recipe(method="dpo", beta=0.2))
    [job] = project.service.jobs.values()
    assert job["body"]["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    line = json.loads(project.service.files["file-0"].splitlines()[0])
    assert line == pair(0)


def pair(number: int, **change: Any) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"is it {number}"}]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no way"}],
        **change,
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input": None}, "train.jsonl:12: input is missing"),
        ({"preferred_output": []}, "preferred_output is no list of one assistant message"),
        ({"non_preferred_output": [{"role": "user", "content": "x"}]}, "is no assistant's"),
        ({"non_preferred_output": [{"role": "assistant", "content": ""}]}, "has empty content"),
    ],
)
def test_a_wrong_pair_is_named(account: Any, change: dict[str, Any], told: str) -> None:
    project = account()
    project.write([*(pair(n) for n in range(11)), pair(11, **change)])
    assert told in refused(project, method="dpo")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": 8}, "a service does not take `rank`"),
        ({"learning_rate": 1e-4}, "a service does not take `learning_rate`"),
        ({"epochs": 1.5}, "a service takes whole `epochs`"),
        ({"beta": 0.1}, "`beta` belongs to method = 'dpo'"),
        ({"method": "dpo", "mix": {"path": "x", "share": 0.1}}, "which `mix` has none of"),
        ({"trainer": "qlora", "suffix": "x"}, "only trainer = 'openai' takes `suffix`"),
        ({"suffix": "x" * 65}, "suffix: String should have at most 64 characters"),
        ({"learning_rate_multiplier": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_a_sentence(settings: dict[str, Any], told: str) -> None:
    table = {"trainer": "openai", "train": "train.jsonl", **settings}
    with pytest.raises(HarnessError, match=r"candidates\.cand") as problem:
        parse({"candidates": {"cand": table}})
    assert told in str(problem.value)


def test_hyperparameters_outside_of_the_guides_bands_are_warned_of(account: Any) -> None:
    project = account()
    made = project.train(project.recipe(epochs=10, learning_rate_multiplier=2.5))
    assert any("10 epochs overfit most data" in note for note in made.notes)
    assert any("2.5 is outside of 0.02 to 2" in note for note in made.notes)
    careful = project.train(project.recipe(epochs=3, learning_rate_multiplier=0.02))
    assert len(careful.notes) == 1


# ---------------------------------------------------------------------- the service


def test_a_model_that_is_switched_off_is_not_trained(account: Any) -> None:
    project = account(shutdown_date="2020-01-01")
    failed = project.train(project.recipe()).failed["cand"]
    assert "was switched off on 2020-01-01" in failed
    assert "harness record" in failed
    assert not project.service.files


def test_a_model_that_will_be_switched_off_is_trained_with_a_warning(account: Any) -> None:
    made = (project := account(shutdown_date="2999-01-01")).train(project.recipe())
    assert made.failed == {}
    assert any("will be switched off on 2999-01-01" in note for note in made.notes)


@pytest.mark.parametrize("fault", ["401", "403", "404"])
@pytest.mark.parametrize("route", ["model", "create"])
def test_a_service_that_refuses_the_model_is_told_with_the_way_out(
    account: Any, route: str, fault: str
) -> None:
    project = account()
    project.service.faults[route] = [fault]
    failed = project.train(project.recipe()).failed["cand"]
    assert f"the server answered {fault}: told to say {fault}" in failed
    assert "train a local successor" in failed
    assert "OpenAI" not in failed
    assert not project.service.jobs


@pytest.mark.parametrize("fault", ["404", "405", "501", "html"])
def test_a_service_that_cannot_tell_of_its_models_is_used(account: Any, fault: str) -> None:
    project = account(always={"model": fault, "models": fault})
    assert project.train(project.recipe()).failed == {}


def test_what_is_known_of_openais_dates_is_told(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    project = account()
    project.options["base_url"] = "https://api.openai.com/v1"
    recipe = project.recipe("gpt-4o-mini-2024-07-18")
    with Service(recipe.base) as service, pytest.raises(NotTrainable) as problem:
        examine(recipe, service, date(2027, 1, 6))
    assert KNOWN in str(problem.value)


def test_a_missing_key_is_missing_evidence(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    project = account()
    project.options["api_key_env"] = "MY_KEY"
    failed = project.train(project.recipe()).failed["cand"]
    assert "set the environment variable MY_KEY" in failed
    assert "replay:FILE" in failed
    assert not project.service.seen


def test_a_key_is_in_no_message_and_no_file(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-canary-0123456789")
    told = {"code": "bad", "message": "you sent sk-canary-0123456789"}
    project = account(statuses=("running", "failed"), errors={"failed": told})
    project.options["api_key_env"] = "MY_KEY"
    failed = project.train(project.recipe()).failed["cand"]
    assert project.service.keys[-1] == "Bearer sk-canary-0123456789"
    assert "you sent ***" in failed
    for path in project.home.rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes()


# ---------------------------------------------------------------------- cost


@pytest.mark.parametrize("settings", [{}, {"epochs": 2}, {"method": "dpo"}])
def test_the_estimate_is_what_is_billed(account: Any, settings: dict[str, Any]) -> None:
    project = account()
    project.write([pair(n) for n in range(50)] if "method" in settings else rows(50))
    made = project.train(project.recipe(**settings)).candidates["cand"]
    assert made.recipe["estimated_tokens"] == made.recipe["trained_tokens"]


def test_many_rows_are_estimated_from_a_sample_within_two_percent(account: Any) -> None:
    project = account()
    project.write(rows(1500))
    made = project.train(project.recipe()).candidates["cand"]
    assert made.recipe["estimated_tokens"] == pytest.approx(made.recipe["trained_tokens"], rel=0.02)
    assert project.service.calls["count"] <= 256


def test_a_service_that_does_not_count_is_guessed_for(account: Any) -> None:
    project = account(counts=False)
    made = project.train(project.recipe())
    assert "guessed at 4 characters a token" in made.notes[0]


def test_the_tokenizer_that_a_recipe_names_counts(account: Any) -> None:
    project = account()
    found = estimate(project.recipe(tokenizer="bundled:pocket", epochs=1), None)
    assert found.how == "counted by bundled:pocket"
    # "is it 3", "yes", and what the chat format adds
    assert 12 * 10 < found.tokens < 12 * 40


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (33, 3), (34, 3), (8000, 3), (10_000, 2)])
def test_automatic_epochs_are_those_of_the_guide(rows: int, epochs: int) -> None:
    assert automatic_epochs(rows) == epochs


def test_paid_training_needs_a_limit_or_a_yes(account: Any) -> None:
    project = account()
    with pytest.raises(HarnessError) as problem:
        project.train(project.recipe(), DEAR)
    told = "training cand takes about 960 tokens in 8 epochs (counted by the service), for about"
    assert f"{told} $0.96" in str(problem.value)
    assert "nothing was uploaded: allow it with --harness-max-cost USD" in str(problem.value)
    assert not project.service.files
    assert project.train(project.recipe(), DEAR, Consent(yes=True)).failed == {}


def test_a_training_above_the_limit_uploads_nothing(account: Any) -> None:
    project = account()
    cost = estimate(project.recipe(), Price(1, 2, training=1000.0), None).cost_usd
    assert cost
    with pytest.raises(HarnessError, match=r"\$0.0001 is allowed and nothing was uploaded"):
        project.train(project.recipe(), DEAR, Consent(0.0001, yes=True))
    assert project.service.calls.keys() <= {"list", "model", "count"}
    assert project.train(project.recipe(), DEAR, Consent(10.0)).failed == {}
    assert project.train(project.recipe(), DEAR, Consent(0.0)).failed == {}


def test_joining_a_job_costs_nothing(account: Any) -> None:
    project = account()
    project.train(project.recipe(), DEAR, Consent(yes=True))
    for folder in ("candidates", "jobs"):
        for path in sorted((project.home / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert project.train(project.recipe(), DEAR, Consent(0.0)).failed == {}


def test_a_price_of_nothing_is_free_and_so_is_this_machine(account: Any) -> None:
    project = account()
    free = Prices({"openai:base-1": Price(1.0, 2.0, training=0.0)})
    assert project.train(project.recipe(), free).failed == {}
    assert project.train(project.recipe(seed=1)).failed == {}


def test_an_unknown_price_elsewhere_is_not_free(account: Any) -> None:
    project = account()
    project.options["base_url"] = "https://example.test/v1"
    found = estimate(project.recipe(), None)
    assert found.cost_usd is None
    with pytest.raises(HarnessError, match="an unknown price; nothing was uploaded: allow it"):
        Consent().refuse([found])
    with pytest.raises(HarnessError, match="give the price of its base"):
        Consent(5.0).refuse([found])
    Consent(yes=True).refuse([found])


def test_a_price_of_the_base_is_the_price_of_what_it_became(account: Any) -> None:
    from harness.records import ModelSpec

    tuned = ModelSpec("x", "openai", "ft:base-1:org:cand:ftjob-0")
    assert DEAR.of(tuned, {}) == DEAR.own["openai:base-1"]
    dearer = Prices({**DEAR.own, "openai:ft:base-1": Price(3.0, 4.0)})
    assert dearer.of(tuned, {}) == Price(3.0, 4.0)


def test_no_evidence_is_no_mistake() -> None:
    assert not issubclass(NotTrainable, HarnessError)
    assert issubclass(NotTrainable, EvidenceError)
