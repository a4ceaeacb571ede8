"""A recipe: everything that decides what a training makes, resolved to plain numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.chat_template import template_settings
from harness.data.jsonl import Row, read_rows
from harness.data.messages import calls_of
from harness.model_folder import templates_of
from harness.records import HarnessError, canonical_json, digest_of
from trainers.base import SMALL_VOCABULARY, Base, find_base

if TYPE_CHECKING:
    from harness.config import CandidateSettings

TRAINER_VERSION = 1
"""Raise it when the same recipe makes another model: every candidate is then trained anew."""

EFFECTIVE_BATCH = 16
"""Rows per optimiser step."""

_CALLS = 1
"""Raise it when the same calls of tools make another model."""

_HYPERPARAMETERS = (
    "trainer",
    "seed",
    "epochs",
    "learning_rate",
    "rank",
    "alpha",
    "dropout",
    "batch_size",
    "accumulation",
    "length",
    "train_embeddings",
    "weight_decay",
    "warmup",
)
_ADAPTER_ONLY = ("rank", "alpha", "dropout", "train_embeddings")


@dataclass(frozen=True)
class Mix:
    """General rows mixed in: `share` in (0, 1) of the final training set, as far as they go."""

    path: Path
    share: float


@dataclass(frozen=True)
class Data:
    """The rows of a recipe: its own, those mixed in, those of the validation loss.

    `weightless` counts the rows to learn whose last answer has weight 0: they are not among these.
    """

    train: tuple[Row, ...]
    general: tuple[Row, ...]
    validation: tuple[Row, ...]
    weightless: int = 0

    @property
    def unlearnt(self) -> int:
        """How many answers before the last of a row no row ends with: they are not learnt."""
        begun = [(row, _beginnings(row)) for row in (*self.train, *self.general)]
        ends = {beginnings[-1] for _, beginnings in begun}
        return sum(
            beginnings[turn] not in ends for row, beginnings in begun for turn in row.learned
        )

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the rows of each kind; ids, tags and paths do not count."""
        return {
            "train": _rows_digest(self.train),
            "general": _rows_digest(self.general),
            "validation": _rows_digest(self.validation),
        }


@dataclass(frozen=True)
class Recipe:
    """How to train one candidate, fully resolved; see `resolve`.

    `batch_size` is per device; `batch_size` times `accumulation` rows make an optimiser step.
    `length` counts tokens, `warmup` is a share of the steps; after it the rate falls as a cosine.
    `env` names environment variables with secrets that the training gets all the same. `prompting`
    is what the table of the base gives to its chat template: the candidate is asked with it, so it
    learns with it. For full fine-tuning `rank`, `alpha` and `dropout` are 0.
    """

    name: str
    trainer: str
    base: Base
    root: Path
    train: Path
    validation: Path | None
    mix: Mix | None
    behaviour: str | None
    seed: int
    epochs: float
    learning_rate: float
    rank: int
    alpha: int
    dropout: float
    batch_size: int
    accumulation: int
    length: int
    train_embeddings: bool
    weight_decay: float
    warmup: float
    rows: int
    general_rows: int
    digests: dict[str, str]
    env: tuple[str, ...] = ()
    prompting: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Planned optimiser steps."""
        per_epoch = math.ceil(self.rows / (self.batch_size * self.accumulation))
        return max(1, math.ceil(self.epochs * per_epoch))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The numbers of the training, without names, paths and data."""
        return {name: getattr(self, name) for name in _HYPERPARAMETERS}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the model this recipe makes.

        They depend on the hyperparameters, the content of the data and of the base's weights, and
        `TRAINER_VERSION`; never on names, paths or devices.
        """
        share = self.mix.share if self.mix else 0
        parts = [TRAINER_VERSION, self.hyperparameters, share, self.digests, self.base.digest]
        prompting = [self.prompting] if self.prompting else []
        return digest_of([*parts, *prompting])[:16]

    def data(self) -> Data:
        """Return the rows.

        Raises:
            HarnessError: they are wrong, or no longer those that the recipe was resolved with.

        """
        data = learnable(load_data(self.train, self.validation, self.mix, self.seed, self.root))
        if data.digests != self.digests:
            raise HarnessError(f"{self.train}: the training data changed meanwhile; run again")
        return data

    def to_json(self) -> str:
        """Return the recipe as JSON text."""
        return json.dumps(asdict(self), default=str, indent=1)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Return the recipe that `to_json` wrote."""
        values = json.loads(text)
        mix = values.pop("mix")
        return Recipe(
            base=Base(**values.pop("base")),
            root=Path(values.pop("root")),
            train=Path(values.pop("train")),
            validation=_path(values.pop("validation")),
            env=tuple(values.pop("env", ())),
            mix=Mix(Path(mix["path"]), mix["share"]) if mix else None,
            **values,
        )


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def resolve(
    name: str,
    settings: CandidateSettings,
    base: str,
    root: Path,
    revision: str | None = None,
    prompting: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the recipe of the candidate `name`, choosing what `settings` leaves open.

    `base` is the model spec to start from, at `revision` of its hub repository, unless
    `settings.base` names another; `prompting` are the options of its table. Paths are relative to
    `root`. The choices are those of
    practitioners' guides, by the number of rows; a small base takes a higher rate, and trains its
    embeddings where its vocabulary is small.

    Raises:
        HarnessError: the settings, the base or the data are wrong.

    """
    _refuse_contradictions(name, settings)
    start = find_base(settings.base or base, root, revision)
    train = root / _named(settings.train)
    validation = root / settings.validation if settings.validation else None
    mix = Mix(root / settings.mix.path, settings.mix.share) if settings.mix else None
    data = learnable(load_data(train, validation, mix, settings.seed, root))
    _refuse_untold(data, start)
    rows = len(data.train) + len(data.general)
    full = settings.trainer == "full"
    batch_size = settings.batch_size or (EFFECTIVE_BATCH if start.small else 4)
    rank = 0 if full else settings.rank or rank_for(rows)
    return Recipe(
        name=name,
        trainer=str(settings.trainer),
        base=start,
        root=root,
        train=train,
        validation=validation,
        mix=mix,
        behaviour=settings.behaviour,
        seed=settings.seed,
        epochs=float(settings.epochs or (3 if rows <= 5_000 else 2)),
        learning_rate=settings.learning_rate or _learning_rate(full=full, small=start.small),
        rank=rank,
        alpha=settings.alpha or 2 * rank,
        dropout=_chosen(settings.dropout, 0.0 if full else 0.05),
        batch_size=batch_size,
        accumulation=math.ceil(EFFECTIVE_BATCH / batch_size),
        length=settings.length or 2_048,
        train_embeddings=_embeddings(settings, start),
        weight_decay=0.01 if full else 0.0,
        warmup=0.1,
        rows=rows,
        general_rows=len(data.general),
        digests=data.digests,
        env=settings.env or (),
        prompting=_prompting(base, prompting or {}),
    )


def _refuse_untold(data: Data, base: Base) -> None:
    """Refuse rows with tools where no template of the base speaks of any; the rest shows later."""
    templates = "" if base.on_hub else templates_of(Path(base.source))
    if not templates:
        return
    for row in (*data.train, *data.general, *data.validation):
        called = any(map(calls_of, row.messages))
        for said, used, words in (
            ("tools", row.tools, ("tools",)),
            ("calls of tools", called, ("tool_calls", "tojson")),
        ):
            if used and not any(word in templates for word in words):
                raise HarnessError(
                    f"{row.source}: the chat template of the base {base.spec!r} has no place for "
                    f"{said}; remove the row, or start from a base whose template has"
                )


def _prompting(base: str, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return template_settings(options)
    except ValueError as problem:
        raise HarnessError(f"the base {base!r}: {problem}") from None


def _refuse_contradictions(name: str, settings: CandidateSettings) -> None:
    given = [key for key in _ADAPTER_ONLY if getattr(settings, key) is not None]
    if settings.trainer == "full" and given:
        raise HarnessError(
            f"pyproject.toml: tool.harness.candidates.{name}.{given[0]}: full fine-tuning "
            "has no adapter; drop the key, or use trainer = 'qlora'"
        )


def _named(path: str | None) -> str:
    if path is None:
        raise HarnessError("a candidate that is trained needs `train`, a JSONL file")
    return path


def _chosen(given: float | None, automatic: float) -> float:
    return automatic if given is None else given


def rank_for(rows: int) -> int:
    """Return the rank of an adapter that learns from so many rows."""
    if rows < 200:
        return 8
    if rows <= 1_000:
        return 16
    return 32 if rows <= 5_000 else 64


def _learning_rate(*, full: bool, small: bool) -> float:
    if full:
        return 5e-4 if small else 2e-5
    return 2e-3 if small else 2e-4


def _embeddings(settings: CandidateSettings, base: Base) -> bool:
    if settings.trainer == "full":
        return False
    if settings.train_embeddings is not None:
        return settings.train_embeddings
    return base.vocabulary is not None and base.vocabulary <= SMALL_VOCABULARY


def load_data(train: Path, validation: Path | None, mix: Mix | None, seed: int, root: Path) -> Data:
    """Return the rows of a recipe from its files; each ends in the answer to learn.

    Raises:
        HarnessError: a file or a row is wrong.

    """
    rows = _answered(train, root)
    return Data(
        train=rows,
        general=_sample(_answered(mix.path, root), mix.share, len(rows), seed) if mix else (),
        validation=_answered(validation, root) if validation else (),
    )


def _answered(path: Path, root: Path) -> tuple[Row, ...]:
    rows = tuple(read_rows(path, root))
    for row in rows:
        if row.messages[-1]["role"] != "assistant":
            raise HarnessError(
                f"{row.source}: the last message is no assistant's; add the answer to learn"
            )
    return rows


def _sample(rows: Sequence[Row], share: float, own: int, seed: int) -> tuple[Row, ...]:
    wanted = round(own * share / (1 - share))
    return tuple(random.Random(seed).sample(rows, min(wanted, len(rows))))


def learnable(data: Data) -> Data:
    """Return the rows of `data` without those whose last answer has weight 0.

    Raises:
        HarnessError: there are no others.

    """
    train, general, validation = map(_weighted, (data.train, data.general, data.validation))
    if not train:
        raise HarnessError(
            f"{data.train[0].source}: all last answers have weight 0, and a local trainer learns "
            "the last answer of a row; give some weight 1, or leave the key out"
        )
    left_out = len(data.train) + len(data.general) - len(train) - len(general)
    return Data(train, general, validation, left_out)


def _weighted(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(row for row in rows if len(row.messages) - 1 in row.learned)


def _beginnings(row: Row) -> list[str]:
    """Return a digest for each message of a row: of everything up to it."""
    digest, found = sha256(), []
    for message in row.messages:
        digest.update(canonical_json({**message, "weight": 1}).encode("utf-8", "surrogatepass"))
        found.append(digest.hexdigest())
    return found


def _rows_digest(rows: Sequence[Row]) -> str:
    return digest_of([_row_parts(row) for row in rows])


def _row_parts(row: Row) -> list[Any]:
    # Calls were once learnt as the text "None": what was made so is made anew.
    called = any(map(calls_of, row.messages))
    return [list(row.messages), list(row.tools), *([_CALLS] if called else [])]
