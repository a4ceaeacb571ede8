"""What a run says about how its models were asked and what their replies hold, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from harness.records import Arm, Usage

_THINKING = {
    "strip": 'it is not part of the answers that are scored (thinking = "keep" in its table '
    "scores it too)",
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
