"""Earlier runs: which one is meant, what its models replied, which candidate is champion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.arms import PlannedArm
from harness.config import Settings
from harness.evaluation import ItemResult
from harness.models.secrecy import public_options
from harness.records import (
    Arm,
    Decision,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    RecordedScore,
    Role,
)
from harness.store import Asked, Promotion, Store

if TYPE_CHECKING:
    from harness.recording import Recording

CHAMPION = "champion"
LATEST = "latest"

_SHOWN = 5
_BAD = ("regressed", "failed", "undecidable")


@contextmanager
def opened(home: Path) -> Iterator[Store]:
    """Open the store in the folder `home`.

    Raises:
        HarnessError: there is none, or it cannot be used.
        EvidenceError: it is damaged.

    """
    path = home / "store.sqlite"
    if not path.is_file():
        raise HarnessError(f"{home}: no run is stored here yet; run `pytest evals/` first")
    store = Store(path)
    try:
        yield store
    finally:
        store.close()


def find_run(store: Store, text: str, *, answered: bool = False) -> str:
    """Return the id of the run that `text` names: its id, a beginning that no other has, `latest`.

    `answered`: the latest of those that hold replies.

    Raises:
        HarnessError: no run, or several, are meant.

    """
    runs = store.run_ids(answered=answered and text == LATEST)
    if not runs:
        raise HarnessError("no run is stored yet; run `pytest evals/` first")
    if text == LATEST:
        return runs[-1]
    found = [run for run in runs if run == text] or [run for run in runs if run.startswith(text)]
    if len(found) == 1 and text:
        return found[0]
    what = f"{len(found)} runs begin with {text!r}" if found else f"there is no run {text!r}"
    raise HarnessError(f"{what}; give the id of one run: {_listed(found or runs)}")


def days(text: str) -> float:
    """Return the number of days in a text such as `30d` or `12h`.

    Raises:
        HarnessError: it is none.

    """
    match = re.fullmatch(r"(\d{1,6})([dh])", text.strip())
    if match is None:
        raise HarnessError(f"{text!r} is no age; write days or hours such as 30d or 12h")
    return int(match[1]) / (1 if match[2] == "d" else 24)


def _listed(names: Sequence[str]) -> str:
    """Name the last few, the newest first."""
    last = list(reversed(names))
    more = f" and {len(last) - _SHOWN} earlier" if len(last) > _SHOWN else ""
    return ", ".join(last[:_SHOWN]) + more


# ---------------------------------------------------------------------- what models replied


def replies_of(results: Sequence[ItemResult]) -> dict[str, list[Recorded]]:
    """Return model -> what it replied to each case, with the scores of the checks on it.

    The metrics of plain assertions are left out: they have no check to compare with.
    """
    found: dict[tuple[str, str, str, int], Recorded] = {}
    for result in results:
        if result.reply.error is not None:
            continue
        key = (result.arm, result.suite, result.id, result.trial)
        fresh = Recorded(result.id, result.digest, result.reply, result.suite, result.trial)
        one = found.get(key, fresh)
        scores = {
            score.metric: RecordedScore(score.value, score.passed, score.check)
            for score in result.scores
        }
        found[key] = replace(one, scores={**one.scores, **scores})
    by_model: dict[str, list[Recorded]] = {}
    for (model, *_), one in found.items():
        by_model.setdefault(model, []).append(one)
    return by_model


def asked_by(results: Sequence[ItemResult]) -> dict[str, Asked]:
    """Return what the cases ask, by digest."""
    return {result.digest: Asked(result.prompt, result.expected) for result in results}


def without_secrets(arm: Arm) -> Arm:
    """Return `arm` as it may be stored: the headers and the URL of a service may hold secrets."""
    options = public_options(arm.spec.options)
    options.pop("headers", None)
    return replace(arm, spec=replace(arm.spec, options=options))


def recording_of(store: Store, run: str, model: str = "") -> Recording:
    """Return what `model` (by default the baseline) replied in `run`, with its scores.

    Raises:
        HarnessError: the run has no such model, holds no replies of it, or read them from a
            recording itself.

    """
    from harness import recording

    arms = {arm.name: arm for arm in store.arms(run)}
    model = model or next((a.name for a in arms.values() if a.role is Role.BASELINE), "")
    if model not in store.run_models(run) or model not in arms:
        raise HarnessError(
            f"the run {run} holds no replies of {model or 'a baseline'!r}; "
            f"there: {', '.join(store.run_models(run)) or 'none'}"
        )
    arm = arms[model]
    if arm.spec.recorded:
        raise HarnessError(
            f"{model} of the run {run} was itself read from the recording {arm.spec.target}; "
            "use that file"
        )
    made = str(store.summary(run)["started"])
    replies = store.run_replies(run, model)
    return recording.recording_of(arm, replies, made=made, source=f"run {run}")


def whole_recording_of(store: Store, run: str, model: str = "") -> Recording:
    """Return what `recording_of` does, unless some of it is damaged.

    Raises:
        HarnessError: see `recording_of`.
        EvidenceError: replies of the run are damaged; a file would hold the others only.

    """
    made = recording_of(store, run, model)
    if damaged := store.count_run_replies(run, made.name) - len(made.replies):
        raise EvidenceError(
            f"{damaged} of the replies of {made.name} in the run {run} are damaged; nothing was "
            "written: save another run, or record the model with `harness record`"
        )
    return made


# ---------------------------------------------------------------------- an earlier baseline


def full_name(reference: str, home: Path) -> str:
    """Return what `--harness-baseline` names in full: `RUN:MODEL`, or `champion`.

    Without a model it is the run's only candidate, or its baseline where it had none.

    Raises:
        HarnessError: there is no such run or model, or there are several.
        EvidenceError: the store is damaged.

    """
    if reference == CHAMPION:
        return CHAMPION
    text, _, model = reference.partition(":")
    with opened(home) as store:
        run = find_run(store, text, answered=True)
        return f"{run}:{model or _only_model(store, run)}"


def _only_model(store: Store, run: str) -> str:
    arms = store.arms(run)
    candidates = [arm.name for arm in arms if arm.role is Role.CANDIDATE]
    if len(candidates) > 1:
        raise HarnessError(
            f"the run {run} has several candidates: {', '.join(candidates)}; "
            f"name one: --harness-baseline {run}:{candidates[0]}"
        )
    return next((name for name in [*candidates, *(arm.name for arm in arms)]), "")


def baseline(reference: str | None, settings: Settings, root: Path) -> PlannedArm | None:
    """Return the earlier model to compare with; None where the settings name a model of today.

    `reference` is what `--harness-baseline` names (`RUN:MODEL`, `champion`). The replies of an
    earlier run are written out as a recording and read like any other.

    Raises:
        HarnessError: there is no such run or model, or nothing was promoted.
        EvidenceError: the store is damaged.

    """
    if not reference and settings.baseline == CHAMPION and CHAMPION not in settings.models:
        reference = CHAMPION
    if not reference:
        return None
    home = root / settings.store
    if reference == CHAMPION:
        return _champion(settings, home)
    run, _, model = full_name(reference, home).partition(":")
    return _replayed(run, model, home)


def _replayed(run: str, model: str, home: Path) -> PlannedArm:
    from harness import recording

    path = home / "recordings" / f"{run}-{model}.jsonl"
    with opened(home) as store:
        recording.write(recording_of(store, run, model), path)
    spec = ModelSpec("baseline", "replay", str(path), thinking=recording.thinking_of(path))
    return PlannedArm(Arm("baseline", Role.BASELINE, spec))


# ---------------------------------------------------------------------- the champion


def promote(store: Store, run: str, candidate: str, *, force: bool = False) -> None:
    """Make `candidate` of `run` the champion.

    Raises:
        HarnessError: the run has no such candidate; or it did not pass, unless `force`.

    """
    candidates = [arm.name for arm in store.arms(run) if arm.role is Role.CANDIDATE]
    if candidate not in candidates:
        known = ", ".join(candidates) or "none"
        raise HarnessError(f"the run {run} has no candidate {candidate!r}; there: {known}")
    results = store.summary(run)
    if results["verdict"] != Decision.PASS and not force:
        raise HarnessError(
            f"the run {run} ended with {str(results['verdict']).upper()}: "
            f"{'; '.join(_reasons(results))}; promote a run that passed, or add --force"
        )
    store.promote(run, candidate)


def _reasons(results: dict[str, Any]) -> list[str]:
    bad = [
        f"{metric['metric']} of {metric['candidate']}: {metric['reason']}"
        for metric in results["metrics"]
        if metric["verdict"] in _BAD
    ]
    return [*results["errors"], *bad] or ["a gate was not passed"]


def _champion(settings: Settings, home: Path) -> PlannedArm:
    with opened(home) as store:
        if (promotion := store.champion()) is None:
            raise HarnessError(
                "there is no champion yet: let a run pass with another baseline, then say "
                "`harness promote RUN CANDIDATE`"
            )
        arm = next(arm for arm in store.arms(promotion.run) if arm.name == promotion.model)
    spec = _with_secrets(_with_artefact(arm, promotion, home), settings)
    note = (
        f"{CHAMPION} is {promotion.model} of the run {promotion.run}, "
        f"promoted on {promotion.promoted[:10]}"
    )
    made = Arm(CHAMPION, Role.BASELINE, replace(spec, name=CHAMPION), arm.fingerprint)
    return PlannedArm(made, note=note)


def _with_artefact(arm: Arm, promotion: Promotion, home: Path) -> ModelSpec:
    """Point to the trained artefact: the store may lie elsewhere than when the run was made."""
    if not arm.fingerprint or arm.spec.provider == "openai":
        return arm.spec
    folder = home / "candidates" / arm.fingerprint
    if not folder.is_dir():
        raise HarnessError(
            f"the champion {promotion.model} of the run {promotion.run} is gone: there is no "
            f"{folder}; bring it back, or promote another candidate"
        )
    if arm.spec.adapter is None:
        return replace(arm.spec, target=str(folder))
    return replace(arm.spec, adapter=folder)


def _with_secrets(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """Add the headers and the URL of today's table of the same model: they are never stored."""
    for table in settings.models.values():
        today: dict[str, Any] = table.model_extra or {}
        place = public_options(today).get("base_url", spec.options.get("base_url"))
        if table.model == spec.spec and place == spec.options.get("base_url"):
            known = {key: today[key] for key in ("headers", "base_url") if key in today}
            return replace(spec, options={**spec.options} | known)
    return spec
