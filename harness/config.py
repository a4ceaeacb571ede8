"""`[tool.harness]` of the user's `pyproject.toml` -> typed settings.

Every mistake is one sentence with the path of the key.
"""

from __future__ import annotations

import math
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from harness.files import read_file
from harness.prices import Price, Prices
from harness.records import DEEPEST, RULES, WOULD_SHIP, HarnessError, Rule

DEFAULT_BASE = "bundled:pocket"
PYPROJECT = "pyproject.toml"

Probability = Annotated[float, Field(gt=0, lt=1)]


def _path(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("a path holds no control characters; remove them")
    return value


PathText = Annotated[str, AfterValidator(_path)]
"""A path, relative to the project's root where it is not absolute."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Table):
    """`[tool.harness.models.NAME]`: a model with its prompt and how it is asked.

    `model` is `provider:target`, `adapter` the folder of a trained adapter on top of it; keys
    that are not named here belong to the provider.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    adapter: PathText | None = None
    system: str | None = None
    template: str | None = None
    few_shot: PathText | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    revision: str | None = None
    thinking: Literal["strip", "keep", "off"] = "strip"


class JudgeSettings(ModelSettings):
    """`[tool.harness.judges.NAME]`: a model that judges replies.

    Its `system` stands behind the instructions that all judges get; it is asked at temperature 0.
    """

    max_tokens: Annotated[int, Field(ge=1)] | None = 1024

    @model_validator(mode="after")
    def _judges(self) -> JudgeSettings:
        if refused := self.model_fields_set & {"template", "few_shot", "shots"}:
            raise ValueError(f"what a judge is asked is fixed; drop {', '.join(sorted(refused))}")
        if self.temperature:
            raise ValueError("judges are asked at temperature 0; drop temperature")
        if self.model.startswith("replay:"):
            raise ValueError("a recording cannot judge; name a model")
        return self


class MixSettings(_Table):
    """General rows mixed into the training data, as a share of the whole."""

    path: PathText
    share: Annotated[float, Field(gt=0, lt=1)]


def _automatic(value: object) -> object:
    return None if value == "auto" else value


Automatic = BeforeValidator(_automatic)
"""`"auto"`, as the hosted services have it, means what leaving the key out means."""

_LOCAL_ONLY = ("learning_rate", "rank", "alpha", "dropout", "length", "train_embeddings", "env")
_HOSTED_ONLY = (
    "learning_rate_multiplier",
    "suffix",
    "method",
    "beta",
    "checkpoint",
    "deadline_h",
    "dialect",
    "tokenizer",
)


class CandidateSettings(_Table):
    """`[tool.harness.candidates.NAME]`: a recipe, or (`model`) an existing model.

    What is None is chosen by `trainers.recipe`, or by the service where the trainer is `openai`.
    `env` names the environment variables with secrets that a training gets.
    """

    model: str | None = None
    trainer: Literal["qlora", "lora", "full", "openai"] | None = None
    base: str | None = None
    train: PathText | None = None
    validation: PathText | None = None
    mix: MixSettings | None = None
    behaviour: str | None = None
    seed: int = 0
    epochs: Annotated[float | None, Field(gt=0, le=100), Automatic] = None
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    alpha: Annotated[int, Field(ge=1)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    batch_size: Annotated[int | None, Field(ge=1), Automatic] = None
    length: Annotated[int, Field(ge=16)] | None = None
    train_embeddings: bool | None = None
    env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] | None = None
    learning_rate_multiplier: Annotated[float | None, Field(gt=0), Automatic] = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    method: Literal["supervised", "dpo"] | None = None
    beta: Annotated[float | None, Field(gt=0, le=2), Automatic] = None
    checkpoint: Annotated[int, Field(ge=1)] | None = None
    deadline_h: Annotated[float, Field(gt=0)] | None = None
    dialect: Literal["method", "hyperparameters"] | None = None
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> CandidateSettings:
        recipe = self.model_fields_set - {"model"}
        if self.model is not None and recipe:
            raise ValueError(f"`model` names an existing model; drop {', '.join(sorted(recipe))}")
        if self.model is None and (self.trainer is None or self.train is None):
            raise ValueError("a candidate needs `trainer` and `train`, or `model`")
        return self

    @model_validator(mode="after")
    def _fitting_keys(self) -> CandidateSettings:
        hosted = self.trainer == "openai"
        foreign = self.model_fields_set.intersection(_LOCAL_ONLY if hosted else _HOSTED_ONLY)
        if self.trainer and foreign:
            key = sorted(foreign)[0]
            whose = "a service does not take" if hosted else "only trainer = 'openai' takes"
            raise ValueError(f"{whose} `{key}`; drop the key, or choose another trainer")
        if self.beta is not None and self.method != "dpo":
            raise ValueError("`beta` belongs to method = 'dpo'; drop the key, or set the method")
        if self.mix and self.method == "dpo":
            raise ValueError("method = 'dpo' learns from pairs, which `mix` has none of; drop it")
        if self.method == "dpo" and self.dialect == "hyperparameters":
            raise ValueError(
                "dialect = 'hyperparameters' knows no method = 'dpo'; drop one of them"
            )
        if hosted and self.epochs is not None and self.epochs != int(self.epochs):
            raise ValueError("a service takes whole `epochs`; write 1, 2, ... or 'auto'")
        return self


class RuleSettings(_Table):
    """A gate: exactly one of the six rules, in the metric's own unit.

    `candidate` and `tag` narrow it to one candidate and to the cases with a tag.
    """

    at_least: float | None = None
    at_most: float | None = None
    better_by: Annotated[float, Field(ge=0)] | None = None
    margin: Annotated[float, Field(ge=0)] | None = None
    max_regressions: Annotated[int, Field(ge=0)] | None = None
    max_would_not_ship: Annotated[int, Field(ge=0)] | None = None
    candidate: str | None = None
    tag: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> RuleSettings:
        if len(self.model_fields_set.intersection(RULES)) != 1:
            raise ValueError(f"a gate is exactly one of {', '.join(RULES)}")
        if self.max_would_not_ship is not None and self.tag is not None:
            raise ValueError("max_would_not_ship counts all votes; drop `tag`")
        return self


class PriceSettings(_Table):
    """What a model charges, in US dollars per million tokens.

    `cached` are those of the prompt, `training` those that it is trained on, in every epoch.
    """

    input: Annotated[float, Field(ge=0, le=100_000)]
    output: Annotated[float, Field(ge=0, le=100_000)]
    cached: Annotated[float, Field(ge=0, le=100_000)] | None = None
    training: Annotated[float, Field(ge=0, le=100_000)] | None = None


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else value


RuleTables = Annotated[tuple[RuleSettings, ...], BeforeValidator(_listed), Field(min_length=1)]
"""The rules under one key: a table, or a list of them."""


def _model_reference(value: str) -> str:
    if not re.fullmatch(r"[a-z]+:.+", value):
        raise ValueError("a price belongs to a model as provider:name, such as 'openai:NAME'")
    return value


def _votes_on_their_metric(gates: dict[str, Any]) -> dict[str, Any]:
    for key, tables in gates.items():
        if key.rpartition(".")[2] != WOULD_SHIP and any(
            table.max_would_not_ship is not None for table in tables
        ):
            raise ValueError(
                f"max_would_not_ship counts people's votes and not {key}; "
                f"write it under {WOULD_SHIP}, or under SUITE.{WOULD_SHIP}"
            )
    return gates


def _text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


class Settings(_Table):
    """`[tool.harness]` as a whole."""

    base: str = DEFAULT_BASE
    baseline: str | None = None
    candidates: dict[str, CandidateSettings] = {}
    models: dict[str, ModelSettings] = {}
    judges: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,60}$")], JudgeSettings] = {}
    gates: Annotated[dict[str, RuleTables], AfterValidator(_votes_on_their_metric)] = {}
    prices: dict[Annotated[str, AfterValidator(_model_reference)], PriceSettings] = {}
    mode: Literal["detect", "release"] = "detect"
    alpha: Probability = 0.05
    power: Probability = 0.8
    max_tokens: Annotated[int, Field(ge=1)] = 128
    store: Annotated[PathText, BeforeValidator(_text)] = ".harness"
    reports: Annotated[PathText, BeforeValidator(_text)] = "reports"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The gates as records."""
        listed = ((key, table) for key, tables in self.gates.items() for table in tables)
        return tuple(Rule(key=key, **table.model_dump()) for key, table in listed)

    @property
    def key_variables(self) -> frozenset[str]:
        """The environment variables that the tables of models and judges keep keys in."""
        tables = (*self.models.values(), *self.judges.values())
        named = ((table.model_extra or {}).get("api_key_env") for table in tables)
        return frozenset(name for name in named if isinstance(name, str))

    @property
    def price_table(self) -> Prices:
        """The prices of models, those of the settings first."""
        return Prices({key: Price(**table.model_dump()) for key, table in self.prices.items()})


def project_at_or_above(folder: Path) -> Path | None:
    """Return the nearest folder from `folder` up whose pyproject.toml has `[tool.harness]`.

    Raises:
        HarnessError: a pyproject.toml on the way cannot be read.

    """
    folders = (folder, *folder.parents)
    return next((place for place in folders if _harness_table(place) is not None), None)


def project_root(folder: Path, what: str) -> Path:
    """Return the project that `folder` belongs to; see `project_at_or_above`.

    Raises:
        HarnessError: there is none; the sentence begins with `what` needs it, and names every
            folder that was looked in.

    """
    if root := project_at_or_above(folder):
        return root
    looked = ", ".join(str(place) for place in (folder, *folder.parents))
    raise HarnessError(
        f"{what}: no pyproject.toml with a table [tool.harness] in any of {looked}; "
        "add the table to the pyproject.toml of the project (it may be empty), or change into it"
    )


def load(root: Path) -> Settings:
    """Return the settings in `root/pyproject.toml`; defaults where there are none.

    Raises:
        HarnessError: the file is no TOML, or a key is unknown or has a wrong value.

    """
    table = _harness_table(root)
    return parse({} if table is None else table)


def _harness_table(folder: Path) -> Any:
    """Return what `[tool.harness]` of the pyproject.toml in `folder` holds; None without it."""
    path = folder / PYPROJECT
    try:
        tool = tomllib.loads(read_file(path).decode("utf-8")).get("tool")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecursionError:
        raise HarnessError(f"{path}: it is nested too deeply; correct the file") from None
    except (OSError, ValueError) as problem:  # no TOML, no UTF-8, integers of 5,000 digits
        raise HarnessError(f"{path}: {problem}; correct the file and run again") from None
    return tool.get("harness") if isinstance(tool, dict) else None


def parse(table: Any) -> Settings:
    """Return the settings in `table`, the content of `[tool.harness]`.

    Raises:
        HarnessError: with every wrong key in one sentence.

    """
    if odd := "; ".join(_odd_values(table, _PREFIX)):
        raise HarnessError(odd)
    try:
        return Settings.model_validate(table)
    except ValidationError as problem:
        sentences = (_sentence(table, error) for error in problem.errors())
        raise HarnessError("; ".join(sentences)) from None


_PREFIX = f"{PYPROJECT}: tool.harness"


def _odd_values(value: object, path: str, depth: int = 0) -> Iterator[str]:
    """Say what TOML can hold and neither JSON nor a model can: also in tables that are free."""
    if depth > DEEPEST:
        yield f"{path}: it is nested more than {DEEPEST} levels deep"
    elif isinstance(value, date | time):
        yield f"{path}: must be a string, a number, true, false, a list or a table, not a date"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: must be a finite number, not {value}"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{path}: must be an integer of at most 64 bits"
    elif isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in inside:
            yield from _odd_values(child, f"{path}.{_shown_key(key)}", depth + 1)


def _sentence(table: Any, error: Any) -> str:
    path = ".".join([_PREFIX, *map(_shown_key, _keys(table, error["loc"]))])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such key; see the README's list of settings"
    return f"{path}: {message}"


def _shown_key(key: object) -> str:
    text = str(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys(table: Any, location: Sequence[str | int]) -> Iterator[str]:
    """The keys of `location` as the user wrote them: one rule is a list of one only inside."""
    for part in location:
        if isinstance(part, str) or isinstance(table, list):
            yield str(part)
            table = _inside(table, part)


def _inside(table: Any, part: str | int) -> Any:
    try:
        return table[part]
    except (LookupError, TypeError):
        return None
