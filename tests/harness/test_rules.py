"""Which rules apply to which comparison."""

from __future__ import annotations

from harness.records import Comparison, Rule
from harness.rules import gated, rules_of, tags_of, unused, usage_metrics

METRIC = "tickets.schema_match"


def of(
    metric: str = METRIC,
    candidate: str = "new",
    baseline: str | None = "base",
    *,
    tag: str | None = None,
    guard: bool = False,
    diagnostic: bool = False,
) -> Comparison:
    return Comparison(
        metric,
        candidate,
        baseline,
        n=9,
        missing=0,
        unscored=0,
        tag=tag,
        guard=guard,
        diagnostic=diagnostic,
    )


def keys(comparison: Comparison, rules: list[Rule]) -> list[str]:
    return [rule.key for rule in rules_of(comparison, rules)]


def test_the_most_specific_rule_wins() -> None:
    rules = [Rule(key=key, margin=0.1) for key in ("tickets", "schema_match", METRIC)]
    assert keys(of(), rules) == [METRIC]
    del rules[-1]
    assert keys(of(), rules) == ["schema_match"]
    assert keys(of("general.schema_match"), rules) == ["schema_match"]
    assert keys(of("tickets.field_accuracy"), rules) == ["tickets"]
    assert rules_of(of("general.exact_match"), rules) == (Rule(),)


def test_all_rules_under_one_key_apply() -> None:
    rules = [Rule(key=METRIC, at_least=0.9), Rule(key=METRIC, better_by=0.1)]
    assert [rule for _, rule in gated([of()], rules)] == rules


def test_a_rule_of_one_candidate_stands_in_for_the_rule_of_all() -> None:
    everyone, small = Rule(key=METRIC, margin=0.1), Rule(key=METRIC, margin=0.2, candidate="small")
    assert rules_of(of(candidate="large"), [everyone, small]) == (everyone,)
    assert rules_of(of(candidate="small"), [everyone, small]) == (small,)
    assert rules_of(of(candidate="large"), [small]) == (Rule(),)


def test_a_rule_of_a_tag_concerns_the_cases_with_this_tag_only() -> None:
    rule = Rule(key="tickets", at_least=0.8, tag="german")
    whole, german, short = of(), of(tag="german"), of(tag="short")
    assert gated([whole, german, short], [rule]) == [(whole, Rule()), (german, rule)]
    assert tags_of([rule, Rule(key="general", margin=0.1, tag="x")], METRIC) == ["german"]


def test_a_guard_without_a_rule_may_not_lose_a_case() -> None:
    [(_, rule)] = gated([of(guard=True)], [])
    assert rule.max_regressions == 0
    [(_, rule)] = gated([of(guard=True)], [Rule(key="schema_match", margin=0.1)])
    assert rule.margin == 0.1
    assert gated([of(guard=True, baseline=None)], []) == []


def test_a_diagnostic_is_gated_only_where_a_rule_names_it() -> None:
    diagnostic = of("tickets.schema_match_unfenced", diagnostic=True)
    assert gated([diagnostic], [Rule(key="tickets", margin=0.1)]) == []
    named = Rule(key="schema_match_unfenced", at_least=0.9)
    assert gated([diagnostic], [named]) == [(diagnostic, named)]


def test_without_a_baseline_only_configured_rules_gate() -> None:
    rule = Rule(key=METRIC, at_least=0.9)
    assert gated([of(baseline=None)], []) == []
    assert gated([of(baseline=None)], [rule]) == [(of(baseline=None), rule)]


def test_rules_that_name_nothing_recorded_are_found() -> None:
    wrong = [
        Rule(key="ticket"),
        Rule(key="x.y"),
        Rule(key="tickets", candidate="nwe"),
        Rule(key="tickets", tag="german"),
    ]
    right = [Rule(key=key) for key in ("general", "tickets", "rouge1")]
    assert unused([*right, *wrong], [of(), of("general.rouge1")]) == wrong


def test_usage_is_compared_where_a_rule_names_it() -> None:
    rules = [Rule(key="latency_s", at_most=1), Rule(key="general.cost_usd", at_most=1)]
    assert usage_metrics(rules, "tickets") == ["latency_s"]
    assert usage_metrics(rules, "general") == ["latency_s", "cost_usd"]
    assert usage_metrics([Rule(key="general", margin=0.1)], "general") == []
