"""The `harness` command; thin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.records import EvidenceError, HarnessError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train candidates and look after what eval runs made.",
)


@app.callback()
def harness() -> None:
    """Train candidates and look after what eval runs made."""


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="a candidate of [tool.harness.candidates]")],
) -> None:
    """Train a candidate, unless it is trained already, and say where it is."""
    import trainers
    from harness import progress, prompting
    from harness.arms import planned_arms
    from harness.config import load
    from harness.preparation import Plan

    root = _project_root(Path.cwd())
    settings = load(root)
    recipes = Plan(settings, root, planned_arms(settings, root), ()).recipes
    if name not in recipes:
        known = ", ".join(recipes) or "none"
        raise HarnessError(
            f"pyproject.toml: tool.harness.candidates: no recipe {name!r}; there: {known}"
        )
    recipe = recipes[name]
    with progress.task(f"training {name}") as update:
        made = trainers.train(recipe, root / settings.store, prompting.shown(update))
    how = "was trained already" if made.cached else f"trained in {made.seconds:.0f} s"
    typer.echo(f"{name} {how}: {made.path.relative_to(root)}")


def _project_root(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file():
            return folder
    raise HarnessError(f"{start}: no pyproject.toml here or above; change into the project")


def main() -> None:
    """Run the command; a user's mistake ends it with status 4, missing evidence with 6."""
    try:
        app()
    except HarnessError as problem:
        typer.echo(f"ERROR: {problem}", err=True)
        sys.exit(4)
    except EvidenceError as problem:
        typer.echo(f"ERROR: {problem}", err=True)
        sys.exit(6)
