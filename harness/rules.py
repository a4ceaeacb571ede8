"""Which rules of `[tool.harness.gates]` apply to which comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records import Comparison, Rule

USAGE = ("latency_s", "cost_usd", "prompt_tokens", "completion_tokens")
"""Metrics that every reply has; compared only where a rule names them."""

Gate = tuple[Comparison, Rule]


def gated(comparisons: Iterable[Comparison], rules: Sequence[Rule]) -> list[Gate]:
    """Return every gated comparison with each of its rules, in the order of `comparisons`.

    A metric without any rule must not regress, that of a guard in no case. Not gated: diagnostics
    that no rule names by the metric, slices by tag without a rule of this tag, and metrics without
    a rule where there is no baseline.
    """
    return [
        (comparison, rule)
        for comparison in comparisons
        for rule in rules_of(comparison, rules)
        if _is_gated(comparison, rule)
    ]


def rules_of(comparison: Comparison, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the most specific rules: of `suite.metric`, then of the metric, then of the suite.

    Among those, rules of this very candidate stand in for the rules of all. Where there is none,
    the default.
    """
    mine = [rule for rule in rules if _concerns(rule, comparison)]
    for key in _keys(comparison.metric):
        named = [rule for rule in mine if rule.key == key]
        if named:
            return tuple([rule for rule in named if rule.candidate] or named)
    if comparison.guard and comparison.tag is None and comparison.baseline is not None:
        return (Rule(key=comparison.metric, max_regressions=0),)
    return (Rule(),)


def unused(rules: Sequence[Rule], comparisons: Sequence[Comparison]) -> list[Rule]:
    """Return the rules that name nothing recorded, in their order."""
    return [
        rule
        for rule in rules
        if not any(
            _concerns(rule, comparison) and rule.key in _keys(comparison.metric)
            for comparison in comparisons
        )
    ]


def tags_of(rules: Iterable[Rule], metric: str) -> list[str]:
    """Return the tags on which a rule wants `metric` to be compared, sorted."""
    keys = _keys(metric)
    return sorted({rule.tag for rule in rules if rule.tag and rule.key in keys})


def named(rules: Iterable[Rule], metric: str) -> bool:
    """Say whether a rule is about `metric`, by its name or its suite's, and not about votes."""
    keys = _keys(metric)
    return any(rule.key in keys and rule.max_would_not_ship is None for rule in rules)


def usage_metrics(rules: Iterable[Rule], suite: str) -> list[str]:
    """Return which of `USAGE` a rule names for `suite`."""
    named = {rule.key for rule in rules}
    return [name for name in USAGE if not named.isdisjoint((name, f"{suite}.{name}"))]


def is_statistical(rule: Rule) -> bool:
    """Whether statistics decide on `rule`; the others are contracts on a mean or a count."""
    contracts = (rule.at_least, rule.at_most, rule.max_regressions, rule.max_would_not_ship)
    return all(bound is None for bound in contracts)


def counts_votes(rules: Iterable[Rule], metric: str, candidate: str) -> bool:
    """Whether a rule counts people's votes on the replies of `candidate`, as `metric`."""
    return any(
        rule.max_would_not_ship is not None
        and rule.key in _keys(metric)
        and rule.candidate in (None, candidate)
        for rule in rules
    )


def _concerns(rule: Rule, comparison: Comparison) -> bool:
    return rule.tag == comparison.tag and rule.candidate in (None, comparison.candidate)


def _is_gated(comparison: Comparison, rule: Rule) -> bool:
    if comparison.diagnostic:
        return rule.key in _keys(comparison.metric)[:2]
    has_rule = bool(rule.key)
    return has_rule or (comparison.baseline is not None and comparison.tag is None)


def _keys(metric: str) -> tuple[str, str, str]:
    suite, _, name = metric.partition(".")
    return metric, name, suite
