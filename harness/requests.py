"""The calls that a plan needs, as far as its models are known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.calls import request_of
from harness.records import Arm, Case, Message, Request
from harness.suites import Suite

if TYPE_CHECKING:
    from harness.models import Models
    from harness.preparation import Plan

Missing = Callable[[Sequence[Request]], Sequence[Request]]
"""Tells which requests the cache does not hold."""


@dataclass
class Requests:
    """Plans the calls of `arms` (by name); `shots` are the chosen numbers, by suite."""

    plan: Plan
    models: Models
    arms: dict[str, Arm]
    shots: dict[str, int] = field(default_factory=dict)
    _of_cases: dict[tuple[str, str, str, int], Request] = field(default_factory=dict)

    def know(self, arms: dict[str, Arm]) -> None:
        """Plan with these arms from now on."""
        if arms != self.arms:
            self.arms = arms
            self._of_cases.clear()

    def choose(self, suite: Suite, shots: int) -> None:
        """Put so many examples before the baseline's prompt in `suite` from now on."""
        self.shots[suite.name] = shots
        self._of_cases.clear()

    def of_case(self, arm: Arm, suite: Suite, case: Case, trial: int) -> Request:
        """Return the call that asks `arm` a case: planned once, looked up by every test."""
        item = (arm.name, suite.name, case.id, trial)
        if item not in self._of_cases:
            self._of_cases[item] = self.free(arm, suite, case.messages, case.id, trial, case)
        return self._of_cases[item]

    def free(
        self,
        arm: Arm,
        suite: Suite,
        messages: Sequence[Message],
        label: str,
        trial: int,
        case: Case | None = None,
    ) -> Request:
        """Return the call that asks `arm` these messages as it is asked the cases of `suite`."""
        spec = arm.spec
        if arm.examples and suite.examples:
            # Until the number of shots is chosen, the one that costs the most.
            shots = self.shots.get(suite.name, max(suite.shots))
            spec = replace(spec, few_shot=suite.few_shot(shots))
        label = f"{suite.name}:{label}"
        return request_of(self.models, spec, messages, arm.first_trial + trial, label, case)

    def choosing(self, suite: Suite) -> dict[int, list[tuple[Case, Request]]]:
        """Return number of shots -> the calls that try it on the validation cases of `suite`."""
        arm = self.arms[self.plan.baseline.name]
        return {
            shots: [(case, self._trying(arm, suite, shots, case)) for case in suite.validation]
            for shots in suite.shots
        }

    def _trying(self, arm: Arm, suite: Suite, shots: int, case: Case) -> Request:
        spec = replace(arm.spec, name=choosing(arm.name), few_shot=suite.few_shot(shots))
        label = f"{suite.name}:{case.id}"
        return request_of(self.models, spec, case.messages, label=label, case=case)

    def of_items(self, names: Collection[str]) -> list[Request]:
        """Return the calls that the selected items need of the models `names`."""
        return [
            self.of_case(self.arms[name], suite, case, trial)
            for name in names
            for suite, case, trial in self.plan.asked(name)
        ]

    def foreseeable(self, names: Collection[str], missing: Missing) -> list[Request]:
        """Return the calls to the models `names` before anything is trained or chosen: at most.

        The cases of a suite whose choice of shots the cache settles are left out.
        """
        baseline, found, settled = self.plan.baseline.name, list[Request](), set()
        for suite in self.plan.choices if baseline in names else ():
            tried = [request for pairs in self.choosing(suite).values() for _, request in pairs]
            found += tried
            if not missing(tried):
                settled.add(suite.name)
        return found + [
            self.of_case(self.arms[name], suite, case, trial)
            for name in names
            for suite, case, trial in self.plan.asked(name)
            if name != baseline or suite.name not in settled
        ]


def choosing(model: str) -> str:
    """The name under which the requests of a model are counted that choose its shots."""
    return f"{model} (choosing shots)"
