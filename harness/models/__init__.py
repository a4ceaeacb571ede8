"""One protocol, one file per provider; a provider's libraries are imported when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from harness.data.messages import quoted
from harness.models.refusals import NOTHING, Refusals, Refused
from harness.records import HarnessError, ModelSpec, Reply, Request

_MODULES = {
    "bundled": "harness.models.local",
    "local": "harness.models.local",
    "openai": "harness.models.chat",
    "python": "harness.models.python",
    "replay": "harness.models.replay",
}
"""Provider -> the module with its `Provider`."""


_Bare = tuple[str, str, Path | None, str | None, str, int]
"""What tells models apart beside their prompts."""


class Provider(Protocol):
    """What one file of this package implements, as a class named `Provider`.

    `options` are the keys of a model's table that it understands, `in_flight` is how many calls
    have left and are not done with.
    """

    options: frozenset[str]

    @property
    def in_flight(self) -> int: ...  # noqa: D102

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return what, beside the prompt, decides the replies of `spec`, as JSON; cheap.

        Raises:
            HarnessError: there is no such model.

        """

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield replies by their requests' keys, as they come.

        A batch is of one model and answered together where the provider can; what fails is a
        reply with an `error`.

        Raises:
            HarnessError: a model cannot be asked at all.
            EvidenceError: a trained artefact is not what it should be.

        """

    def close(self) -> None:
        """Let go of models, connections and threads."""


class Models:
    """The models of one process: remembers identities, keeps what is dear to load or open.

    `refusals` is what their services were found to refuse.
    """

    def __init__(self) -> None:
        self.refusals = Refusals()
        self._providers: dict[str, Provider] = {}
        self._identities: dict[_Bare, tuple[ModelSpec, dict[str, Any]]] = {}
        self._adapted: dict[tuple[_Bare, Refused], dict[str, Any]] = {}
        self._longest: dict[tuple[object, ...], int | None] = {}

    def identity(self, spec: ModelSpec) -> Mapping[str, Any]:
        """Return what, beside the prompt, decides the replies of `spec`; read once per model.

        Raises:
            HarnessError: the provider, one of its options or the model is unknown.

        """
        bare = _bare(spec)
        if bare not in self._identities:
            provider = self._provider(spec)
            _refuse_options(spec, provider.options)
            # The model is kept too: the id of its options must not become another's.
            self._identities[bare] = spec, provider.identity(spec)
        return self._identities[bare][1]

    def identity_as_sent(self, spec: ModelSpec) -> Mapping[str, Any]:
        """Return the identity of `spec` without what its service was found to refuse.

        Raises:
            HarnessError: see `identity`.

        """
        known = self.identity(spec)
        refused = self.refused(spec)
        if not refused:
            return known
        from harness.models import endpoint

        bare = _bare(spec)
        if (bare, refused) not in self._adapted:
            self._adapted[bare, refused] = endpoint.identity_of(spec, refused)
        return self._adapted[bare, refused]

    def refused(self, spec: ModelSpec) -> Refused:
        """Return what the service of `spec` was found to refuse."""
        if not self.refusals or spec.provider != "openai":
            return NOTHING
        from harness.models import endpoint

        return self.refusals.of(endpoint.place_of(spec))

    def longest(self, spec: ModelSpec) -> int | None:
        """Return how many tokens a reply of `spec` may have; None where nothing limits it.

        Raises:
            HarnessError: a key of the model's table is wrong.

        """
        if spec.provider != "openai":
            return spec.sampling.max_tokens
        bare = (spec.sampling.max_tokens, *_bare(spec))
        if bare not in self._longest:
            from harness.models import endpoint

            self.identity(spec)  # keeps the table, whose id is part of `bare`
            self._longest[bare] = endpoint.longest_of(spec)
        return self._longest[bare]

    def ask(self, batches: Iterable[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield replies by key as they come; all `batches` are of one provider.

        Raises:
            HarnessError, EvidenceError: see `Provider.ask`.

        """
        filled = [list(batch) for batch in batches if batch]
        if filled:
            yield from self._provider(filled[0][0].model).ask(filled)

    @property
    def in_flight(self) -> int:
        """How many calls have left and are not done with."""
        return sum(provider.in_flight for provider in self._providers.values())

    def close(self) -> None:
        """Let go of everything that was loaded or opened."""
        for provider in self._providers.values():
            provider.close()
        self._providers.clear()

    def _provider(self, spec: ModelSpec) -> Provider:
        if spec.provider not in _MODULES:
            raise HarnessError(
                f"the model {spec.name!r} is {spec.spec!r}, and there is no provider "
                f"{spec.provider!r}; use one of {', '.join(sorted(_MODULES))}"
            )
        module = _MODULES[spec.provider]
        if module not in self._providers:
            made = import_module(module).Provider
            self._providers[module] = made(self.refusals) if spec.provider == "openai" else made()
        return self._providers[module]


def _bare(spec: ModelSpec) -> _Bare:
    where = (spec.provider, spec.target, spec.adapter, spec.revision)
    return (*where, spec.thinking, id(spec.options))


def _refuse_options(spec: ModelSpec, known: frozenset[str]) -> None:
    for option in spec.options:
        if option not in known:
            raise HarnessError(
                f"the model {spec.name!r} ({spec.spec}) has no option {quoted(option)}; "
                f"{spec.provider} models take {', '.join(sorted(known)) or 'none'}"
            )
