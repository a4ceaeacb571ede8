"""Judges: models that are asked about replies, through the cache and inside the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import progress
from harness.arms import model_spec
from harness.checks import judge as checks
from harness.checks.judge import Material, Opinion
from harness.config import Settings
from harness.prompting import counted
from harness.records import (
    EvidenceError,
    HarnessError,
    ModelSpec,
    Question,
    Reply,
    Request,
)
from harness.scoring import first_line

if TYPE_CHECKING:
    from harness.preparation import Show
    from harness.replies import Replies

NONE_CONFIGURED = (
    "no judge is configured; one setting in pyproject.toml is enough: "
    'tool.harness.judges.NAME = { model = "openai:MODEL" }, with base_url = "http://..." for an '
    "endpoint of your own"
)

Panel = Mapping[str, ModelSpec]
"""name -> the model that judges under it"""


def panel(settings: Settings, root: Path) -> dict[str, ModelSpec]:
    """Return the configured judges, each with the instructions that all of them get.

    Raises:
        HarnessError: the table of one is wrong; with its key.

    """
    tables = settings.model_copy(update={"models": settings.judges})
    return {name: _judge(name, tables, root) for name in settings.judges}


def _judge(name: str, tables: Settings, root: Path) -> ModelSpec:
    spec = model_spec(name, model_name(name), tables, root, f"tool.harness.judges.{name}")
    more = "" if spec.system is None else f"\n\n{spec.system}"
    return replace(spec, system=checks.INSTRUCTIONS + more)


def model_name(judge: str) -> str:
    """Return the name under which a judge's calls are counted: no candidate can have it."""
    return f"judge {judge}"


class Errand(NamedTuple):
    """One text that is put before a judge; `label` names its case.

    What is asked again with another `trial` is a new question to the cache.
    """

    question: Question
    material: Material
    trial: int = 0
    label: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What tells errands apart: the mark of the call, and the trial."""
        return checks.mark(self.question, self.material), self.trial


class Judges:
    """Asks the judges of a panel: each text once, and once more where the answer is no verdict.

    `absent` maps a judge that cannot be asked at all to the reason, `lost` lists (judge, label,
    error) of the calls without a reply, `requests` all that were asked.
    """

    def __init__(self, panel: Panel, replies: Replies, show: Show = progress.task) -> None:
        """Ask `panel` through `replies`, and `show` the work."""
        self.panel = panel
        self.absent: dict[str, str] = {}
        self.lost: list[tuple[str, str, str]] = []
        self.requests: list[Request] = []
        self._replies = replies
        self._show = show
        self._known: dict[str, dict[tuple[str, int], Opinion | str]] = {}

    def ask(self, judge: str, errands: Iterable[Errand]) -> None:
        """Ask `judge` all `errands`, concurrently."""
        known = self._known.setdefault(judge, {})
        waiting = {errand.key: errand for errand in errands}
        for reminder in ("", checks.REMINDER):
            if not waiting:
                return
            try:
                replies = self._asked(judge, waiting, reminder)
            except (HarnessError, EvidenceError) as problem:
                self.absent[judge] = str(problem)
                return
            known |= {key: _read(waiting[key], reply) for key, reply in replies.items()}
            lost = {key: reply.error for key, reply in replies.items() if reply.error}
            self.lost += [(judge, waiting[key].label, error) for key, error in lost.items()]
            waiting = {
                key: errand
                for key, errand in waiting.items()
                if key not in lost and isinstance(known[key], str)
            }

    def opinion(self, judge: str, errand: Errand) -> Opinion | str:
        """Return what `judge` said; or why that is nothing."""
        return self._known[judge][errand.key]

    def twice(self, judge: str) -> list[tuple[Opinion, Opinion]]:
        """Return what `judge` said of the texts that it was asked twice."""
        known = self._known.get(judge, {})
        pairs = [(one, known.get((mark, 1))) for (mark, trial), one in known.items() if not trial]
        return [
            (one, again)
            for one, again in pairs
            if isinstance(one, Opinion) and isinstance(again, Opinion)
        ]

    def identity(self, judge: str) -> list[object]:
        """Return what decides the answers of `judge`, as JSON values."""
        spec = self.panel[judge]
        known = dict(self._replies.identity(spec))
        return [spec.spec, known, spec.system, spec.sampling.max_tokens, spec.sampling.seed]

    def _asked(
        self, judge: str, waiting: Mapping[tuple[str, int], Errand], reminder: str
    ) -> dict[tuple[str, int], Reply]:
        requests = {key: self._request(judge, one, reminder) for key, one in waiting.items()}
        with self._show(f"asking {model_name(judge)}") as update:
            found = self._replies.gather(requests.values(), counted(update))
        self.requests += requests.values()
        return {key: found[request.key] for key, request in requests.items()}

    def _request(self, judge: str, errand: Errand, reminder: str) -> Request:
        text = checks.prompt(errand.question, errand.material) + reminder
        messages = [{"role": "user", "content": text}]
        return self._replies.plan(self.panel[judge], messages, errand.trial, errand.label)


def _read(errand: Errand, reply: Reply) -> Opinion | str:
    if reply.error:
        return f"no reply: {first_line(reply.error)}"
    try:
        return checks.opinion(errand.question, errand.key[0], reply.text)
    except ValueError as problem:
        return f"no verdict, also when asked again: {_WHY.get(reply.shortfall, problem)}"


_WHY = {
    "refused": "it refused",
    "empty": "its answer is empty",
    "truncated": "its answer was cut at max_tokens; raise that of its table",
}
