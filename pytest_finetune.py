"""pytest's entry point: options, markers, fixtures and hooks of a few lines each.

It is a module of its own, outside the packages, so that loading it imports nothing: neither
`harness` nor `trainers` is imported until a test marked with `cases` is collected.
"""

from __future__ import annotations

import argparse
import gc
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from harness.evaluation import Evaluation, Talker
    from harness.records import Case, Reply
    from harness.scoring import Scorer
    from harness.session import Session

SESSION: pytest.StashKey[Session] = pytest.StashKey()
MISTAKES: pytest.StashKey[list[str]] = pytest.StashKey()
PHASE: pytest.StashKey[str] = pytest.StashKey()
UNMARKED = (
    "case, model, reply and score belong to tests in a module marked with "
    'pytest.mark.cases("FILE.jsonl")'
)


# ---------------------------------------------------------------------- options, markers, fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of an eval run."""
    group = parser.getgroup("harness", "fine-tuning and evaluation of language models")
    group.addoption(
        "--harness-plan",
        action="store_true",
        help="print what the run would train and ask and what drop it could see, then stop",
    )
    group.addoption(
        "--harness-trials",
        type=_at_least_one,
        default=1,
        metavar="K",
        help="ask every case K times under every model; a case's scores are averaged",
    )
    group.addoption(
        "--harness-aa",
        action="store_true",
        help="compare the baseline with itself, sampled afresh: what this suite takes for a change",
    )
    group.addoption(
        "--harness-confirm",
        metavar="CANDIDATE",
        help="decide on this candidate alone, on the held-out cases of the suites (confirm=)",
    )
    group.addoption(
        "--harness-no-train",
        action="store_true",
        help="never train: a missing candidate makes the run undecidable (exit status 6)",
    )
    group.addoption(
        "--harness-offline",
        action="store_true",
        help="train and ask nothing: every reply comes from the cache, or the run is undecidable",
    )
    group.addoption(
        "--harness-max-cost",
        type=_dollars,
        metavar="USD",
        help="refuse a run that can cost more, and stop one that does (needs the models' prices)",
    )
    group.addoption(
        "--harness-yes",
        action="store_true",
        help="train at paid services without a --harness-max-cost, and ask paid models again "
        "what a damaged store lost",
    )
    group.addoption(
        "--harness-baseline",
        metavar="RUN[:MODEL]",
        help="compare with a model of an earlier run (its id, the beginning of it, or latest), as "
        "it replied then; or with the champion, the last candidate of `harness promote`",
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _dollars(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of US dollars from 0 on")
    return amount


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and outside of xdist's workers the collector of results."""
    config.addinivalue_line(
        "markers",
        "cases(path, few_shot=None, shots=None, validation=None, confirm=None): run each test of "
        "the module once per case of a JSONL file and model; few_shot examples stand before the "
        "baseline's prompt, `shots` of them (a number, or several to choose from on the validation "
        "cases); --harness-confirm takes the cases of confirm instead",
    )
    config.addinivalue_line(
        "markers", "guard: what must not get worse; by default not in a single case"
    )
    config.stash[MISTAKES] = []
    if config.option.harness_aa and config.option.harness_confirm:
        raise pytest.UsageError(
            "--harness-aa has no candidate to confirm: leave out one of the two"
        )
    if config.option.harness_plan and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--harness-plan needs no workers: leave out -n")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(config), "finetune-results")
        if config.option.harness_baseline:
            with _noting_mistakes(config):
                _name_the_baseline(config)


@pytest.fixture
def harness_item(request: pytest.FixtureRequest) -> Evaluation:
    """The item's case under its model; what the other fixtures of pytest-finetune are made of."""
    if not hasattr(request, "param"):
        pytest.fail(UNMARKED, pytrace=False)
    return _session(request.config).evaluation(request.node, request.param)


@pytest.fixture
def case(harness_item: Evaluation) -> Case:
    """One row of the suite's JSONL file: `case.text`, `case.messages`, `case.expected`."""
    return harness_item.item.case


@pytest.fixture
def reply(harness_item: Evaluation) -> Reply:
    """What the model answered: `reply.text`, `reply.json()`, `reply.prompt_tokens`, ..."""
    return harness_item.reply


@pytest.fixture
def score(pytestconfig: pytest.Config, harness_item: Evaluation) -> Scorer:
    """The checks: each records a score and none raises."""
    return _session(pytestconfig).scorer(harness_item)


@pytest.fixture
def model(pytestconfig: pytest.Config, harness_item: Evaluation) -> Talker:
    """The model itself: `model.name`, `model.ask(messages)`."""
    return _session(pytestconfig).talker(harness_item)


# ---------------------------------------------------------------------- the session of an eval run


def _session(config: pytest.Config) -> Session:
    if SESSION not in config.stash:
        from harness.session import Session

        config.stash[SESSION] = Session(config)
    return config.stash[SESSION]


def _name_the_baseline(config: pytest.Config) -> None:
    """Settle which run is meant, once for all workers: "latest" may be another a second later."""
    from harness.session import named_in_full

    config.option.harness_baseline = named_in_full(config)


@contextmanager
def _noting_mistakes(config: pytest.Config) -> Generator[None]:
    """Keep a user's mistake for the end of collecting, where it can end the run with status 4."""
    try:
        yield
    except pytest.UsageError as problem:
        mistake = str(problem)
    except ImportError as problem:
        mistake = _shadowed(problem)
    else:
        return
    if mistake not in config.stash[MISTAKES]:
        config.stash[MISTAKES].append(mistake)


def _shadowed(problem: ImportError) -> str:
    package = str(problem.name).partition(".")[0]
    if package not in ("harness", "trainers"):
        raise problem
    where = getattr(sys.modules.get(package), "__file__", None) or package
    return (
        f"pytest-finetune cannot import {problem.name!r}: this project's own {where} hides its "
        f"package {package!r}; rename yours, or keep it off sys.path in the runs of the eval suites"
    )


# ---------------------------------------------------------------------- collect


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Turn the cases of a suite into items, one per case and model."""
    if marker := metafunc.definition.get_closest_marker("cases"):
        with _noting_mistakes(metafunc.config):
            _session(metafunc.config).parametrize(metafunc, marker)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember that the run is a part of the suites."""
    if items and SESSION in items[0].config.stash:
        _session(items[0].config).leave_out(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End the run with status 4 if collecting found a mistake."""
    config.stash[MISTAKES].extend(_unmarked(items))
    if SESSION in config.stash and not config.stash[MISTAKES]:
        with _noting_mistakes(config):
            _session(config).check(items)
            _session(config).arrange(items)
    if mistakes := config.stash[MISTAKES]:
        items[:] = []
        if not hasattr(config, "workerinput"):
            config.stash[MISTAKES] = []  # the exception tells them
            raise pytest.UsageError(*mistakes)


def _unmarked(items: Sequence[pytest.Item]) -> Iterator[str]:
    """Say where our fixtures are used without cases."""
    for item in items:
        wanted = "harness_item" in getattr(item, "fixturenames", ())
        if wanted and not item.get_closest_marker("cases"):
            path, line, _ = item.location
            yield f"{path}:{(line or 0) + 1}: {UNMARKED}"


# ---------------------------------------------------------------------- plan, prepare, score


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Train and ask before the first item runs; or only print the plan."""
    config = session.config
    if SESSION not in config.stash or config.option.collectonly:
        return (yield)
    if config.option.harness_plan:
        _session(config).print_plan(session.items)
        session.items[:] = []
        return (yield)
    with _collected_items_left_alone():
        # A worker's mistake is told by the controller.
        with _noting_mistakes(config) if hasattr(config, "workerinput") else nullcontext():
            _session(config).prepare(session.items, broken=session.testsfailed > 0)
        return (yield)


@contextmanager
def _collected_items_left_alone() -> Generator[None]:
    """Keep the garbage collector from reading all items again for every few hundred results."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _evaluation(item: pytest.Item) -> Evaluation | None:
    """Return the evaluation of a case item, once its reply was looked up."""
    if SESSION not in item.config.stash:
        return None
    from harness.session import evaluation_of

    return evaluation_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Make a failed assertion of a case item a score instead of a failure."""
    evaluation = _evaluation(pyfuncitem)
    if evaluation is None:
        return (yield)
    with nullcontext() if evaluation.decided else evaluation.scoring(pyfuncitem.function):
        yield
    if evaluation.mistake:
        from harness.text import line

        pytest.skip(line(evaluation.mistake))
    return True


@pytest.hookimpl(tryfirst=True, specname="pytest_pyfunc_call")
def pytest_pyfunc_call_of_what_is_decided(pyfuncitem: pytest.Function) -> bool | None:
    """Leave out the function of an item whose fixture failed: it lacks what it would get."""
    evaluation = _evaluation(pyfuncitem)
    return True if evaluation and evaluation.decided else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send what an item scored along with its report, also from a worker of xdist."""
    if SESSION not in item.config.stash:
        return (yield)
    inside = item.stash.get(PHASE, "")
    raised = _session(item.config).account_for(item, call, inside)
    report = yield
    _session(item.config).attach(item, report, call, inside, raised=raised)
    return report


@contextmanager
def _phase(item: pytest.Item, name: str) -> Generator[None]:
    """Tell the reports of subtests from that of the phase that they are a part of."""
    item.stash[PHASE] = name
    try:
        yield
    finally:
        item.stash[PHASE] = ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Note the phase."""
    with _phase(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Note the phase."""
    with _phase(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Note the phase."""
    with _phase(item, "teardown"):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of xdist found out."""
    found = getattr(node, "workeroutput", {})
    node.config.stash[MISTAKES].extend(
        mistake
        for mistake in found.get("harness_mistakes", ())
        if mistake not in node.config.stash[MISTAKES]
    )
    if findings := found.get("harness_findings"):
        _session(node.config).merge(findings)


class Results:
    """Collects what items scored, wherever they ran; its hooks run on the controller only."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take over the result that a report carries, but for a test that is run again."""
        if result := getattr(report, "harness", None):
            if str(report.outcome) != "rerun":  # pytest-rerunfailures
                _session(self.config).record(report, result)
            del report.harness  # pytest keeps its reports


def pytest_report_teststatus(
    report: pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Show a case as held, improved, unsolved or regressed."""
    if report.when == "call" and (status := getattr(report, "harness_status", None)):
        letter = {"held": ".", "improved": "+", "unsolved": "u", "regressed": "R"}[status]
        return str(status), letter, str(status).upper()
    return None


# ---------------------------------------------------------------------- decide, report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Decide and report; a worker of xdist hands over what it knows instead."""
    config = session.config
    if hasattr(config, "workerinput"):
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output["harness_mistakes"] = config.stash[MISTAKES]
        if SESSION in config.stash:
            output["harness_findings"] = _session(config).findings()
    elif config.stash[MISTAKES]:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    elif SESSION in config.stash:
        stopped = bool(session.shouldfail or session.shouldstop)
        session.exitstatus = _session(config).finish(exitstatus, stopped=stopped)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close models, connections and the store."""
    if SESSION in config.stash:
        _session(config).close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the verdict."""
    lines = (
        _session(config).summary(terminalreporter._tw.fullwidth) if SESSION in config.stash else []
    )
    lines += [f"ERROR: {mistake}" for mistake in config.stash[MISTAKES]]
    if lines:
        terminalreporter.section("pytest-finetune")
    for line in lines:
        terminalreporter.write_line(line, red=line.startswith("ERROR"))
