"""A plan in lines for people: what a run would train, ask and be able to see."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from harness.arms import as_tuned, with_artefact
from harness.calls import request_of
from harness.checks.judge import PREFERENCE, Material, question
from harness.checks.judge import prompt as judge_prompt
from harness.evaluation import CaseItem, conversation
from harness.preparation import Plan
from harness.prices import CHARACTERS_PER_TOKEN
from harness.records import Arm, EvidenceError, Message, Question, Request
from harness.requests import Requests
from harness.stats import mde_binary

if TYPE_CHECKING:
    from trainers.hosted_recipe import HostedRecipe
    from trainers.recipe import Recipe

ASSUMED_DISCORDANCE = 0.2
"""The share of cases on which two models differ, for want of a measured one (STATISTICS.md)."""


Foreseen = Sequence[tuple[CaseItem, Sequence[str]]]
"""Items with the judge checks (see `judge_checks`) of their functions"""


def lines(plan: Plan, foreseen: Foreseen = ()) -> Iterator[str]:
    """Yield the lines of `--harness-plan`; `foreseen` is what judges will be asked about."""
    yield from _trainings(plan)
    yield from _requests(plan)
    yield from _cost(plan)
    yield from _judges(plan, foreseen)
    yield from _sights(plan)


def judge_checks(function: Callable[..., object]) -> list[str]:
    """Return the calls of `judge` and `prefer` in the body of a test function, as they stand."""
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    return [i.argval for i in dis.get_instructions(code) if i.argval in ("judge", "prefer")]


def _judges(plan: Plan, foreseen: Foreseen) -> Iterator[str]:
    """What judges will be asked, about: what a reply will be is known only when it is there."""
    from harness.judges import panel
    from harness.models import Models
    from harness.replies import estimate

    if not any(checks for _, checks in foreseen):
        return
    judges, models, table = panel(plan.settings, plan.root), Models(), plan.settings.price_table
    if not judges:
        yield "judge checks: skipped, because no judge is configured"
    for name, spec in judges.items():
        requests = [
            request_of(models, spec, messages)
            for item, checks in foreseen
            for messages in _put(plan, item, checks)
        ]
        expected = estimate(models, requests, table)
        cost = "" if expected.unknown else f", at most ${expected.cost_usd:.4g}"
        yield (
            f"requests to judge {name}: about {len(requests)}, after the items, if nothing is in "
            f"the cache and no two replies are equal{cost}"
        )


def _put(plan: Plan, item: CaseItem, checks: Sequence[str]) -> Iterator[Sequence[Message]]:
    """The prompts of judges about an item, with replies as long as they may be."""
    longest = CHARACTERS_PER_TOKEN * plan.arm(item.arm).spec.sampling.max_tokens * "x"
    prompt = conversation(item.case.messages)
    for check in checks:
        pair = check == "prefer"
        asked = Question("", "preference", PREFERENCE) if pair else question("", "correctness")
        calls = 2 * (item.arm != plan.baseline.name) if pair else 1
        material = Material(prompt, item.case.reference, (longest,) * (1 + pair))
        message = {"role": "user", "content": judge_prompt(asked, material)}
        for _ in range(calls):
            yield (message,)


def _trainings(plan: Plan) -> Iterator[str]:
    from trainers import find

    recipes: dict[str, Recipe | HostedRecipe] = {**plan.recipes, **plan.hosted}
    for name, recipe in recipes.items():
        try:
            found = find(recipe, plan.home)
        except EvidenceError as problem:
            yield f"candidate {name}: {problem}"
            continue
        if found:
            yield f"candidate {name}: trained already ({recipe.fingerprint[:12]})"
        elif name in plan.recipes:
            steps = plan.recipes[name].steps
            yield f"candidate {name}: {recipe.trainer} on {recipe.base.spec}, {steps} steps"
            yield from _unlearnt(name, plan.recipes[name])
        else:
            yield from _hosted(plan, name)


def _unlearnt(name: str, recipe: Recipe) -> Iterator[str]:
    from trainers.artefact import left_out

    data = recipe.data()
    for said in left_out(data.unlearnt, data.weightless):
        yield f"candidate {name}: {said}"


def _hosted(plan: Plan, name: str) -> Iterator[str]:
    from trainers.hosted_cost import estimate

    recipe = plan.hosted[name]
    price = plan.settings.price_table.of(recipe.base, recipe.endpoint)
    yield f"candidate {name}: {recipe.trainer} on {recipe.base.spec}; {estimate(recipe, price)}"
    yield from recipe.warnings


def _requests(plan: Plan) -> Iterator[str]:
    for planned in plan.arms:
        if planned.arm.spec.recorded:
            yield f"replies of {planned.arm.name}: read from {planned.arm.spec.target}"
    counts = plan.request_counts()
    for name, count in counts.items():
        yield f"requests to {name}: {count}"
    yield f"requests in all: {sum(counts.values())}"


def _cost(plan: Plan) -> Iterator[str]:
    from harness.models import Models
    from harness.replies import Replies, estimate
    from harness.store import Store

    table, models, path = plan.settings.price_table, Models(), plan.home / "store.sqlite"
    arms = {planned.arm.name: _expected(plan, planned.arm) for planned in plan.arms}
    paid = [n for n, a in arms.items() if a.spec.provider == "openai" or a.spec.spec in table.own]
    if not paid:
        return
    # Looking leaves nothing behind: a store that is not there is not made.
    replies = Replies(Store(path), models, table) if path.is_file() else None

    def missing(requests: Sequence[Request]) -> Sequence[Request]:
        return replies.missing(requests) if replies else requests

    foreseen = missing(Requests(plan, models, arms).foreseeable(paid, missing))
    expected = estimate(models, {request.key: request for request in foreseen}.values(), table)
    if replies:
        replies.close()
    yield from expected.unknown
    yield (
        f"estimated cost: at most ${expected.cost_usd:.4g} for {expected.requests} requests that "
        f"are not in the cache (prices as of {table.as_of} where the settings give none)"
    )


def _expected(plan: Plan, arm: Arm) -> Arm:
    """Return `arm` as the run will ask it: a hosted candidate costs more than its base."""
    from trainers import find

    if arm.name not in plan.hosted:
        return arm
    try:
        found = find(plan.hosted[arm.name], plan.home)
    except EvidenceError:
        found = None
    return with_artefact(arm, found) if found else as_tuned(arm)


def _sights(plan: Plan) -> Iterator[str]:
    candidates = [planned.arm.name for planned in plan.arms[1:]]
    for suite in plan.suites:
        count = len({item.case.id for item in plan.items if item.suite is suite})
        sight = _sight(plan, count) if candidates else "no candidate to compare"
        yield f"{suite.name}: {count} cases; {sight}"


def _sight(plan: Plan, count: int) -> str:
    settings = plan.settings
    drop = mde_binary(count, ASSUMED_DISCORDANCE, settings.alpha, settings.power)
    if drop is None:
        return "too few to see any drop"
    return (
        f"sees a drop of {100 * drop:.0f} points or more in a yes-or-no metric, "
        f"if the models differ on {ASSUMED_DISCORDANCE:.0%} of the cases"
    )
