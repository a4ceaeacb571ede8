"""What a run says about how its models were asked and what their replies hold, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from harness.records import Arm, ModelSpec, Role, Usage

if TYPE_CHECKING:
    from harness.models import Models

_THINKING = {
    "strip": "it is not part of the answers that are scored (where it stands in their text, "
    'thinking = "keep" in its table scores it too)',
    "keep": 'where it stands in the text it is scored as part of the answer (thinking = "keep")',
    "off": 'although thinking = "off" in its table, which its chat template does not heed; it is '
    "not part of the answers that are scored",
}


def thinking_notes(arms: Iterable[Arm], usage: Mapping[str, Usage]) -> tuple[str, ...]:
    """Return a sentence for each model whose replies hold thinking."""
    return tuple(_thinking(arm, usage[arm.name]) for arm in _thinkers(arms, usage, off=False))


def thinking_alarms(arms: Iterable[Arm], usage: Mapping[str, Usage]) -> tuple[str, ...]:
    """Return a sentence for each model that thinks although it should not."""
    return tuple(_thinking(arm, usage[arm.name]) for arm in _thinkers(arms, usage, off=True))


def _thinkers(arms: Iterable[Arm], usage: Mapping[str, Usage], *, off: bool) -> Iterator[Arm]:
    for arm in arms:
        if (arm.spec.thinking == "off") is off and arm.name in usage and usage[arm.name].thinking:
            yield arm


def _thinking(arm: Arm, usage: Usage) -> str:
    mean = usage.reasoning_tokens_mean
    tokens = f", {mean:.0f} tokens of it on average" if mean is not None else ""
    return (
        f"{arm.name}: {usage.thinking} of {usage.requests} replies hold thinking{tokens}; "
        f"{_THINKING[arm.spec.thinking]}"
    )


# ---------------------------------------------------------------------- fields of the requests

_SAMPLING = ("temperature", "seed")


def refusal_notes(specs: Mapping[str, ModelSpec], models: Models) -> tuple[str, ...]:
    """Return a sentence for each of `specs` (by name) whose service was found to refuse fields."""
    found = {name: models.refused(spec) for name, spec in specs.items()}
    return tuple(
        sentence
        for name, refused in found.items()
        for sentence in _refusals(name, sorted(refused.fields), refused.limit)
    )


def _refusals(name: str, fields: Iterable[str], limit: str) -> Iterator[str]:
    if fields:
        yield f"{name}: its service refuses {_listed(fields)}, so it is asked without"
    if limit:
        yield f"{name}: its service takes the limit of tokens as {limit}, so that is its name here"


def sampling_alarms(arms: Iterable[Arm], models: Models) -> tuple[str, ...]:
    """Return a sentence for each candidate that is asked with other fields than the baseline.

    What a recording was asked with is history, and what a function does with it is its own.
    """
    sent = {arm.name: arm for arm in arms if arm.spec.provider not in ("replay", "python")}
    base = next((arm for arm in sent.values() if arm.role is Role.BASELINE), None)
    others = [arm for arm in sent.values() if arm.role is Role.CANDIDATE] if base else []
    return tuple(filter(None, (_difference(base, other, models) for other in others if base)))


def _difference(base: Arm, other: Arm, models: Models) -> str:
    before, after = _sampled(base.spec, models), _sampled(other.spec, models)
    if before == after:
        return ""
    return (
        f"{other.name} is asked {_with(after)}, {base.name} {_with(before)}: what differs between "
        "them may be the sampling; ask both alike (`omit` in the table of a model leaves fields "
        "out), or repeat the cases with --harness-trials"
    )


def _sampled(spec: ModelSpec, models: Models) -> tuple[str, ...]:
    """Return which of the fields that decide how a reply is drawn `spec` is asked with."""
    if spec.provider != "openai":
        return _SAMPLING
    from harness.models.endpoint import choice_of

    names = choice_of(spec).names(models.refused(spec))
    return tuple(name for name in _SAMPLING if name in names)


def _with(names: tuple[str, ...]) -> str:
    missing = [name for name in _SAMPLING if name not in names]
    return f"without {_listed(missing)}" if missing else f"with {_listed(_SAMPLING)}"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)
