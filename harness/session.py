"""The one stateful object of a run: collect, plan, prepare, score, decide, report."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from harness import outcome, progress, text, wording
from harness.arms import PlannedArm, candidate_named, planned_arms, with_itself
from harness.asserting import comes_from, is_assertion
from harness.config import PYPROJECT, Settings, load, project_at_or_above, project_root
from harness.data.jsonl import shown_path
from harness.evaluation import CaseItem, Evaluation, ItemResult, Talker, result_of
from harness.evidence import assertion_metric
from harness.models.secrecy import public_options
from harness.preparation import Plan, Preparation, Prepared, waiting_its_turn
from harness.records import (
    Decision,
    EvidenceError,
    HarnessError,
    Message,
    Reply,
    Run,
    Score,
    Verdict,
)
from harness.scoring import Scorer, first_line
from harness.skips import settle_skips
from harness.suites import Suite, load_suite
from harness.verdicts import Judgement, judge

if TYPE_CHECKING:
    from harness.judging import Judged
    from harness.replies import Limits, Replies
    from harness.store import Store

EVALUATION: pytest.StashKey[Evaluation] = pytest.StashKey()
BROKEN = "nothing was asked, because some files could not be collected; correct them and run again"


@dataclass
class Collected:
    """How much of the suites a run covers; `broken`: some files could not be collected."""

    items: int = 0
    deselected: int = 0
    broken: bool = False


@dataclass
class Session:
    """A run of eval suites inside a pytest session.

    Under xdist there is one in every worker (which collects, prepares and scores) and one on the
    controller (which decides and reports).
    """

    config: pytest.Config
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    suites: dict[Path, Suite] = field(default_factory=dict)
    markers: dict[Path, pytest.Mark] = field(default_factory=dict)
    covered: Collected = field(default_factory=Collected)
    results: list[ItemResult] = field(default_factory=list)
    prepared: Prepared | None = None
    run: Run | None = None
    page: str | None = None
    mistakes: list[str] = field(default_factory=list)
    _root: Path | None = None
    _settings: Settings | None = None
    _arms: tuple[PlannedArm, ...] = ()
    _preparation: Preparation | None = None
    _store_notes: list[str] = field(default_factory=list)
    _store_alarms: list[str] = field(default_factory=list)
    _judged: Judged | None = None
    _schemas: dict[str, Any] = field(default_factory=dict)
    _before: dict[tuple[str, str, str, int], dict[str, Score]] = field(default_factory=dict)

    # ------------------------------------------------------------------ collect

    @property
    def root(self) -> Path:
        """The project's root, which all paths are relative to: where the suites' settings are."""
        return self._root or self.config.rootpath

    def _settle_root(self, suite: Path) -> None:
        """Let the project of the first suite be the project of the run.

        Raises:
            HarnessError: `suite` belongs to no project, or to another one.

        """
        root = project_root(suite.parent, shown_path(suite, self.root))
        if self._root is None:
            self._root = root
        if root != self._root:
            first = next(iter(self.suites), self._root)
            raise HarnessError(
                f"one run is of one project, and {first} belongs to {self._root / PYPROJECT}, "
                f"{suite} to {root / PYPROJECT}; run pytest once for each"
            )

    @property
    def settings(self) -> Settings:
        """`[tool.harness]`, read once."""
        if self._settings is None:
            self._settings = load(self.root)
            if self.config.option.harness_aa:
                self._settings = self._settings.model_copy(update={"candidates": {}, "gates": {}})
        return self._settings

    @property
    def trials(self) -> int:
        """How often every case is asked under every model."""
        return int(self.config.option.harness_trials)

    @property
    def arms(self) -> tuple[PlannedArm, ...]:
        """The baseline, then the candidates."""
        if not self._arms:
            from harness import history

            named = self.config.option.harness_baseline
            earlier = history.baseline(named, self.settings, self.root)
            self._arms = planned_arms(self.settings, self.root, earlier)
            if name := self.config.option.harness_confirm:
                self._arms = (self._arms[0], candidate_named(self._arms, name))
            if self.config.option.harness_aa:
                self._arms = with_itself(self._arms[0], self.trials)
        return self._arms

    def parametrize(self, metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
        """Make one item per case and model of a test that uses a fixture of ours.

        Raises:
            UsageError: the settings, the marker or a file of cases is wrong.

        """
        if "harness_item" not in metafunc.fixturenames:
            return
        with _as_usage_error(EvidenceError):
            suite = self._suite(metafunc, marker)
            arms = [planned.arm for planned in self.arms]
        items = [
            CaseItem(suite, case, arm.name, trial)
            for case in suite.cases
            for arm in arms
            for trial in range(self.trials)
        ]
        ids = [self._item_id(item) for item in items]
        metafunc.parametrize("harness_item", items, ids=ids, indirect=True)

    def _item_id(self, item: CaseItem) -> str:
        trial = f"-{item.trial + 1}" if self.trials > 1 else ""
        return f"{item.case.slug}-{item.arm}{trial}"

    def _suite(self, metafunc: pytest.Metafunc, marker: pytest.Mark) -> Suite:
        path = metafunc.definition.path
        if path not in self.suites:
            self._settle_root(path)
            where = f"{shown_path(path, self.root)}::{metafunc.definition.name}"
            suite = load_suite(path, where, marker, self.root)
            for other in self.suites.values():
                if other.name == suite.name:
                    raise HarnessError(f"{where}: {other.path} is the suite {suite.name} already")
            if self.config.option.harness_confirm and suite.confirm:
                suite = replace(suite, cases=suite.confirm)
            self.suites[path], self.markers[path] = suite, marker
        if self.markers[path] != marker:
            raise HarnessError(
                f"{shown_path(path, self.root)}: it has two different pytest.mark.cases; "
                "a file is one suite of one set of cases: move the tests of the other to a file"
            )
        return self.suites[path]

    def selected(self, items: Sequence[pytest.Item]) -> list[CaseItem]:
        """Return the case items among `items`."""
        return [found for item in items if (found := case_item(item))]

    def leave_out(self, items: Sequence[pytest.Item]) -> None:
        """Remember that `items` were deselected."""
        self.covered.deselected += len(self.selected(items))

    # ------------------------------------------------------------------ plan and prepare

    def plan(self, items: Sequence[pytest.Item]) -> Plan:
        """Return what the selected items need."""
        return Plan(self.settings, self.root, self.arms, tuple(self.selected(items)))

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Find the mistakes that can be found before anything is trained or asked.

        Raises:
            UsageError: a recipe, a judge or a schema is wrong, or training data holds a case of a
                suite.

        """
        with _as_usage_error():
            self.plan(items).refuse_leaks()
            self._refuse_bad_judges()
            self._refuse_bad_schemas(items)
            confirmed = any(suite.confirm for suite in self.suites.values())
            if self.config.option.harness_confirm and not confirmed:
                raise HarnessError(
                    "--harness-confirm: no suite has held-out cases; name them in the suite's "
                    'pytest.mark.cases("FILE.jsonl", confirm="HELD-OUT.jsonl")'
                )

    def _refuse_bad_judges(self) -> None:
        from harness.judges import panel
        from harness.models import Models

        models = Models()
        for spec in panel(self.settings, self.root).values():
            models.identity(spec)
        models.close()

    def _refuse_bad_schemas(self, items: Sequence[pytest.Item]) -> None:
        """Read the schemas that tests name, so that no reply is paid for a mistake in one."""
        from harness.checks.schemas import known_schema
        from harness.foresight import schemas_of

        for function, parameters in _tests(items):
            for schema in schemas_of(function, parameters):
                known_schema(schema, self.root, self._schemas)

    def arrange(self, items: list[pytest.Item]) -> None:
        """Put the items in order.

        The baseline's of a module or class run first: statuses compare with them. A confirmation
        leaves out what has no held-out cases.
        """
        if self.config.option.harness_confirm:
            items[:] = [
                item for item in items if not (found := case_item(item)) or found.suite.confirm
            ]
        baseline = self.arms[0].arm.name if self.suites else ""

        def later(item: pytest.Item) -> bool:
            found = case_item(item)
            return found is not None and found.arm != baseline

        groups = groupby(items, key=lambda item: item.parent)
        items[:] = [item for _, group in groups for item in sorted(group, key=later)]

    def print_plan(self, items: Sequence[pytest.Item]) -> None:
        """Write what a run would train, ask and see."""
        from harness.planned import lines

        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        with _as_usage_error():
            for told in lines(self.plan(items), self._foreseen(items)):
                if reporter:
                    reporter.write_line(text.line(told))

    def _foreseen(self, items: Sequence[pytest.Item]) -> list[tuple[CaseItem, list[str]]]:
        """Return the items with the judge checks that their functions hold."""
        from harness.planned import judge_checks

        return [
            (found, judge_checks(item.function))  # type: ignore[attr-defined]
            for item in items
            if (found := case_item(item))
        ]

    def prepare(self, items: Sequence[pytest.Item], *, broken: bool) -> None:
        """Train what is missing and ask what is not known, once for all processes of the run.

        If some files could not be collected (`broken`), nothing is trained or asked, unless pytest
        is told to continue.
        """
        self.covered.items = len(self.selected(items))
        self.covered.broken = broken
        if broken and not self.config.option.continue_on_collection_errors:
            self.prepared = Prepared(errors=(BROKEN,))
            return
        option = self.config.option
        allow = not (option.harness_no_train or option.harness_offline)
        try:
            with _as_usage_error():
                self._preparation = Preparation(
                    self.plan(items),
                    progress.task,
                    train=allow,
                    limits=self._limits,
                    run=self._shared,
                )
                self.prepared = self._preparation.prepare()
        except EvidenceError as problem:
            self.prepared = Prepared(errors=(str(problem),))

    @property
    def _limits(self) -> Limits:
        from harness.replies import Limits

        option = self.config.option
        return Limits(option.harness_offline, option.harness_max_cost, option.harness_yes)

    @property
    def _shared(self) -> str:
        """The name that the workers of a run have in common; "" for a single process."""
        return str(getattr(self.config, "workerinput", {}).get("testrunuid", ""))

    # ------------------------------------------------------------------ score

    def evaluation(self, item: pytest.Item, found: CaseItem) -> Evaluation:
        """Return the evaluation of `item`, with its reply; skips an item that has none.

        A test that is run again is evaluated anew.
        """
        reply = self._reply(found)
        item.stash[EVALUATION] = _evaluation(item, found, reply)
        if reply.error:
            _lose(item.stash[EVALUATION], reply)
        return item.stash[EVALUATION]

    def _reply(self, found: CaseItem) -> Reply:
        if self._preparation is None or self.prepared is None or not self.prepared.arms:
            return Reply(error="the run could not be prepared")
        return self._preparation.reply(found)

    def scorer(self, evaluation: Evaluation) -> Scorer:
        """Return the `score` fixture of an item."""
        case = evaluation.item.case
        return Scorer(
            case.suite,
            case,
            evaluation.reply,
            self.root,
            evaluation.scores.append,
            schemas=self._schemas,
            test=evaluation.test,
            ask=evaluation.questions.append,
        )

    def talker(self, evaluation: Evaluation) -> Talker:
        """Return the `model` fixture of an item."""
        assert self._preparation is not None
        preparation, found = self._preparation, evaluation.item

        def ask(messages: Sequence[Message]) -> Reply:
            evaluation.talked = True
            reply = preparation.ask(found, messages)
            if reply.error:
                _lose(evaluation, reply)
            return reply

        return Talker(found.arm, ask)

    def account_for(self, item: pytest.Item, call: pytest.CallInfo[Any], inside: str) -> bool:
        """Let an assertion that failed in a fixture or a subtest be a score, as in the function.

        `inside` is the phase of the item that a subtest is a part of; "" for the phase itself.
        Return whether something else was raised.
        """
        evaluation, raised = item.stash.get(EVALUATION, None), call.excinfo
        if evaluation is None or raised is None or isinstance(raised.value, pytest.skip.Exception):
            return raised is not None
        used, when = evaluation.uses_of_the_model, inside or call.when
        if inside == "call" or (when != "call" and comes_from(item, raised.value, used)):
            evaluation.decided |= call.when == "setup"
            evaluation.revised |= when == "teardown"
            if evaluation.account_for(raised.value, assertion=is_assertion(raised.value)):
                call.excinfo = None
                return False
            evaluation.broken = first_line(f"{type(raised.value).__name__}: {raised.value}")
        return True

    def attach(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        call: pytest.CallInfo[Any],
        inside: str,
        raised: bool,
    ) -> None:
        """Put the result of `item` on its report, once its function ended or never will.

        And once more where the end of a fixture changed it. `inside` is as `account_for` has it,
        `raised` what it says.
        """
        evaluation = item.stash.get(EVALUATION, None)
        if evaluation and not raised:
            _settle(evaluation, item, report, call)
        if inside or not _is_final(report, evaluation):
            return
        if evaluation is None and (found := case_item(item)):
            evaluation = _evaluation(item, found, Reply(error="its test could not begin"))
        if evaluation is None:
            return
        skipped = _why_left_out(report, call, evaluation)
        error = evaluation.broken or ("" if report.passed or skipped else _reason(report))
        result = result_of(evaluation, error, skipped)
        report.harness = self._sent(result) if self._shared else result  # type: ignore[attr-defined]

    def _sent(self, result: ItemResult) -> str:
        """Return `result` for the controller, which has collected nothing and knows no project."""
        return json.dumps([str(self.root), result.to_json()])

    def _received(self, sent: str) -> ItemResult:
        root, result = json.loads(sent)
        self._root = self._root or Path(root)
        return ItemResult.from_json(result)

    # ------------------------------------------------------------------ decide and report

    def record(self, report: pytest.TestReport, found: ItemResult | str) -> None:
        """Take over the result of an item (a worker's is JSON), and give its report its status."""
        result = self._received(found) if isinstance(found, str) else found
        if report.when == "teardown":
            self._withdraw(result)
        self.results.append(result)
        baseline = self.arms[0].arm.name
        key = (result.suite, result.id, result.test, result.trial)
        scores = {score.metric: score for score in result.scores}
        if result.asserted is not None:
            metric = assertion_metric(result)
            scores[metric] = Score(metric, float(result.holds), result.holds)
        if result.arm == baseline:
            self._before[key] = scores
            return
        if not report.passed:
            return
        before = self._before.get(key, {})
        report.harness_status = outcome.overall(  # type: ignore[attr-defined]
            outcome.status_of(before[metric], score)
            for metric, score in scores.items()
            if metric in before
        )

    def _withdraw(self, revised: ItemResult) -> None:
        """Forget the last result of an item, which the end of a fixture changed."""
        for place in reversed(range(len(self.results))):
            if self.results[place].of == revised.of:
                del self.results[place]
                return

    def merge(self, findings: str) -> None:
        """Take over what a worker found out: its preparation and how much it covered."""
        values = json.loads(findings)
        prepared = Prepared.from_json(values["prepared"]) if values["prepared"] else None
        if prepared and (self.prepared is None or prepared.asked > self.prepared.asked):
            self.prepared = prepared
        if values["covered"]:
            self.covered = Collected(**values["covered"])

    def findings(self) -> str:
        """Return what a worker tells the controller, as JSON."""
        prepared = self.prepared.to_json() if self.prepared else None
        return json.dumps({"prepared": prepared, "covered": asdict(self.covered)})

    def finish(self, exit_status: int, *, stopped: bool) -> int:
        """Decide, write the report and report every gate; return the run's exit status.

        `stopped`: not every item ran.
        """
        if exit_status not in (0, 1) or self.prepared is None or not self.results:
            return exit_status
        partial = (
            stopped or self.covered.broken or self.covered.deselected or _narrowed(self.config)
        )
        settled = settle_skips(self.results)
        self.results[:] = settled.results
        self._ask_judges(self.prepared)
        judged = judge(
            self.settings,
            self.arms,
            self.results,
            skipped=settled.notes,
            complete=not partial,
            all_suites=not self.config.option.harness_confirm,
            read=self._read_by_people,
        )
        if judged.mistakes:
            self.mistakes.extend(judged.mistakes)
            return int(pytest.ExitCode.USAGE_ERROR)
        made = self._reported(self._run(judged, self.prepared, exit_status))
        self.run = self._stored(made)
        if self.run is not made:
            self.run = self._reported(self.run)
        for name, verdict in gate_names(self.run.verdicts):
            report_gate(self.config, name, verdict)
        return self.run.exit_status

    def _ask_judges(self, prepared: Prepared) -> None:
        """Ask the judges what the items want to know, and take over their scores."""
        asking = any(result.questions for result in self.results)
        if not asking or any(result.mistake for result in self.results):
            return
        from harness.calibration import doubts
        from harness.judges import Judges, panel
        from harness.judging import Judged, Wave
        from harness.remarks import refusal_notes

        self.close()  # the models have answered: their memory is free for a judge
        try:
            with self._store() as store, closing(self._replies(store, prepared)) as replies:
                judges = Judges(panel(self.settings, self.root), replies)
                trusted = doubts(store, judges)
                wave = Wave(self.results, self.arms, judges, self.settings.rules, trusted)
                with waiting_its_turn(self.root / self.settings.store):
                    found = wave.run()
                usage = replies.usage(judges.requests)
                asked = {request.model.name: request.model for request in judges.requests}
                told = refusal_notes(asked, replies.models)
            found = replace(found, notes=(*found.notes, *told))
        except (HarnessError, EvidenceError) as problem:
            found, usage = Judged(tuple(self.results), errors=(str(problem),)), {}
        self.results[:] = found.results
        self.prepared = replace(prepared, usage={**prepared.usage, **usage})
        self._judged = found

    def _replies(self, store: Store, prepared: Prepared) -> Replies:
        from harness.replies import Replies

        prices = self.settings.price_table
        return Replies(store, None, prices, self._limits, spent_usd=prepared.spent_usd)

    def close(self) -> None:
        """Let go of what was opened to ask."""
        if self._preparation:
            self._preparation.close()

    def summary(self, width: int) -> list[str]:
        """Return the lines for the end of the run, for a terminal of `width` columns."""
        from harness.report import terminal

        lines = [f"ERROR: {text.line(mistake)}" for mistake in self.mistakes]
        if self.run is None:
            return lines
        return [*lines, *terminal.lines(self.run, width, self.page)]

    def _run(self, judged: Judgement, prepared: Prepared, exit_status: int) -> Run:
        from harness.judging import Judged
        from harness.replies import alarm

        found = self._judged or Judged(())
        errors = (*prepared.errors, *judged.errors, *found.errors)
        decision = Decision.UNDECIDABLE if errors else judged.decision
        return Run(
            run_id=f"{self.started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            started=self.started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            decision=decision,
            exit_status=status_after(exit_status, decision),
            arms=prepared.arms,
            comparisons=judged.comparisons,
            verdicts=judged.verdicts,
            usage=prepared.usage,
            training=prepared.candidates,
            cases=judged.cases,
            labels=judged.labels,
            slices=judged.slices,
            ranking=judged.ranking,
            notes=(*prepared.notes, *judged.notes, *found.notes, *self._about_mode(judged)),
            alarms=(
                *filter(None, (alarm(*one) for one in prepared.usage.items())),
                *prepared.alarms,
                *found.alarms,
            ),
            judges=found.figures,
            errors=errors,
            environment=self._environment(),
        )

    def _read_by_people(self) -> dict[str, bool]:
        """Return which replies people would ship, where a gate asks for it."""
        from harness import votes

        if not any(rule.max_would_not_ship is not None for rule in self.settings.rules):
            return {}
        with self._store() as store:
            return votes.ships(store.votes())

    def _about_mode(self, judged: Judgement) -> list[str]:
        """What an A/A run found out about the suites, or what a confirmation covers."""
        if self.config.option.harness_aa:
            return [wording.flips(compared) for compared in judged.comparisons if compared.n]
        if name := self.config.option.harness_confirm:
            suites = ", ".join(sorted({result.suite for result in self.results}))
            return [f"confirmation of {name} on the held-out cases of {suites}"]
        return []

    def _stored(self, run: Run) -> Run:
        """Put `run` into the store; it is undecidable where the store cannot take it."""
        from harness import history
        from harness.report.results import as_results

        try:
            with self._store() as store:
                store.add_run(
                    as_results(run),
                    [history.without_secrets(arm) for arm in run.arms],
                    history.replies_of(self.results),
                    history.asked_by(self.results),
                )
        except (HarnessError, EvidenceError) as problem:
            return replace(
                run,
                decision=Decision.UNDECIDABLE,
                exit_status=status_after(run.exit_status, Decision.UNDECIDABLE),
                errors=tuple(dict.fromkeys((*run.errors, str(problem)))),
            )
        if not (self._store_notes or self._store_alarms):
            return run
        notes, alarms = (*run.notes, *self._store_notes), (*run.alarms, *self._store_alarms)
        return replace(run, notes=notes, alarms=alarms)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """Open the store; what it has to say is for the report."""
        from harness.store import Store

        with closing(Store(self.root / self.settings.store / "store.sqlite")) as store:
            try:
                yield store
            finally:
                self._store_notes += store.notes
                self._store_alarms += store.alarms

    def _reported(self, run: Run) -> Run:
        """Write the report of `run`; where that fails the verdict stands, and the status is 6."""
        from harness import report

        reports = self.root / self.settings.reports
        try:
            folder = report.write(run, reports)
        except OSError as problem:
            sentence = (
                f"{shown_path(reports, self.root)}: the report cannot be written: "
                f"{problem.strerror or problem}; the verdict stands; make room there, or choose "
                "another folder with tool.harness.reports"
            )
            if sentence not in self.mistakes:
                self.mistakes.append(sentence)
            status = status_after(run.exit_status, Decision.UNDECIDABLE)
            return replace(run, exit_status=status)
        self.page = shown_path(folder / "index.html", self.root)
        return run

    def _environment(self) -> dict[str, Any]:
        return {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "packages": _versions("pytest", "pytest-finetune", "torch", "transformers", "peft"),
            "settings": _without_secrets(self.settings.model_dump(mode="json", exclude_none=True)),
            "seeds": {planned.arm.name: planned.arm.spec.sampling.seed for planned in self.arms},
        }


def evaluation_of(item: pytest.Item) -> Evaluation | None:
    """Return the evaluation of an item whose reply was looked up."""
    return item.stash.get(EVALUATION, None)


def _lose(evaluation: Evaluation, reply: Reply) -> NoReturn:
    """End the test of an item whose model did not reply."""
    evaluation.lost = text.line(f"no reply: {reply.error}")
    pytest.skip(evaluation.lost)


def _settle(
    evaluation: Evaluation, item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[Any]
) -> None:
    """Let what a plugin made of a test that raised nothing be a score, as an assertion is.

    That are assertions that raise nothing where they stand (pytest-check), and marks of xfail.
    """
    expected = item.get_closest_marker("xfail") is not None and evaluation.asserted is not None
    if report.failed and call.excinfo and is_assertion(call.excinfo.value):
        evaluation.fail(first_line(str(call.excinfo.value)))
        call.excinfo = None
    elif not (expected and (report.failed or hasattr(report, "wasxfail"))):
        return
    report.outcome, report.longrepr = "passed", None
    vars(report).pop("wasxfail", None)


def _is_final(report: pytest.TestReport, evaluation: Evaluation | None) -> bool:
    """Whether nothing is to come that decides about an item, or something came that was not."""
    if report.when == "teardown":
        return evaluation is not None and evaluation.revised
    return report.when == "call" or not report.passed


def _why_left_out(
    report: pytest.TestReport, call: pytest.CallInfo[Any], evaluation: Evaluation
) -> str:
    """Return why the author of a test decided that it does not apply to the case; "" if not so."""
    if evaluation.lost or evaluation.mistake or not report.skipped or call.excinfo is None:
        return ""
    if not isinstance(call.excinfo.value, pytest.skip.Exception | pytest.xfail.Exception):
        return ""
    return first_line(str(call.excinfo.value)) or "skipped"


def _evaluation(item: pytest.Item, found: CaseItem, reply: Reply) -> Evaluation:
    return Evaluation(
        item=found,
        test=getattr(item, "originalname", item.name),
        reply=reply,
        guard=item.get_closest_marker("guard") is not None,
        plain="score" not in item.fixturenames,  # type: ignore[attr-defined]
    )


def case_item(item: pytest.Item) -> CaseItem | None:
    """Return the case item behind a pytest item, if it is one."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("harness_item") if callspec else None


def _tests(items: Sequence[pytest.Item]) -> list[tuple[Any, dict[str, object]]]:
    """Return the functions of case items, each once with each set of its own parameters."""
    found: dict[tuple[object, ...], tuple[Any, dict[str, object]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and case_item(item):
            own = {n: v for n, v in item.callspec.params.items() if n != "harness_item"}
            key = (item.parent, item.originalname, *map(id, own.values()))
            found.setdefault(key, (item.function, own))
    return list(found.values())


def status_after(exit_status: int, decision: Decision) -> int:
    """Return the exit status of a run: 6 over 1 over 0, and never lower than 2 to 5."""
    if exit_status in (2, 3, 4):
        return exit_status
    if decision is Decision.UNDECIDABLE:
        return 6
    return 1 if exit_status == 1 or decision is Decision.FAIL else 0


def gate_names(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, Verdict]]:
    """Yield each verdict with the name of its test; the rule is part of it where there are more."""
    of = [(verdict.comparison.title, verdict.comparison.candidate) for verdict in verdicts]
    for (title, candidate), verdict in zip(of, verdicts, strict=True):
        rule = f" {verdict.rule}" if of.count((title, candidate)) > 1 else ""
        yield f"{title}[{candidate}{rule}]", verdict


def report_gate(config: pytest.Config, name: str, verdict: Verdict) -> None:
    """Make a gate a test of its own: in the terminal, in JUnit files, in every other report.

    An undecidable gate is an error (of the setup), a failed one a failure (of the call).
    """
    bad = {Decision.UNDECIDABLE: "setup", Decision.FAIL: "call"}.get(verdict.decision)
    for when in ("setup", "call", "teardown"):
        if bad == "setup" and when == "call":
            continue
        report = pytest.TestReport(
            nodeid=f"gates::{text.line(name)}",
            location=("gates", None, text.line(name)),
            keywords={},
            outcome="failed" if when == bad else "passed",
            longrepr=text.line(verdict.reason) if when == bad else None,
            when=when,
        )
        _tell(config, report)


def _tell(config: pytest.Config, report: pytest.TestReport) -> None:
    """Give the report of a gate to all plugins but those that would take it for a test to run.

    `--lf` and `--stepwise` could never run it again, and the terminal counts it without a letter:
    the progress is at 100 % already.
    """
    plugins = {
        name: plugin
        for name in ("lfplugin", "stepwiseplugin", "terminalreporter")
        if (plugin := config.pluginmanager.get_plugin(name))
    }
    others = config.pluginmanager.subset_hook_caller("pytest_runtest_logreport", plugins.values())
    others(report=report)
    if terminal := plugins.get("terminalreporter"):
        category, _, _ = config.hook.pytest_report_teststatus(report=report, config=config)
        terminal._add_stats(category, [report])


def named_in_full(config: pytest.Config) -> str:
    """Return what `--harness-baseline` names, in full; see `harness.history.full_name`.

    Raises:
        UsageError: there is no such run or model, or no project to look for it in.

    """
    from harness import history

    with _as_usage_error(EvidenceError):
        root = _root_of_arguments(config)
        return history.full_name(config.option.harness_baseline, root / load(root).store)


def _root_of_arguments(config: pytest.Config) -> Path:
    """Return the project of what pytest was told to collect, before it is collected."""
    here = config.invocation_params.dir
    named = [Path(os.path.abspath(here / name.partition("::")[0])) for name in config.args]
    folders = [path if path.is_dir() else path.parent for path in named]
    found = (project_at_or_above(folder) for folder in [*folders, here])
    return next(filter(None, found), None) or project_root(here, "--harness-baseline")


@contextmanager
def _as_usage_error(*also: type[Exception]) -> Iterator[None]:
    mistakes: tuple[type[Exception], ...] = (HarnessError, *also)
    try:
        yield
    except mistakes as problem:
        raise pytest.UsageError(text.line(str(problem))) from None


def _narrowed(config: pytest.Config) -> bool:
    """Whether the command line names a part of the suites."""
    if config.getoption("lf", False) and config.cache and config.cache.get("cache/lastfailed", {}):
        return True
    named = config.args if config.args_source is config.ArgsSource.ARGS else []
    here = config.invocation_params.dir
    return any("::" in name or (here / name).is_file() for name in named)


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return first_line(report.longrepr[2].removeprefix("Skipped: ")) or "skipped"
    crash = getattr(report.longrepr, "reprcrash", None)
    return first_line(crash.message if crash else str(report.longrepr)) or "it failed"


def _without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Hide what may hold keys: the values of HTTP headers, accounts in URLs."""
    tables = {
        key: {name: public_options(model) for name, model in settings[key].items()}
        for key in ("models", "judges")
    }
    return {**settings, **tables}


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
