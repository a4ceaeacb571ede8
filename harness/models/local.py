"""`bundled:NAME` and `local:PATH-OR-HUB-ID`: models on this machine, asked in batches.

torch is imported when a request is not in the cache, never to tell a model's identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.chat_template import prompting_of, template_settings
from harness.models import weights
from harness.records import HarnessError, ModelSpec, Reply, Request

if TYPE_CHECKING:
    from harness.models.loaded import Home, Loaded


_PROMPT_OPTIONS = ("chat_template_kwargs", "tools")


class Provider:
    """Keeps one base loaded, with all adapters on it; see `harness.models.Provider`.

    Options: `quantization`, `none` or `nf4` (4 bits with double quantization);
    `chat_template_kwargs`, a table of variables for the chat template; `tools`, a list that takes
    the place of the cases'.
    """

    options = frozenset({"quantization", *_PROMPT_OPTIONS})
    in_flight = 0  # batches are answered while the caller waits

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the digests of weights and adapter, the quantization and the kernel.

        What a table gives to the chat template is there too.
        """
        _refuse_bad_options(spec)
        source, quantization = weights.source_of(spec), weights.quantization_of(spec)
        return {
            "weights": weights.digest_of_source(source),
            "revision": spec.revision,
            "adapter": weights.adapter_digest(spec),
            "quantization": quantization,
            "kernel": weights.kernel(quantization),
            **template_settings(prompting_of(spec)),
        }

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield replies as they end; models on one base one after the other, on one load of it."""
        from harness.models.loaded import home_of

        homes: dict[Home, list[Sequence[Request]]] = {}
        for batch in batches:
            homes.setdefault(home_of(batch[0].model), []).append(batch)
        for home, own in homes.items():
            loaded = self._load(home, [batch[0].model for batch in own])
            for adapter, alike in _by_adapter(own).items():
                yield from loaded.answers(adapter, alike)

    def close(self) -> None:
        """Let go of the loaded base and its adapters."""
        if self._loaded:
            self._loaded.close()
            self._loaded = None

    def _load(self, home: Home, specs: Sequence[ModelSpec]) -> Loaded:
        from harness.models.loaded import Loaded

        adapters = list(dict.fromkeys(spec.adapter for spec in specs if spec.adapter))
        if self._loaded is None or not self._loaded.serves(home, adapters):
            self.close()
            self._loaded = Loaded(home, adapters)
        return self._loaded


def _refuse_bad_options(spec: ModelSpec) -> None:
    try:
        template_settings(spec.options)
    except ValueError as problem:
        raise HarnessError(f"the model {spec.name!r} ({spec.spec}): {problem}") from None


def _by_adapter(
    batches: Sequence[Sequence[Request]],
) -> dict[Path | None, list[Sequence[Request]]]:
    found: dict[Path | None, list[Sequence[Request]]] = {}
    for batch in batches:
        found.setdefault(batch[0].model.adapter, []).append(batch)
    return found
