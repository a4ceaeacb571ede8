"""The recipe of a hosted training: what a service is asked to train, and on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.endpoint import identity_of
from harness.records import HarnessError, ModelSpec, digest_of
from trainers.hosted_data import HostedData, load_examples
from trainers.recipe import Mix

if TYPE_CHECKING:
    from harness.config import CandidateSettings

HOSTED_VERSION = 1
"""Raise it when the same recipe asks for another model."""

DEADLINE_H = 24.0
MANY_EPOCHS = 10
MULTIPLIERS = (0.02, 2.0)
"""The band of learning-rate multipliers that practitioners' guides use."""


@dataclass(frozen=True)
class HostedRecipe:
    """What a service is asked to train, fully resolved; see `resolve_hosted`.

    `base` is the model to start from with its endpoint; None is a choice that the service makes
    ("auto"). `dialect` is the field of a request that holds the hyperparameters, `checkpoint` the
    step whose model is taken instead of the last, `deadline_s` the seconds from the job's creation
    after which nobody waits for it, `tokenizer` a local model whose tokenizer counts the tokens.
    """

    name: str
    base: ModelSpec
    root: Path
    train: Path
    validation: Path | None
    mix: Mix | None
    behaviour: str | None
    method: str
    seed: int
    epochs: int | None
    batch_size: int | None
    learning_rate_multiplier: float | None
    beta: float | None
    suffix: str
    checkpoint: int | None
    deadline_s: float
    tokenizer: str | None
    endpoint: Mapping[str, Any]
    rows: int
    general_rows: int
    digests: dict[str, str]
    dialect: str = "method"
    trainer: str = "openai"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters as the protocol names them.

        What the service chooses is "auto"; services of the older dialect do so where it is missing.
        """
        found = {
            "n_epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            **({"beta": self.beta} if self.method == "dpo" else {}),
        }
        if self.dialect == "hyperparameters":
            return {key: value for key, value in found.items() if value is not None}
        return {key: "auto" if value is None else value for key, value in found.items()}

    @property
    def method_fields(self) -> dict[str, Any]:
        """The fields of a request that say how to train."""
        if self.dialect == "hyperparameters":
            return {"hyperparameters": self.hyperparameters}
        method = {"type": self.method, self.method: {"hyperparameters": self.hyperparameters}}
        return {"method": method}

    @property
    def job_fingerprint(self) -> str:
        """16 hex digits that name the job: what it trains, on which data, where.

        Names, paths, the suffix and the checkpoint do not count.
        """
        share = self.mix.share if self.mix else 0
        dialect = [] if self.dialect == "method" else [self.dialect]
        asked = [self.method, self.hyperparameters, self.seed, share, *dialect]
        return digest_of([HOSTED_VERSION, asked, self.digests, dict(self.endpoint)])[:16]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the model: the job's, or those of one of its checkpoints."""
        if self.checkpoint is None:
            return self.job_fingerprint
        return digest_of([self.job_fingerprint, self.checkpoint])[:16]

    @property
    def warnings(self) -> Iterator[str]:
        """Yield what practitioners' guides advise against."""
        if self.epochs is not None and self.epochs >= MANY_EPOCHS:
            yield (
                f"{self.name}: {self.epochs} epochs overfit most data; start with 2 to 4, or 'auto'"
            )
        multiplier = self.learning_rate_multiplier
        if self.dialect == "hyperparameters":
            return  # there it may be the rate itself
        if multiplier is not None and not MULTIPLIERS[0] <= multiplier <= MULTIPLIERS[1]:
            yield (
                f"{self.name}: a learning_rate_multiplier of {multiplier:g} is outside of "
                f"{MULTIPLIERS[0]:g} to {MULTIPLIERS[1]:g}; start with 'auto'"
            )

    def data(self) -> HostedData:
        """Return the examples.

        Raises:
            HarnessError: they are wrong, or no longer those that the recipe was resolved with.

        """
        data = load_examples(
            self.method, self.train, self.validation, self.mix, self.seed, self.root
        )
        if data.digests != self.digests:
            raise HarnessError(f"{self.train}: the training data changed meanwhile; run again")
        return data


def resolve_hosted(
    name: str, settings: CandidateSettings, base: ModelSpec, root: Path
) -> HostedRecipe:
    """Return the recipe of the hosted candidate `name`, which starts from `base`.

    Paths in `settings` are relative to `root`.

    Raises:
        HarnessError: the settings, the endpoint or the data are wrong.

    """
    train = root / str(settings.train)
    validation = root / settings.validation if settings.validation else None
    mix = Mix(root / settings.mix.path, settings.mix.share) if settings.mix else None
    method = settings.method or "supervised"
    data = load_examples(method, train, validation, mix, settings.seed, root)
    identity = identity_of(base)
    place = {k: identity[k] for k in identity.keys() & {"base_url", "model", "api_version"}}
    return HostedRecipe(
        name=name,
        base=base,
        root=root,
        train=train,
        validation=validation,
        mix=mix,
        behaviour=settings.behaviour,
        method=method,
        seed=settings.seed,
        epochs=None if settings.epochs is None else int(settings.epochs),
        batch_size=settings.batch_size,
        learning_rate_multiplier=settings.learning_rate_multiplier,
        beta=settings.beta,
        suffix=settings.suffix or name,
        checkpoint=settings.checkpoint,
        deadline_s=3600 * (settings.deadline_h or DEADLINE_H),
        tokenizer=settings.tokenizer,
        endpoint=place,
        rows=len(data.learned),
        general_rows=len(data.general),
        digests=data.digests,
        dialect=settings.dialect or "method",
    )
