"""The `harness` command; thin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from harness.records import EvidenceError, HarnessError
from harness.text import line

if TYPE_CHECKING:
    from harness.preparation import Plan
    from harness.recording import Recording
    from harness.store import Store

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train candidates and look after what eval runs made.",
)


baseline_app = typer.Typer(no_args_is_help=True, help="Keep what a baseline replied.")
runs_app = typer.Typer(help="List earlier runs, show one, or compare two.")
jobs_app = typer.Typer(help="List, follow or cancel the jobs of hosted candidates; settle doubts.")
cache_app = typer.Typer(help="Say what the cache of replies holds, make room, explain a miss.")


class _PageByDefault(TyperGroup):
    """`harness review RUN` is `harness review page RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command before arguments that begin with none."""
        if args[:1] != ["--help"] and not (args and args[0] in self.commands):
            args = ["page", *args]
        return super().parse_args(ctx, args)


review_app = typer.Typer(
    cls=_PageByDefault,
    help="Let people read pairs of replies blindly; `review RUN` is `review page RUN`.",
)
judge_app = typer.Typer(no_args_is_help=True, help="Compare judges with people.")
app.add_typer(review_app, name="review")
app.add_typer(judge_app, name="judge")
app.add_typer(baseline_app, name="baseline")
app.add_typer(runs_app, name="runs")
app.add_typer(cache_app, name="cache")
app.add_typer(jobs_app, name="jobs")

Run = Annotated[str, typer.Argument(metavar="RUN", help="a run: its id, its beginning, or latest")]
Hosted = Annotated[str, typer.Argument(metavar="NAME", help="a candidate with trainer = openai")]
Force = Annotated[bool, typer.Option("--force", help="replace files that are there")]


@app.callback()
def harness() -> None:
    """Train candidates and look after what eval runs made."""


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="a candidate of [tool.harness.candidates]")],
    max_cost: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="refuse a paid training above it")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="train at a paid service")] = False,
) -> None:
    """Train a candidate, unless it is trained already, and say where it is."""
    import trainers
    from harness import progress, prompting
    from harness.data.jsonl import shown_path
    from harness.hosting import Consent, train_one

    plan = _plan()
    recipes = {**plan.recipes, **plan.hosted}
    if name not in recipes:
        known = ", ".join(recipes) or "none"
        raise HarnessError(
            f"pyproject.toml: tool.harness.candidates: no recipe {name!r}; there: {known}"
        )
    if name in plan.hosted:
        made = train_one(plan, name, Consent(max_cost, yes), progress.task, _say)
    else:
        with progress.task(f"training {name}") as update:
            made = trainers.train(
                plan.recipes[name], plan.home, prompting.shown(update), plan.settings.key_variables
            )
    how = "was trained already" if made.cached else f"trained in {made.seconds:.0f} s"
    _say(f"{name} {how}: {shown_path(made.path, plan.root)}")
    for finding in made.findings:
        _say(finding)


def _plan() -> Plan:
    """Return the candidates of the project, without any suite."""
    from harness.arms import planned_arms
    from harness.config import load
    from harness.preparation import Plan

    root = _project_root(Path.cwd())
    settings = load(root).model_copy(update={"baseline": None})
    return Plan(settings, root, planned_arms(settings, root), ())


@jobs_app.callback(invoke_without_command=True)
def jobs(context: typer.Context) -> None:
    """List the hosted candidates and what has become of their jobs."""
    if context.invoked_subcommand:
        return
    from harness import jobs as hosted

    for told in hosted.overview(_plan()):
        _say(told)


@jobs_app.command("follow")
def follow(name: Hosted) -> None:
    """Watch the job of a candidate until it is over, and take over the model."""
    from harness import jobs as hosted

    for told in hosted.follow(_plan(), name, typer.echo):
        _say(told)


@jobs_app.command("cancel")
def cancel(name: Hosted) -> None:
    """End the job of a candidate at its service."""
    from harness import jobs as hosted

    _say(hosted.cancel(_plan(), name))


Doubtful = Annotated[
    str, typer.Argument(metavar="[NAME]", help="a candidate with trainer = openai")
]


@jobs_app.command("adopt")
def adopt(
    job: Annotated[str, typer.Argument(metavar="ID", help="the job's id at the service")],
    name: Doubtful = "",
) -> None:
    """Take over a job that the service made without saying so."""
    from harness import jobs as hosted

    _say(hosted.adopt(_plan(), job, name))


@jobs_app.command("forget")
def forget(name: Doubtful = "") -> None:
    """Say that a service made no job, so that the next run asks for one."""
    from harness import jobs as hosted

    _say(hosted.forget(_plan(), name))


@app.command()
def record(
    model: Annotated[str, typer.Argument(help="a candidate, a table of models, or provider:name")],
    cases: Annotated[Path, typer.Argument(help="a JSONL file of cases")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the recording to write")],
    training: Annotated[
        Path | None, typer.Option(help="also write the replies as training data")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="ask each case so many times")] = 1,
    force: Force = False,
) -> None:
    """Ask a model every case of a file and keep its replies, for the time when it is gone."""
    from harness import progress, recorder, recording
    from harness.config import load

    root = _project_root(Path.cwd())
    written = [path for path in (out, training) if path]
    _refuse_loss(cases, written, force=force)
    sys.path.append(str(root))  # python: models of the project, as `python -m pytest` finds them
    made = recorder.record(model, Path.cwd() / cases, load(root), root, progress.task, trials)
    recording.write(made, out)
    _say_recorded(made, out)
    if training:
        rows = recorder.training(Path.cwd() / cases, root, made)
        recording.replace_file(training, rows.content)
        _say(f"{training}: {rows.about}")


def _say_recorded(made: Recording, path: Path) -> None:
    _say(f"{path}: {len(made.replies)} replies of {made.about}")


def _refuse_loss(cases: Path | None, written: list[Path], *, force: bool) -> None:
    """Refuse to write over what cannot be asked again."""
    named = [path.resolve() for path in [*([cases] if cases else []), *written]]
    if len(set(named)) < len(named):
        raise HarnessError("two of the files have one name; give each its own")
    for path in written:
        if path.exists() and not (force and path.is_file()):
            raise HarnessError(
                f"{path}: it is there already; choose another file, or replace a file with --force"
            )


@baseline_app.command("save")
def save(
    file: Annotated[Path, typer.Argument(help="the recording to write")],
    run: Annotated[str, typer.Option(help="a run: its id, its beginning, or latest")] = "latest",
    model: Annotated[str, typer.Option(help="a model of the run; by default its baseline")] = "",
    force: Force = False,
) -> None:
    """Write what a model replied in a run to a file, for `baseline = "replay:FILE"`."""
    from harness import history, recording

    _refuse_loss(None, [file], force=force)
    with _store() as store:
        named = history.find_run(store, run, answered=True)
        made = history.whole_recording_of(store, named, model)
    recording.write(made, file)
    _say_recorded(made, file)


@app.command()
def serve(
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", help="answer to NAME with this model; may be repeated"),
    ] = None,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free")] = 8_080,
    token_env: Annotated[
        str, typer.Option(metavar="VAR", help="the environment variable with the token to ask for")
    ] = "",
    max_file_mb: Annotated[int, typer.Option(min=1, help="the largest file to take")] = 100,
) -> None:
    """Serve models of this machine over the OpenAI protocol: chat, files, fine-tuning jobs."""
    from harness.config import load
    from harness.serve.app import serve as start
    from harness.serve.guard import Access, token_in

    # It serves where no project is: what it trains is kept in this folder then.
    root = _where_to_serve(Path.cwd())
    access = Access(host, token_in(token_env), max_file_mb * 2**20)
    start(root, load(root), alias or [], access, port)


@app.command()
def promote(
    run: Run,
    candidate: Annotated[str, typer.Argument(help="a candidate of the run")],
    force: Annotated[bool, typer.Option("--force", help="even if the run did not pass")] = False,
) -> None:
    """Make a candidate the champion, which `baseline = "champion"` compares with."""
    from harness import history

    with _store() as store:
        found = history.find_run(store, run)
        history.promote(store, found, candidate, force=force)
    _say(f"{candidate} of the run {found} is the champion")


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context) -> None:
    """List earlier runs, show one, or compare two."""
    if context.invoked_subcommand:
        return
    from harness.report import runs as tables

    with _store() as store:
        _print(tables.overview(store.summaries()))


@runs_app.command("show")
def show(run: Run) -> None:
    """Show a run: its verdict, metrics, changed cases and errors."""
    from harness.history import find_run
    from harness.report import runs as tables

    with _store() as store:
        _print(*tables.page(store.results(find_run(store, run))))


@runs_app.command("diff")
def diff(before: Run, after: Run) -> None:
    """Put two runs side by side: their metrics and verdicts, and the cases that differ."""
    from harness.history import find_run
    from harness.report import runs as tables

    with _store() as store:
        first, second = (store.results(find_run(store, run)) for run in (before, after))
    _print(*tables.diff(first, second))


@cache_app.callback(invoke_without_command=True)
def cache(context: typer.Context) -> None:
    """Say how many replies of which model the cache holds, how large they are and how old."""
    if context.invoked_subcommand:
        return
    from harness.report import stock

    with _store() as store:
        _print(stock.overview(store.stock()))


@cache_app.command("prune")
def prune(
    older_than: Annotated[
        str, typer.Option(metavar="DAYS", help="replies stored before so many days, such as 30d")
    ] = "",
    model: Annotated[str, typer.Option(metavar="SPEC", help="replies of this model")] = "",
) -> None:
    """Delete replies from the cache; what they were in earlier runs stays."""
    from datetime import UTC, datetime, timedelta

    from harness.history import days

    if not (older_than or model):
        raise HarnessError("say which replies: --older-than 30d, --model openai:NAME, or both")
    before = datetime.now(UTC) - timedelta(days=days(older_than)) if older_than else None
    with _store() as store:
        known = [one.model for one in store.stock()]
        if model and model not in known:
            raise HarnessError(
                f"the cache holds no replies of {model!r}; there: {', '.join(known) or 'none'}"
            )
        _say(f"deleted {store.prune(before, model or None):,} replies")


@cache_app.command("accept-loss")
def accept_loss() -> None:
    """Let paid models be asked again what a damaged store lost."""
    with _store() as store:
        losses = store.losses()
        store.accept_losses()
    for told in losses or ["nothing was lost"]:
        typer.echo(told)
    if losses:
        typer.echo("what is missing is asked again by the next run")


@cache_app.command("explain")
def explain(
    case: Annotated[str, typer.Argument(metavar="SUITE:CASE", help="the suite and id of a case")],
) -> None:
    """Say in what the calls for a case differ from those that were stored before them."""
    from rich.text import Text

    from harness.calls import history_of

    with _store() as store:
        calls = store.calls()
    _print(*(Text(line(told)) for told in history_of(case, calls)))


LatestRun = Annotated[
    str, typer.Argument(metavar="[RUN]", help="a run: its id, its beginning, or latest")
]


@review_app.command("page")
def review_page(
    run: LatestRun = "latest",
    candidate: Annotated[str, typer.Option(help="the candidate, where there are several")] = "",
    suite: Annotated[str, typer.Option(help="only cases of this suite")] = "",
    pairs: Annotated[int, typer.Option(min=1, help="how many pairs to read")] = 20,
    rater: Annotated[str, typer.Option(help="who reads; by default your login name")] = "",
    serve: Annotated[
        bool, typer.Option("--serve", help="serve the page here and store every vote at once")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page to write")] = None,
) -> None:
    """Write a page of pairs to read blindly, or serve it (this is the default command)."""
    from harness.config import load
    from harness.review import desk

    root = _project_root(Path.cwd())
    with _store() as store:
        reading = desk.reading(store, run, candidate, suite, pairs, rater)
        if serve:
            from harness.review.server import serve as serve_page

            serve_page(store, reading.run, reading.pairs, reading.rater, typer.echo)
        else:
            _say(str(desk.written(reading, out, root / load(root).reports)))


@review_app.command("result")
def review_result(
    run: LatestRun = "latest",
    votes: Annotated[
        list[Path] | None, typer.Option(help="first import the votes that a page offered")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="let imported votes replace the rater's stored ones")
    ] = False,
) -> None:
    """Say what people prefer, what they would ship and whether they agree."""
    from harness.history import find_run
    from harness.review import desk, tables

    with _store() as store:
        for path in votes or ():
            _say(desk.imported(store, path, replace=replace))
        found = find_run(store, run, answered=True)
        _print(*tables.lines(found, desk.results(store, found)))


@judge_app.command("calibrate")
def calibrate(
    name: Annotated[str, typer.Argument(help="a judge of [tool.harness.judges]")],
    labels: Annotated[Path | None, typer.Option(help="a JSONL file of people's labels")] = None,
    votes: Annotated[
        str, typer.Option(metavar="RUN", help="the votes on the pairs of a run, such as latest")
    ] = "",
) -> None:
    """Compare a judge with people; one that agrees too little only advises in later runs."""
    from harness import calibration
    from harness.config import load
    from harness.history import find_run
    from harness.report import judges as tables

    if bool(labels) == bool(votes):
        raise HarnessError("say what people said: --labels FILE, or --votes RUN")
    root = _project_root(Path.cwd())
    sys.path.append(str(root))  # python: models of the project, as `python -m pytest` finds them
    if labels:
        given = calibration.labels(labels)
    else:
        with _store() as store:
            given = calibration.votes(store, find_run(store, votes, answered=True))
    for made in calibration.calibrate(name, given, load(root), root):
        _print(*tables.lines(made))


@contextmanager
def _store() -> Iterator[Store]:
    from harness.config import load
    from harness.history import opened

    root = _project_root(Path.cwd())
    with opened(root / load(root).store) as store:
        yield store


def _say(sentence: str) -> None:
    typer.echo(line(sentence))


def _print(*parts: object) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def _project_root(start: Path) -> Path:
    from harness.config import project_root

    return project_root(start, str(start))


def _where_to_serve(start: Path) -> Path:
    """Return the project; where there is none, the folder of a pyproject.toml, or `start`."""
    from harness.config import project_at_or_above

    folders = (start, *start.parents)
    marked = (folder for folder in folders if (folder / "pyproject.toml").is_file())
    return project_at_or_above(start) or next(marked, start)


def main() -> None:
    """Run the command; a user's mistake ends it with status 4, missing evidence with 6."""
    try:
        app()
    except HarnessError as problem:
        _fail(problem, 4)
    except EvidenceError as problem:
        _fail(problem, 6)


def _fail(problem: Exception, status: int) -> NoReturn:
    typer.echo(f"ERROR: {line(str(problem))}", err=True)  # it may quote a server or a file
    sys.exit(status)
