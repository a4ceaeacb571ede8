"""Whether a service still trains a model, found out before anything is uploaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

from harness.models.failures import CallFailed
from harness.records import EvidenceError
from trainers import protocol
from trainers.hosted_recipe import HostedRecipe
from trainers.service import Service

OPENAI_HOST = "api.openai.com"
LAST_JOB = date(2027, 1, 6)
"""From this day on nobody starts fine-tuning jobs at OpenAI."""

LAST_REPLY = date(2027, 1, 14)
"""From this day on gpt-4o, gpt-4o-mini, gpt-4.1, gpt-4.1-mini and what was made of them are off."""

KNOWN = (
    "OpenAI is closing fine-tuning: organisations that never used it start no jobs since "
    "2026-05-07, inactive ones since 2026-07-02, nobody from 2027-01-06; gpt-4o, gpt-4.1 and their "
    "fine-tunes stop on 2027-01-14"
)
WAY_OUT = (
    "keep what the old model says with `harness record`, and train a local successor on it "
    "(docs/moving-off.md)"
)

_DYING = re.compile(r"(ft:)?gpt-4(o|\.1)(-mini)?(-\d{4}-\d{2}-\d{2})?(:|$)")


class NotTrainable(EvidenceError):
    """The service does not train this model (any more)."""


def examine(recipe: HostedRecipe, service: Service, today: date | None = None) -> list[str]:
    """Return what is worth knowing before `recipe` is trained.

    Raises:
        NotTrainable: the service has no such model, refuses it, or has switched it off.

    """
    today = today or datetime.now(UTC).date()
    if _at_openai(recipe) and today >= LAST_JOB:
        raise NotTrainable(f"{recipe.base.spec} can no longer be trained: {KNOWN}; {WAY_OUT}")
    shutdown = _shutdown(recipe, service)
    if shutdown and shutdown <= today:
        raise NotTrainable(
            f"{recipe.base.spec} was switched off on {shutdown}: nothing can be trained on it; "
            f"{WAY_OUT}"
        )
    return list(_warnings(recipe, shutdown))


def refusal(recipe: HostedRecipe, problem: CallFailed) -> NotTrainable:
    """Return what it means that the service refused to look up or to train the model."""
    known = f" ({KNOWN})" if _at_openai(recipe) else ""
    return NotTrainable(
        f"{recipe.base.spec} cannot be trained at {recipe.endpoint['base_url']}: "
        f"{problem}{known}; name another base, or {WAY_OUT}"
    )


def is_refusal(problem: CallFailed) -> bool:
    """Whether a service said that the model, or the account, is none that it trains."""
    return problem.status in (401, 403, 404)


def _shutdown(recipe: HostedRecipe, service: Service) -> date | None:
    try:
        return _date(protocol.model(service, recipe.base.target).get("shutdown_date"))
    except CallFailed as problem:
        if is_refusal(problem) and not _may_exist(recipe, service, problem):
            raise refusal(recipe, problem) from None
        return None  # a service need not be able to tell


def _may_exist(recipe: HostedRecipe, service: Service, problem: CallFailed) -> bool:
    """Whether a model that is not found may be there: some services have no route to look it up."""
    if not protocol.is_absent(problem):
        return False
    names = protocol.model_names(service)
    return names is None or recipe.base.target in names


def _date(value: object) -> date | None:
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None


def _warnings(recipe: HostedRecipe, shutdown: date | None) -> Iterator[str]:
    yield from recipe.warnings
    if shutdown is None and _at_openai(recipe) and _DYING.match(recipe.base.target):
        shutdown = LAST_REPLY
    if shutdown:
        yield (
            f"{recipe.name}: {recipe.base.spec} and what is trained on it will be switched off on "
            f"{shutdown}; {WAY_OUT}"
        )


def _at_openai(recipe: HostedRecipe) -> bool:
    return urlsplit(str(recipe.endpoint["base_url"])).hostname == OPENAI_HOST
