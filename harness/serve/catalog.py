"""The names that clients use, and the models on this machine that answer to them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.arms import model_spec, planned_arms, with_artefact
from harness.config import DEFAULT_BASE, Settings
from harness.records import EvidenceError, HarnessError, ModelSpec
from harness.serve.wire import ORGANIZATION, Wire

_PROVIDERS = ("bundled", "local")
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Served:
    """A model under the name that clients use; a `base` can be trained."""

    name: str
    spec: ModelSpec
    created: int
    base: bool = True

    @property
    def wire(self) -> Wire:
        """The model as the protocol shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": ORGANIZATION,
        }


def bases(aliases: Sequence[str], settings: Settings, root: Path, created: int) -> list[Served]:
    """Return the models of the options `--alias NAME=SPEC`; without any, the bundled one.

    SPEC is `bundled:NAME`, `local:PATH-OR-HUB-ID` or a table of `tool.harness.models`.

    Raises:
        HarnessError: an alias is wrong, or its model cannot answer here.

    """
    found = {}
    for alias in aliases or [f"{DEFAULT_BASE}={DEFAULT_BASE}"]:
        name, _, reference = alias.partition("=")
        _refuse_bad_name(name, alias)
        if name in found:
            raise HarnessError(f"--alias {alias}: the name {name!r} is given twice")
        found[name] = Served(name, _local_spec(name, reference, settings, root), created)
    return list(found.values())


def _refuse_bad_name(name: str, alias: str) -> None:
    plain = all(not unicodedata.category(character).startswith(("C", "Z")) for character in name)
    if not name or not plain or len(name) > _LONGEST_NAME:
        raise HarnessError(
            f"--alias {alias!r}: write NAME=SPEC, such as gpt-4o-mini-2024-07-18=bundled:pocket"
        )


def _local_spec(name: str, reference: str, settings: Settings, root: Path) -> ModelSpec:
    from harness.models.weights import quantization_of, source_of

    key = f"--alias {name}"
    try:
        spec = model_spec(reference, name, settings, root, key)
    except HarnessError as problem:
        raise HarnessError(str(problem).removeprefix("pyproject.toml: ")) from None
    if spec.provider not in _PROVIDERS:
        raise HarnessError(
            f"{key}: {spec.spec} is no model on this machine; name one as bundled:pocket, "
            "local:PATH or local:HUB-ID"
        )
    source_of(spec)
    quantization_of(spec)
    if "tools" in spec.options:
        raise HarnessError(
            f"{key}: the table of {reference!r} has tools, and calls are not served; "
            "name a table without"
        )
    return spec


def candidates(settings: Settings, root: Path, created: int) -> list[Served]:
    """Return the candidates of the project that are trained already, under their names."""
    import trainers
    from harness.preparation import Plan

    found = []
    for planned in planned_arms(settings.model_copy(update={"baseline": None}), root)[1:]:
        if planned.recipe is None or planned.recipe.trainer == "openai":
            continue
        plan = Plan(settings, root, (planned,), ())
        try:
            made = trainers.find(plan.recipes[planned.arm.name], plan.home)
        except (HarnessError, EvidenceError):
            continue  # it is none that could answer; `harness train` says why
        if made:
            arm = with_artefact(planned.arm, made)
            found.append(Served(arm.name, arm.spec, created, base=False))
    return found
