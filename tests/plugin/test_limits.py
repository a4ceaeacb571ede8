"""Runs that may not ask, or not spend: --harness-offline, --harness-max-cost; what a plan costs."""

from __future__ import annotations

import pytest

PAID = """
def paid(messages):
    return {"text": "yes", "prompt_tokens": 1000, "completion_tokens": 100, "attempts": 2,
            "cached_tokens": 400}


def dear(messages):
    return {"text": "yes", "prompt_tokens": 1_000_000, "completion_tokens": 0}
"""
PRICE = (
    '[tool.harness.prices."python:services:paid"]\ninput = 1.0\ncached = 0.5\noutput = 2.0\n'
    '[tool.harness.prices."python:services:dear"]\ninput = 1.0\noutput = 0.0\n'
)
COST = (600 * 1.0 + 400 * 0.5 + 100 * 2.0) / 1e6


@pytest.fixture
def services(project):
    project.write("services.py", PAID)
    return project


def settings(project, text="", base="paid"):
    project.settings(text, base=f"python:services:{base}")


# ---------------------------------------------------------------------- offline


def test_offline_answers_from_the_cache_alone(project, workers):
    project.settings(base="half", cand="right")
    first = project.run()
    project.forget_calls()
    run = project.run("--harness-offline", *workers)
    assert run.status == 0
    assert project.calls() == []
    assert run.results["metrics"] == first.results["metrics"]


def test_a_miss_offline_names_the_case_and_what_differs(project):
    project.settings(base="half", cand="right")
    project.run()
    project.forget_calls()
    rows = (project.root / "data/demo.jsonl").read_text().replace("is it 7", "could it be 7")
    project.write("data/demo.jsonl", rows)
    run = project.run("--harness-offline")
    assert run.status == 6
    assert project.calls() == []
    [base, cand] = [e for e in run.results["errors"] if "have no reply" in e]
    assert base.startswith(
        "base: 1 of its requests have no reply, first demo:c7: it is not in the cache "
        "(--harness-offline): the nearest stored reply to demo:c7 differs: message 1 is "
    )
    assert '"could it be 7"' in base
    assert '"is it 7"' in base
    assert cand.startswith("cand: 1 of its requests have no reply, first demo:c7")


def test_a_miss_offline_tells_a_changed_setting(project):
    project.settings(base="half", cand="right")
    project.run()
    project.settings("max_tokens = 77\n", base="half")
    project.pyproject('[tool.harness]\nbase = "python:stub_models:half"\nmax_tokens = 77\n')
    run = project.run("--harness-offline")
    assert run.status == 6
    assert "sampling.max_tokens is 77 and was 128" in run.results["errors"][0]


def test_an_empty_cache_offline_is_undecidable(project):
    project.settings(base="half", cand="right")
    run = project.run("--harness-offline")
    assert run.status == 6
    assert project.calls() == []
    assert "no reply is stored yet" in run.text.replace("\n", " ")


def test_offline_trains_nothing(project):
    project.rows("data/train.jsonl", [project.row("something else")])
    project.settings(
        '[tool.harness.candidates.tuned]\ntrainer = "lora"\ntrain = "data/train.jsonl"\n',
        base="bundled:pocket",
    )
    project.rows("data/demo.jsonl", project.questions(1))
    run = project.run("--harness-offline")
    assert run.status == 6
    assert any("--harness-offline trains nothing" in error for error in run.results["errors"])
    assert not (project.root / ".harness/candidates").exists()


# ---------------------------------------------------------------------- cost


def test_replies_with_tokens_and_a_price_have_a_cost(services):
    settings(services, PRICE)
    run = services.run()
    assert run.status == 0
    usage = run.results["usage"]["base"]
    assert usage["cost_usd"] == pytest.approx(24 * COST)
    assert (usage["attempts"], usage["cached_tokens_mean"]) == (48, 400)


def test_an_unknown_price_is_no_cost_and_a_price_given_later_counts(services):
    settings(services)
    assert services.run().results["usage"]["base"]["cost_usd"] is None
    settings(services, PRICE)
    again = services.run()
    assert again.results["usage"]["base"]["cached"] == 24
    assert again.results["usage"]["base"]["cost_usd"] == pytest.approx(24 * COST)


def test_a_run_that_can_cost_more_than_allowed_asks_nothing(services, workers):
    settings(services, PRICE)
    run = services.run("--harness-max-cost", "0.001", *workers)
    assert run.status == 4
    assert run.results == {}
    [error] = run.errors
    assert "--harness-max-cost: 24 requests can cost up to $0.006" in error
    assert "$0.001 is left; nothing of it was asked: raise the limit" in error


def test_what_is_cached_costs_nothing_again(services):
    settings(services, PRICE)
    assert services.run("--harness-max-cost", "1").status == 0
    assert services.run("--harness-max-cost", "0").status == 0


def test_a_run_that_costs_more_than_estimated_stops_and_keeps_what_arrived(services):
    """Each call costs a dollar, and the estimate could not know."""
    settings(services, PRICE, base="dear")
    run = services.run("--harness-max-cost", "3.5")
    assert run.status == 6
    [error] = [e for e in run.results["errors"] if e.startswith("base: ")]
    assert "of its requests have no reply" in error
    assert "is spent, and --harness-max-cost allows $3.5; what arrived is kept" in error
    paid = run.results["usage"]["base"]["cost_usd"]
    assert 4 <= paid < 24
    again = services.run()
    assert again.status == 0
    assert again.results["usage"]["base"]["cached"] == round(paid)


def test_a_limit_without_a_price_is_refused_with_the_way_out(services):
    settings(services)
    run = services.run("--harness-max-cost", "5")
    assert run.status == 4
    [error] = run.errors
    assert "the price of python:services:paid is unknown" in error
    assert '[tool.harness.prices."python:services:paid"] with input = and output =' in error


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", "much"])
def test_a_limit_that_is_no_amount_is_refused(services, amount):
    settings(services)
    run = services.run(f"--harness-max-cost={amount}")
    assert run.status == 4
    assert "is no amount of US dollars from 0 on" in run.text


def test_the_plan_tells_the_cost_of_what_is_not_in_the_cache(services):
    settings(services, PRICE)
    [line] = [x for x in services.run("--harness-plan").lines if x.startswith("estimated cost")]
    assert line.startswith("estimated cost: at most $0.006")
    assert "for 24 requests that are not in the cache (prices as of 20" in line
    assert not (services.root / ".harness/store.sqlite").exists()
    services.run()
    [line] = [x for x in services.run("--harness-plan").lines if x.startswith("estimated cost")]
    assert line.startswith("estimated cost: at most $0 for 0 requests")


def test_the_plan_tells_a_price_that_is_unknown(project):
    project.pyproject('[tool.harness]\nbase = "openai:gpt-of-tomorrow"\n')
    run = project.run("--harness-plan")
    assert run.status == 0
    assert "the price of openai:gpt-of-tomorrow is unknown" in run.text


def test_the_choice_of_shots_counts_before_anything_is_asked(services):
    services.rows("data/few.jsonl", [services.row(f"for {n}") for n in (91, 92, 93)])
    services.rows("data/validation.jsonl", [services.row("try 5"), services.row("try 6")])
    services.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl", '
        'few_shot="data/few.jsonl", shots=[0, 1, 3], validation="data/validation.jsonl")\n\n'
        "def test_exact(score):\n    score.exact()\n",
    )
    settings(services, PRICE)
    refused = services.run("--harness-max-cost", "0.001")
    assert "30 requests can cost up to" in refused.errors[0]
    assert services.run().status == 0
    assert services.run("--harness-max-cost", "0").status == 0
