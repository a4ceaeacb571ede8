"""Settings -> the models of a run in their roles: the baseline, then the candidates."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from harness import recording
from harness.cases import load_few_shot
from harness.config import CandidateSettings, ModelSettings, Settings
from harness.data.messages import quoted
from harness.records import Arm, Candidate, HarnessError, ModelSpec, Role, Sampling

_NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")
_REFERENCE = re.compile(r"([a-z]+):(.+)", re.DOTALL)


@dataclass(frozen=True)
class PlannedArm:
    """A model that may still have to be trained: then `recipe` holds its settings.

    `note` tells people where it comes from, if the settings do not.
    """

    arm: Arm
    recipe: CandidateSettings | None = None
    note: str = ""


def planned_arms(
    settings: Settings, root: Path, baseline: PlannedArm | None = None
) -> tuple[PlannedArm, ...]:
    """Return the baseline and the candidates of `settings`, in this order.

    `baseline` takes the place of the one in `settings`.

    Raises:
        HarnessError: a name or a model that the settings refer to is wrong; with its key.

    """
    arms = [baseline or PlannedArm(_baseline(settings, root))]
    for name, candidate in settings.candidates.items():
        arms.append(_candidate(name, candidate, settings, root))
    _refuse_bad_names([planned.arm.name for planned in arms])
    return tuple(arms)


def _baseline(settings: Settings, root: Path) -> Arm:
    reference = settings.baseline or settings.base
    name = reference if reference in settings.models else "base"
    if settings.baseline and reference not in settings.models:
        name = "baseline"
    key = "tool.harness.baseline" if settings.baseline else "tool.harness.base"
    spec = model_spec(reference, name, settings, root, key)
    examples = not spec.few_shot and not spec.recorded
    return Arm(name, Role.BASELINE, spec, examples=examples)


def _candidate(
    name: str, candidate: CandidateSettings, settings: Settings, root: Path
) -> PlannedArm:
    key = f"tool.harness.candidates.{name}"
    if candidate.model is not None:
        spec = model_spec(candidate.model, name, settings, root, f"{key}.model")
        return PlannedArm(Arm(name, Role.CANDIDATE, spec))
    spec = model_spec(candidate.base or settings.base, name, settings, root, f"{key}.base")
    hosted = candidate.trainer == "openai"
    if hosted and spec.provider != "openai":
        raise HarnessError(
            f"pyproject.toml: {key}: trainer = 'openai' trains at the service of an openai: model, "
            f"and the base {spec.spec!r} is none; name one with {key}.base"
        )
    if not hosted and spec.provider not in ("bundled", "local"):
        raise HarnessError(
            f"pyproject.toml: {key}: {candidate.trainer} trains local models, "
            f"and the base {spec.spec!r} is none; name one with {key}.base"
        )
    return PlannedArm(Arm(name, Role.CANDIDATE, spec), candidate)


def _refuse_bad_names(names: list[str]) -> None:
    for index, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise HarnessError(
                f"pyproject.toml: tool.harness: {quoted(name)} cannot name a model; "
                "use up to 60 letters, digits, '.', '_' and '-'"
            )
        if name in names[:index]:
            raise HarnessError(
                f"pyproject.toml: tool.harness.candidates.{name}: the baseline has this name too"
            )


def model_spec(reference: str, name: str, settings: Settings, root: Path, key: str) -> ModelSpec:
    """Return the model that `reference` names: a table of `settings.models`, or `provider:target`.

    Raises:
        HarnessError: there is no such model; the sentence begins with `key`.

    """
    table = settings.models.get(reference) or ModelSettings(model=reference)
    match = _REFERENCE.fullmatch(table.model)
    if match is None:
        known = ", ".join(sorted(settings.models)) or "none"
        raise HarnessError(
            f"pyproject.toml: {key}: {quoted(reference)} is no provider:name such as "
            f"'bundled:pocket', and no table in tool.harness.models (there: {known})"
        )
    provider, target = match.groups()
    if provider == "replay":
        _refuse_prompt(table, key)
    return ModelSpec(
        name=name,
        provider=provider,
        target=_target(provider, target, root),
        system=table.system,
        template=table.template,
        few_shot=_few_shot(table, root),
        sampling=_sampling(table, settings),
        adapter=_adapter(table, root, key),
        revision=table.revision,
        options=table.model_extra or {},
        thinking=_thinking(table, provider, root / target, key),
    )


def _target(provider: str, target: str, root: Path) -> str:
    """Return a target that is a path as an absolute one."""
    is_path = provider == "replay" or (provider == "local" and os.path.exists(root / target))
    return str(root / target) if is_path else target


def _refuse_prompt(table: ModelSettings, key: str) -> None:
    if more := sorted(table.model_fields_set - {"model", "thinking"}):
        raise HarnessError(
            f"pyproject.toml: {key}: {table.model} is a recording, whose prompt and sampling are "
            f"history; drop {', '.join(more)}"
        )


def _adapter(table: ModelSettings, root: Path, key: str) -> Path | None:
    if table.adapter is None:
        return None
    folder = root / table.adapter
    if not os.path.isfile(folder / "adapter_config.json"):
        raise HarnessError(
            f"pyproject.toml: {key}: {table.adapter} holds no adapter_config.json; "
            "name the folder of a trained adapter"
        )
    return folder


def _thinking(table: ModelSettings, provider: str, path: Path, key: str) -> str:
    if table.thinking == "off" and provider in ("python", "replay"):
        raise HarnessError(
            f'pyproject.toml: {key}: {table.model} has no chat template that thinking = "off" '
            'could switch; write "strip" or "keep"'
        )
    if provider == "replay" and "thinking" not in table.model_fields_set:
        return recording.thinking_of(path)
    return table.thinking


def _few_shot(table: ModelSettings, root: Path) -> tuple[dict[str, object], ...]:
    if table.few_shot is None:
        return ()
    examples = load_few_shot(root / table.few_shot, root)[: table.shots]
    return tuple(dict(message) for example in examples for message in example)


def _sampling(table: ModelSettings, settings: Settings) -> Sampling:
    return Sampling(
        temperature=table.temperature or 0.0,
        max_tokens=table.max_tokens or settings.max_tokens,
        seed=table.seed or 0,
    )


def candidate_named(arms: tuple[PlannedArm, ...], name: str) -> PlannedArm:
    """Return the candidate of this name.

    Raises:
        HarnessError: there is none.

    """
    candidates = {planned.arm.name: planned for planned in arms[1:]}
    if name not in candidates:
        known = ", ".join(candidates) or "none"
        raise HarnessError(f"there is no candidate {name!r} in tool.harness.candidates: {known}")
    return candidates[name]


def with_itself(baseline: PlannedArm, trials: int) -> tuple[PlannedArm, ...]:
    """Return the arms of an A/A run: the baseline, and the baseline again with fresh samples."""
    arm = baseline.arm
    name = f"{arm.name}-again"
    again = replace(
        arm, name=name, role=Role.CANDIDATE, spec=replace(arm.spec, name=name), first_trial=trials
    )
    return baseline, PlannedArm(again)


def with_artefact(arm: Arm, candidate: Candidate) -> Arm:
    """Return `arm` with the model that its recipe made."""
    if candidate.model:
        spec = replace(arm.spec, target=candidate.model)
        return replace(arm, spec=spec, fingerprint=candidate.fingerprint)
    options = dict(arm.spec.options)
    if candidate.quantized:
        options.setdefault("quantization", "nf4")
    if candidate.full:
        spec = replace(arm.spec, provider="local", target=str(candidate.path), options=options)
    else:
        spec = replace(arm.spec, adapter=candidate.path, options=options)
    return replace(arm, spec=spec, fingerprint=candidate.fingerprint)


def as_tuned(arm: Arm) -> Arm:
    """Return `arm`, which a service still has to train, under the kind of name that it will have.

    Its price is not that of its base.
    """
    return replace(arm, spec=replace(arm.spec, target=f"ft:{arm.spec.target}:"))


def sharing_one_base(arms: list[Arm]) -> list[Arm]:
    """Return `arms` with every arm of one local base at one precision.

    A base is loaded once for all that stand on it: in four bits where one of them was trained so.
    """
    quantized = {
        (arm.spec.provider, arm.spec.target)
        for arm in arms
        if arm.spec.options.get("quantization") == "nf4"
    }
    return [
        _quantized(arm) if (arm.spec.provider, arm.spec.target) in quantized else arm
        for arm in arms
    ]


def _quantized(arm: Arm) -> Arm:
    options = {"quantization": "nf4", **arm.spec.options}
    return replace(arm, spec=replace(arm.spec, options=options))
