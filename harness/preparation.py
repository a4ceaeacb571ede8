"""From the selected items to trained candidates and known replies, before any item runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import prompting, remarks
from harness.arms import PlannedArm, as_tuned, sharing_one_base, with_artefact
from harness.config import CandidateSettings, Settings
from harness.evaluation import CaseItem
from harness.progress import Update
from harness.records import (
    Arm,
    Candidate,
    Case,
    EvidenceError,
    HarnessError,
    Message,
    Reply,
    Request,
    Usage,
)
from harness.requests import Requests, choosing
from harness.suites import Suite

if TYPE_CHECKING:
    from harness.replies import Limits
    from trainers.hosted_recipe import HostedRecipe
    from trainers.recipe import Recipe

_NAMED = 10
"""Cases that an error names; of the others it says how many they are."""

Show = Callable[[str], AbstractContextManager[Update]]
"""Shows the work of this title; see `harness.progress.task`."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation made known, beside the replies themselves.

    `asked` counts requests that left this process and `spent_usd` is what they cost, `failed` maps
    a candidate that could not be made to the reason.
    """

    arms: tuple[Arm, ...] = ()
    usage: dict[str, Usage] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    asked: int = 0
    spent_usd: float = 0.0

    def to_json(self) -> str:
        """Return this as JSON text."""
        from pydantic import TypeAdapter

        return TypeAdapter(Prepared).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> Prepared:
        """Return what `to_json` wrote."""
        from pydantic import TypeAdapter

        return TypeAdapter(Prepared).validate_json(text)


@dataclass(frozen=True)
class Plan:
    """Everything that the selected items need."""

    settings: Settings
    root: Path
    arms: tuple[PlannedArm, ...]
    items: tuple[CaseItem, ...]

    @property
    def home(self) -> Path:
        """Where candidates, replies and locks are kept."""
        return self.root / self.settings.store

    @property
    def baseline(self) -> Arm:
        """The model that candidates are compared with."""
        return self.arms[0].arm

    def arm(self, name: str) -> Arm:
        """Return the model of this name."""
        return next(planned.arm for planned in self.arms if planned.arm.name == name)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes of the candidates that are trained here, by name.

        Raises:
            HarnessError: a recipe or its data is wrong.

        """
        return {
            planned.arm.name: self._recipe(planned.arm.name, planned.recipe)
            for planned in self.arms
            if planned.recipe and planned.recipe.trainer != "openai"
        }

    @cached_property
    def hosted(self) -> dict[str, HostedRecipe]:
        """The recipes of the candidates that services train, by name.

        Raises:
            HarnessError: a recipe, its data or its endpoint is wrong.

        """
        from trainers.hosted_recipe import resolve_hosted

        return {
            planned.arm.name: resolve_hosted(
                planned.arm.name, planned.recipe, planned.arm.spec, self.root
            )
            for planned in self.arms
            if planned.recipe and planned.recipe.trainer == "openai"
        }

    def _recipe(self, name: str, candidate: CandidateSettings) -> Recipe:
        from trainers.recipe import resolve

        base, revision = candidate.base or self.settings.base, None
        options: dict[str, Any] = {}
        if table := self.settings.models.get(base):
            base, revision = table.model, table.revision
            options = {**(table.model_extra or {}), "thinking": table.thinking}
        alone = candidate.model_copy(update={"base": None})
        return resolve(name, alone, base, self.root, revision, options)

    def refuse_leaks(self) -> None:
        """Raise HarnessError if a training row is also a case of a suite."""
        from harness.data.jsonl import read_rows
        from harness.data.leakage import refuse_leaks

        cases = [case for suite in self.suites for case in (*suite.cases, *suite.confirm)]
        for recipe in self.recipes.values():
            refuse_leaks(read_rows(recipe.train, self.root), cases)
        for hosted in self.hosted.values():
            refuse_leaks((example.row for example in hosted.data().train), cases)

    @cached_property
    def suites(self) -> tuple[Suite, ...]:
        """The suites of the items, each once."""
        return tuple({item.suite.name: item.suite for item in self.items}.values())

    def asked(self, arm: str) -> list[tuple[Suite, Case, int]]:
        """Return the cases that `arm` answers with the number of the trial, each once."""
        found = {
            (item.suite.name, item.case.id, item.trial): (item.suite, item.case, item.trial)
            for item in self.items
            if item.arm == arm
        }
        return list(found.values())

    @cached_property
    def choices(self) -> tuple[Suite, ...]:
        """The suites whose number of shots is chosen on their validation cases."""
        if not self.baseline.examples:
            return ()
        asked = {suite.name for suite, _, _ in self.asked(self.baseline.name)}
        return tuple(s for s in self.suites if len(s.shots) > 1 and s.name in asked)

    def request_counts(self) -> dict[str, int]:
        """Return model -> number of distinct requests, those that choose its shots apart.

        A recording is asked nothing.
        """
        counts: Counter[str] = Counter()
        for arm in (planned.arm for planned in self.arms if not planned.arm.spec.recorded):
            distinct = {
                (
                    suite.name if arm.examples and suite.examples else "",
                    prompting.text_of(case.messages),
                    trial,
                )
                for suite, case, trial in self.asked(arm.name)
            }
            counts[arm.name] += len(distinct)
        for suite in self.choices:
            distinct_cases = {prompting.text_of(case.messages) for case in suite.validation}
            counts[choosing(self.baseline.name)] += len(suite.shots) * len(distinct_cases)
        return dict(counts)


@contextmanager
def waiting_its_turn(home: Path) -> Iterator[None]:
    """Hold the lock of the store in `home` that keeps two processes from asking the same.

    Raises:
        HarnessError: it cannot be made there.

    """
    from filelock import FileLock

    lock = FileLock(home / "locks" / "run.lock")
    try:
        (home / "locks").mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as problem:
        raise HarnessError(
            f"{home}: no lock can be made there: {problem.strerror or problem}; make room, or "
            "choose another folder with tool.harness.store"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Preparation:
    """Carries out a `Plan`; afterwards it knows the reply of every item."""

    def __init__(
        self,
        plan: Plan,
        show: Show,
        *,
        train: bool = True,
        limits: Limits | None = None,
        run: str = "",
    ) -> None:
        """Carry out `plan`; `run` names it where several processes carry it out."""
        from harness.hosting import Consent, Hosting
        from harness.models import Models
        from harness.replies import Replies
        from harness.store import Store

        self._plan = plan
        self._show = show
        self._train = train
        self._offline = bool(limits and limits.offline)
        self._models = Models()
        self._store = Store(plan.home / "store.sqlite")
        self._replies = Replies(self._store, self._models, plan.settings.price_table, limits, run)
        self._arms = {planned.arm.name: planned.arm for planned in plan.arms}
        self._requests = Requests(plan, self._models, self._arms)
        needed = {item.arm for item in plan.items}
        hosted = {name: recipe for name, recipe in plan.hosted.items() if name in needed}
        self._hosting = Hosting(hosted, plan.home, show, run)
        self._consent = Consent(limits.max_cost_usd, limits.yes) if limits else Consent()
        self._known: dict[str, Reply] = {}
        self._asked: list[Request] = []
        self._candidates: dict[str, Candidate] = {}
        self._failed: dict[str, str] = {}
        self._complete: set[str] = set()
        self._notes = [planned.note for planned in plan.arms if planned.note]

    def prepare(self) -> Prepared:
        """Train, choose the shots and ask, under the lock that other processes wait on.

        Raises:
            HarnessError: it could cost more than it may; then nothing was trained or asked.
            EvidenceError: a recording is damaged, or does not answer all cases; then nothing was
                trained or asked.

        """
        with waiting_its_turn(self._plan.home):
            self._replay()
            self._find_hosted()
            self._refuse_cost()
            with self._hosting.staying():
                self._hosting.submit()
                self._make_candidates()
                self._choose_shots()
                self._ask_all()
                self._hosting.wait()
            self._know_candidates(self._hosting.candidates)
            self._ask_all()
        return self._prepared()

    def reply(self, item: CaseItem) -> Reply:
        """Return the reply to an item's case; its `error` says why there is none."""
        if reason := self._failed.get(item.arm):
            return Reply(error=f"the candidate {item.arm} was not made: {reason}")
        arm = self._arms[item.arm]
        request = self._requests.of_case(arm, item.suite, item.case, item.trial)
        if request.key not in self._known:
            self._ask([request], "asking")
        return self._known[request.key]

    def ask(self, item: CaseItem, messages: Sequence[Message]) -> Reply:
        """Return the reply of an item's model to `messages`, through the cache."""
        arm = self._arms[item.arm]
        request = self._requests.free(arm, item.suite, messages, item.case.id, item.trial)
        if request.key not in self._known:
            self._ask([request], "asking")
        return self._known[request.key]

    def close(self) -> None:
        """Let go of models, connections and the store."""
        self._hosting.close()
        self._replies.close()

    # ------------------------------------------------------------------ steps

    def _replay(self) -> None:
        for arm in [arm for arm in self._arms.values() if arm.spec.recorded]:
            requests = self._requests.of_items([arm.name])
            self._asked.extend(requests)
            self._known |= self._replies.gather(requests)
            about = f"{arm.name} is a recording of {self._models.identity(arm.spec)['about']}"
            self._refuse_gaps(about, requests)
            self._notes.append(about)

    def _refuse_gaps(self, about: str, requests: Sequence[Request]) -> None:
        gaps = [error for one in requests if (error := self._known[one.key].error)]
        if gaps:
            more = f"; and {len(gaps) - _NAMED} more" if len(gaps) > _NAMED else ""
            raise EvidenceError(
                f"{about}, which answers {len(requests) - len(gaps)} of "
                f"{len(requests)} cases: {'; '.join(gaps[:_NAMED])}{more}; record the model again, "
                "or take these cases back; nothing was trained or asked"
            )

    def _find_hosted(self) -> None:
        """Find hosted candidates, or their jobs, and what the others would cost."""
        self._hosting.find()
        if self._train:
            self._hosting.rejoin()
            self._hosting.examine(self._plan.settings.price_table, self._consent)
        else:
            self._hosting.leave_out(self._untrained)
        self._know_candidates(self._hosting.candidates)
        self._replies.charge(self._hosting.cost_usd)

    def _refuse_cost(self) -> None:
        from harness.prices import FREE

        if self._offline:
            return
        # A candidate that a service still has to train is asked at the price of a trained one.
        unmade = self._plan.hosted.keys() - self._hosting.candidates.keys()
        expected = {n: as_tuned(arm) if n in unmade else arm for n, arm in self._arms.items()}
        requests = Requests(self._plan, self._models, expected) if unmade else self._requests
        live = [name for name in expected if name not in self._failed]
        paid = [name for name in live if expected[name].spec.provider not in FREE]
        self._replies.refuse_cost(requests.foreseeable(paid, self._replies.missing))

    def _make_candidates(self) -> None:
        needed = {item.arm for item in self._plan.items}
        for name, recipe in self._plan.recipes.items():
            if name in needed:
                try:
                    self._candidates[name] = self._candidate(recipe)
                except EvidenceError as problem:
                    self._failed[name] = str(problem)
        self._know_candidates(self._candidates)

    def _know_candidates(self, made: Mapping[str, Candidate]) -> None:
        """Let the arms of these candidates be the models that were made."""
        self._candidates |= made
        self._failed |= self._hosting.failed
        arms = [with_artefact(arm, made[n]) if n in made else arm for n, arm in self._arms.items()]
        self._arms = {arm.name: arm for arm in sharing_one_base(arms)}
        self._requests.know(self._arms)

    def _candidate(self, recipe: Recipe) -> Candidate:
        import trainers

        home = self._plan.home
        if found := trainers.find(recipe, home):
            return found
        if not self._train:
            raise EvidenceError(self._untrained(recipe.name))
        with self._show(f"training {recipe.name}") as update:
            keys = self._plan.settings.key_variables
            return trainers.train(recipe, home, prompting.shown(update), keys)

    def _untrained(self, name: str) -> str:
        offline = ", and --harness-offline trains nothing" if self._offline else ""
        return f"it is not trained yet{offline}; run: harness train {name}"

    def _choose_shots(self) -> None:
        baseline = self._arms[self._plan.baseline.name]
        for suite in self._plan.choices:
            planned = self._requests.choosing(suite)
            self._ask([r for pairs in planned.values() for _, r in pairs], "choosing the shots")
            means = {
                shots: prompting.mean_score((case, self._known[r.key]) for case, r in pairs)
                for shots, pairs in planned.items()
            }
            self._requests.choose(suite, prompting.best(means))
            self._notes.append(prompting.choice_note(suite.name, baseline.name, means))

    def _ask_all(self) -> None:
        """Ask every model that is there, and what of it is not known yet."""
        live = [
            name
            for name, arm in self._arms.items()
            if name not in self._failed
            and not arm.spec.recorded
            and name not in self._hosting.waiting
            and name not in self._complete
        ]
        self._complete.update(live)
        if live:
            self._ask(self._requests.of_items(live), "asking")

    def _ask(self, requests: Iterable[Request], title: str) -> None:
        planned = list(requests)
        self._asked.extend(planned)
        with self._show(title) as update:
            self._known |= self._replies.gather(planned, prompting.counted(update))

    # ------------------------------------------------------------------ findings

    def _prepared(self) -> Prepared:
        usage, arms = self._replies.usage(self._asked), tuple(self._arms.values())
        used = [arm for arm in arms if arm.name in usage]
        asked = sum(one.requests - one.cached for one in usage.values())
        trained = sum(not candidate.cached for candidate in self._candidates.values())
        return Prepared(
            arms=arms,
            usage=usage,
            candidates=tuple(self._candidates.values()),
            failed=self._failed,
            notes=(
                *self._notes,
                *self._hosting.notes,
                *self._store.notes,
                *remarks.thinking_notes(arms, usage),
                *remarks.refusal_notes({arm.name: arm.spec for arm in used}, self._models),
            ),
            alarms=(
                *self._store.alarms,
                *remarks.thinking_alarms(arms, usage),
                *remarks.sampling_alarms(used, self._models),
            ),
            errors=tuple(self._errors()),
            asked=asked + trained,
            spent_usd=self._replies.spent_usd,
        )

    def _errors(self) -> list[str]:
        errors = [f"candidate {name}: {reason}" for name, reason in self._failed.items()]
        lost = [r for r in self._asked if self._known[r.key].error]
        by_model: dict[str, list[Request]] = {}
        for request in lost:
            by_model.setdefault(request.model.name, []).append(request)
        for name, requests in by_model.items():
            first = requests[0]
            errors.append(
                f"{name}: {len(requests)} of its requests have no reply, first {first.label}: "
                f"{self._known[first.key].error}"
            )
        return errors
