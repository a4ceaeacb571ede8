"""`results.json`: the run for machines, as `results.schema.json` beside this file describes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.records import (
    Arm,
    Candidate,
    CaseResult,
    Comparison,
    JudgeFigure,
    Run,
    Slice,
    Usage,
    Verdict,
)
from harness.report import summary

SCHEMA_VERSION = 1
_SCHEMA = Path(__file__).with_name("results.schema.json")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every `results.json` follows."""
    loaded: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return loaded


def text(run: Run) -> str:
    """Return the content of `results.json`: ASCII, the same for the same run."""
    return json.dumps(as_results(run), indent=1, allow_nan=False) + "\n"


def as_results(run: Run) -> dict[str, Any]:
    """Return `results.json` as plain JSON values in a fixed order, whatever order `run` has."""
    models = [arm.name for arm in run.arms]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.run_id,
        "started": run.started,
        "finished": run.finished,
        "verdict": run.decision.value,
        "exit_status": run.exit_status,
        "models": [_model(arm) for arm in run.arms],
        "metrics": _metrics(run, models),
        "usage": {name: _usage(run.usage[name]) for name in _ordered(run.usage, models)},
        "training": [_training(made) for made in sorted(run.training, key=lambda made: made.name)],
        "slices": [_slice(one) for one in summary.sliced(run.slices)],
        "ranking": [asdict(one) | {"ahead_of": list(one.ahead_of)} for one in run.ranking],
        "judges": [_judge_figure(one) for one in run.judges],
        "cases": [_case(case, models) for case in sorted(run.cases, key=_case_key)],
        "alarms": list(run.alarms),
        "errors": list(run.errors),
        "environment": _plain(run.environment),
    }


def _ordered(names: Iterable[str], models: Sequence[str]) -> list[str]:
    places = {name: place for place, name in enumerate(models)}
    return sorted(names, key=lambda name: (places.get(name, len(models)), name))


def _model(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "role": arm.role.value,
        "spec": arm.spec.spec,
        "fingerprint": arm.fingerprint,
    }


_Answer = tuple[Comparison, Verdict | None]


def _metrics(run: Run, models: Sequence[str]) -> list[dict[str, Any]]:
    judged: list[_Answer] = [(verdict.comparison, verdict) for verdict in run.verdicts]
    gated = {(one.candidate, one.title) for one, _ in judged}
    beside = [one for one in run.comparisons if (one.candidate, one.title) not in gated]
    answers = [*judged, *((one, None) for one in beside)]
    order = _ordered({one.candidate for one, _ in answers}, models)

    def place(answer: _Answer) -> tuple[int, str, str]:
        one, verdict = answer
        return order.index(one.candidate), one.title, str(verdict.rule) if verdict else ""

    return [_metric(*answer) for answer in sorted(answers, key=place)]


def _metric(compared: Comparison, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "metric": compared.metric,
        "tag": compared.tag,
        "candidate": compared.candidate,
        "baseline": compared.baseline,
        "n": compared.n,
        "missing": compared.missing,
        "unscored": compared.unscored,
        "trials": compared.trials,
        "baseline_mean": _number(compared.baseline_mean),
        "candidate_mean": _number(compared.candidate_mean),
        "difference": _number(compared.difference),
        "interval": [_number(x) for x in compared.interval] if compared.interval else None,
        "p": _number(compared.p),
        "p_adjusted": _number(compared.p_adjusted),
        "p_exact": _number(compared.p_exact),
        "e_value": _number(compared.e_value),
        "noise_share": _number(compared.noise_share),
        "skew": _number(compared.skew),
        "losses": compared.losses,
        "wins": compared.wins,
        "ties": compared.ties,
        "mde": _number(compared.mde),
        "rule": str(verdict.rule) if verdict else None,
        "verdict": verdict.verdict if verdict else None,
        "reason": verdict.reason if verdict else None,
    }


def _slice(one: Slice) -> dict[str, Any]:
    compared = one.comparison
    return {
        "kind": one.kind,
        "name": one.name,
        "metric": compared.metric,
        "candidate": compared.candidate,
        "n": compared.n,
        "baseline_mean": _number(compared.baseline_mean),
        "candidate_mean": _number(compared.candidate_mean),
        "difference": _number(compared.difference),
        "q": _number(one.q),
    }


def _judge_figure(one: JudgeFigure) -> dict[str, Any]:
    interval = [_number(x) for x in one.interval] if one.interval else None
    figures = {"value": _number(one.value), "interval": interval}
    return {**asdict(one), **figures, "warning": one.warning or None}


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity; both mean that there is no number."""
    return value if value is not None and math.isfinite(value) else None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        name: _number(value) if isinstance(value, float) else value
        for name, value in asdict(usage).items()
    }


def _training(made: Candidate) -> dict[str, Any]:
    return {
        "candidate": made.name,
        "fingerprint": made.fingerprint,
        "cached": made.cached,
        "started": made.started or None,
        "seconds": _number(made.seconds),
        "steps": made.steps,
        "train_loss": final_loss(made),
        "validation_loss": best_validation_loss(made),
        "findings": list(made.findings),
    }


def final_loss(made: Candidate) -> float | None:
    """Return the last training loss that was logged."""
    losses = [point.train for point in made.losses if point.train is not None]
    return _number(losses[-1]) if losses else None


def best_validation_loss(made: Candidate) -> float | None:
    """Return the lowest validation loss: the one of the checkpoint that was kept."""
    return min((x for p in made.losses if (x := _number(p.validation)) is not None), default=None)


def _case_key(case: CaseResult) -> tuple[str, str, str]:
    return case.suite, case.id, case.test


def _case(case: CaseResult, models: Sequence[str]) -> dict[str, Any]:
    return {
        "suite": case.suite,
        "id": case.id,
        "test": case.test,
        "scores": {
            model: {metric: case.scores[model][metric] for metric in sorted(case.scores[model])}
            for model in _ordered(case.scores, models)
        },
        "replies": {model: case.replies[model] for model in _ordered(case.replies, models)},
        "status": {
            model: {metric: case.status[model][metric].value for metric in sorted(statuses)}
            for model in _ordered(case.status, models)
            if (statuses := case.status[model])
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, int | str | None) else str(value)
