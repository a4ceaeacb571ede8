"""The hosted trainings of a run: found, paid for, submitted first, waited for last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import progress, prompting
from harness.progress import Update
from harness.records import Candidate, EvidenceError, HarnessError

if TYPE_CHECKING:
    from harness.preparation import Plan
    from harness.prices import Price, Prices
    from trainers.hosted_cost import Estimate
    from trainers.hosted_recipe import HostedRecipe
    from trainers.service import Service


@dataclass(frozen=True, slots=True)
class Consent:
    """What may be spent on training: up to `max_cost_usd` in all, or (`yes`) whatever it costs."""

    max_cost_usd: float | None = None
    yes: bool = False

    def refuse(self, estimates: list[Estimate]) -> None:
        """Raise HarnessError if trainings that cost this may not begin."""
        paid = [one for one in estimates if one.cost_usd != 0]
        if not paid:
            return
        told = "; ".join(map(str, paid))
        if self.max_cost_usd is not None:
            self._refuse_too_dear(paid, told)
        elif not self.yes:
            raise HarnessError(
                f"{told}; nothing was uploaded: allow it with --harness-max-cost USD, or with "
                "--harness-yes whatever it costs"
            )

    def _refuse_too_dear(self, paid: list[Estimate], told: str) -> None:
        unpriced = [one.name for one in paid if one.cost_usd is None]
        if unpriced and not self.yes:
            raise HarnessError(
                f"--harness-max-cost: {told}; nothing was uploaded: give the price of its base, "
                '[tool.harness.prices."openai:NAME"] with input =, output = and training ='
            )
        total = sum(one.cost_usd or 0.0 for one in paid)
        if total > float(self.max_cost_usd or 0.0):
            raise HarnessError(
                f"--harness-max-cost: {told}; ${self.max_cost_usd:.4g} is allowed and nothing was "
                "uploaded: raise the limit, or train on fewer rows or epochs"
            )


class Hosting:
    """The hosted candidates among the recipes of a run.

    `candidates` are those that are known, `failed` maps the others that will not come to the
    reason; `notes` is what people should know, `cost_usd` what the new trainings will cost.
    """

    def __init__(
        self,
        recipes: Mapping[str, HostedRecipe],
        home: Path,
        show: Callable[[str], AbstractContextManager[Update]],
        run: str = "",
    ) -> None:
        """Look after `recipes`; `run` names a run of several processes."""
        self._recipes = dict(recipes)
        self._home = home
        self._show = show
        self._run = run
        self._stack = ExitStack()
        self._services: dict[str, Service] = {}
        self._jobs: dict[str, str] = {}
        self._estimates: dict[str, Estimate] = {}
        self.candidates: dict[str, Candidate] = {}
        self.failed: dict[str, str] = {}
        self.notes: list[str] = []
        self.cost_usd = 0.0

    @property
    def waiting(self) -> list[str]:
        """The candidates whose jobs are not over."""
        return list(self._jobs)

    def find(self) -> None:
        """Take over the candidates in the store, and what failed in this run; asks nobody."""
        from trainers import hosted_made
        from trainers.ledger import Ledger

        for name, recipe in self._missing():
            with self._noting(name):
                if found := hosted_made.find(recipe, self._home):
                    self.candidates[name] = found
                elif reason := Ledger(self._home).failure(recipe, self._run):
                    self.failed[name] = reason

    def leave_out(self, reason: Callable[[str], str]) -> None:
        """Give up the candidates that are not in the store."""
        self.failed |= {name: reason(name) for name, _ in self._missing()}

    def rejoin(self) -> None:
        """Find the jobs that earlier runs, or other machines, asked for; they cost nothing now."""
        from trainers import hosted

        for name, recipe in self._missing():
            with self._noting(name):
                if job := hosted.rejoin(recipe, self._home, self._service(name, recipe)):
                    self._jobs[name] = job

    def examine(self, prices: Prices, consent: Consent) -> None:
        """Find out whether the services train the rest, and what that costs.

        Raises:
            HarnessError: it may not be spent; nothing was uploaded.

        """
        from trainers.hosted_cost import estimate
        from trainers.preflight import examine

        for name, recipe in self._missing():
            with self._noting(name):
                service = self._service(name, recipe)
                self.notes += examine(recipe, service)
                self._estimates[name] = estimate(recipe, price_of(recipe, prices), service)
        found = list(self._estimates.values())
        consent.refuse(found)
        self.cost_usd = sum(one.cost_usd or 0.0 for one in found)
        self.notes += [str(one) for one in found]

    def submit(self) -> None:
        """Upload the rest and ask for the jobs."""
        from trainers import hosted

        for name, recipe in self._missing():
            with self._noting(name):
                tokens = self._estimates[name].tokens
                service = self._service(name, recipe)
                self._jobs[name] = hosted.submit(recipe, self._home, service, tokens)

    def wait(self) -> None:
        """Wait until the jobs are over."""
        from trainers import hosted

        for name, job in list(self._jobs.items()):
            recipe = self._recipes[name]
            with self._noting(name), self._show(f"training {name}") as update:
                service = self._service(name, recipe)
                told = prompting.shown(update)
                self.candidates[name] = hosted.finish(recipe, self._home, service, job, told)
            del self._jobs[name]

    @contextmanager
    def staying(self) -> Iterator[None]:
        """On Ctrl-C, leave the jobs running and say how to come back to them."""
        try:
            yield
        except KeyboardInterrupt:
            for name, job in self._jobs.items():
                progress.say(
                    f"the job {job} of {name} goes on at its service: run again to rejoin it, "
                    f"`harness jobs follow {name}` to watch it, `harness jobs cancel {name}` to "
                    "end it"
                )
            raise

    def close(self) -> None:
        """Let go of the connections."""
        self._stack.close()

    def _missing(self) -> list[tuple[str, HostedRecipe]]:
        known = (self.candidates, self.failed, self._jobs)
        return [
            (name, recipe)
            for name, recipe in self._recipes.items()
            if not any(name in names for names in known)
        ]

    def _service(self, name: str, recipe: HostedRecipe) -> Service:
        from trainers.service import Service

        if name not in self._services:
            self._services[name] = self._stack.enter_context(Service(recipe.base))
        return self._services[name]

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """A training that fails makes its candidate undecidable; the others go on.

        It fails for all processes of the run: none of them starts it again.
        """
        from harness.models.failures import CallFailed
        from trainers.ledger import Ledger

        try:
            yield
        except (EvidenceError, CallFailed) as problem:
            self.failed[name] = str(problem)
            Ledger(self._home).remember_failure(self._recipes[name], self._run, str(problem))


def price_of(recipe: HostedRecipe, prices: Prices) -> Price | None:
    """Return the price of the model that `recipe` starts from; None if it is unknown."""
    return prices.of(recipe.base, recipe.endpoint)


def train_one(
    plan: Plan,
    name: str,
    consent: Consent,
    show: Callable[[str], AbstractContextManager[Update]],
    say: Callable[[str], object],
) -> Candidate:
    """Return the hosted candidate `name` of `plan`, trained unless it is known.

    Raises:
        HarnessError: it may not cost what it costs; nothing was uploaded.
        EvidenceError: it could not be trained.

    """
    hosting = Hosting({name: plan.hosted[name]}, plan.home, show)
    with closing(hosting), hosting.staying():
        hosting.find()
        hosting.rejoin()
        hosting.examine(plan.settings.price_table, consent)
        for note in hosting.notes:
            say(note)
        hosting.submit()
        hosting.wait()
    if name in hosting.failed:
        raise EvidenceError(hosting.failed[name])
    return hosting.candidates[name]
