"""The jobs of hosted candidates, for people: listed, followed, cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from harness.models.failures import CallFailed
from harness.preparation import Plan
from harness.records import EvidenceError, HarnessError
from trainers import Event, find, hosted, protocol
from trainers.hosted_recipe import HostedRecipe
from trainers.ledger import Ledger
from trainers.service import Service


def overview(plan: Plan) -> Iterator[str]:
    """Yield a line on each hosted candidate: its job, the job's status, the model it made."""
    if not plan.hosted:
        yield "no candidate has trainer = 'openai'"
    for name, recipe in plan.hosted.items():
        try:
            yield f"{name}: {_told(plan, recipe)}"
        except (CallFailed, EvidenceError) as problem:
            yield f"{name}: {problem}"


def follow(plan: Plan, name: str, say: Callable[[str], object]) -> Iterator[str]:
    """Say what the job of the candidate `name` does until it is over; yield what it made.

    Raises:
        HarnessError: there is no such candidate.
        EvidenceError: it has no job, or the job failed.

    """
    recipe = _recipe(plan, name)
    with _speaking(recipe), Service(recipe.base) as service:
        job = _job(plan, recipe, service)

        def told(event: Event) -> None:
            say(_line(event))

        try:
            made = hosted.finish(recipe, plan.home, service, job, told)
        except KeyboardInterrupt:
            yield f"the job {job} of {name} goes on at its service"
            return
    yield f"{name}: {made.model}"
    yield from made.findings


def cancel(plan: Plan, name: str) -> str:
    """Cancel the job of the candidate `name` and return what became of it.

    Raises:
        HarnessError: there is no such candidate.
        EvidenceError: it has no job, or the service refuses.

    """
    recipe = _recipe(plan, name)
    with _speaking(recipe), Service(recipe.base) as service:
        job = _job(plan, recipe, service)
        status = protocol.cancel(service, job).status
        Ledger(plan.home).forget(recipe)
        return f"{name}: the job {service.shown(job)} is {service.shown(status)}"


def adopt(plan: Plan, job: str, name: str = "") -> str:
    """Take over the job with the id `job` for the candidate `name`, and say so.

    Without a name it is the candidate whose job is in doubt.

    Raises:
        HarnessError: there is no such candidate or job, or the job is another's.
        EvidenceError: the service does not tell.

    """
    recipe = _recipe(plan, name or _doubtful(plan))
    with _speaking(recipe), Service(recipe.base) as service:
        found = hosted.adopt(recipe, plan.home, service, job)
        return (
            f"{recipe.name}: the job {service.shown(found.id)} ({service.shown(found.status)}) is "
            "taken over; run again to wait for it"
        )


def forget(plan: Plan, name: str = "") -> str:
    """Forget that a job was asked for, so that the next run asks for another, and say so.

    Without a name it is that of the candidate whose job is in doubt.

    Raises:
        HarnessError: there is no such candidate, or its job is known and lives.
        EvidenceError: the service does not tell.

    """
    recipe = _recipe(plan, name or _doubtful(plan))
    entry = Ledger(plan.home).entry(recipe)
    with _speaking(recipe), ExitStack() as stack:
        service = stack.enter_context(Service(recipe.base)) if entry and entry.job else None
        if hosted.forget(recipe, plan.home, service):
            return f"{recipe.name}: the job is forgotten; the next run asks for another"
    return f"{recipe.name}: no job was asked for; the next run asks for one"


def _doubtful(plan: Plan) -> str:
    """Return the only candidate whose job was asked for without an answer."""
    ledger = Ledger(plan.home)
    entries = {name: ledger.entry(recipe) for name, recipe in plan.hosted.items()}
    names = [name for name, entry in entries.items() if entry and not entry.job]
    if len(names) == 1 or len(plan.hosted) == 1:
        return (names or list(plan.hosted))[0]
    known = ", ".join(names or plan.hosted) or "none"
    raise HarnessError(f"say whose job: name one of the hosted candidates ({known})")


def _told(plan: Plan, recipe: HostedRecipe) -> str:
    if made := find(recipe, plan.home):
        return f"{made.recipe['job']} succeeded: {made.model}"
    with Service(recipe.base) as service:
        job = hosted.rejoin(recipe, plan.home, service)
        if not job:
            return "no job yet; `harness train` or a run begins one"
        return f"{service.shown(job)} {service.shown(hosted.status_of(job, service))}"


def _recipe(plan: Plan, name: str) -> HostedRecipe:
    if name not in plan.hosted:
        known = ", ".join(plan.hosted) or "none"
        raise HarnessError(f"there is no hosted candidate {name!r}; there: {known}")
    return plan.hosted[name]


def _job(plan: Plan, recipe: HostedRecipe, service: Service) -> str:
    if job := hosted.rejoin(recipe, plan.home, service):
        return job
    raise EvidenceError(f"{recipe.name} has no job; begin one with: harness train {recipe.name}")


@contextmanager
def _speaking(recipe: HostedRecipe) -> Iterator[None]:
    try:
        yield
    except CallFailed as problem:
        raise EvidenceError(f"{recipe.name}: {problem}") from None


def _line(event: Event) -> str:
    step = f"step {event.step}/{event.steps} " if event.step else ""
    loss = f"loss {event.loss:.3f} " if event.loss is not None else ""
    return f"{step}{loss}{event.message or event.kind}"
