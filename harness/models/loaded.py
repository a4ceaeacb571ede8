"""One base in memory with all the adapters that stand on it, probed and ready to answer."""

from __future__ import annotations

import gc
import logging
import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat_template import (
    ChatTemplate,
    TemplateRefusal,
    Tools,
    first_line,
    panics_as_errors,
    prompting_of,
    template_options,
    tokens_of,
    tools_of,
)
from harness.model_folder import refuse_endless, settings_of, tensors_of
from harness.models import decode, endless, tool_calls, weights
from harness.models.guide import NO_WISH, Following, Wish, guide_of
from harness.records import EvidenceError, HarnessError, ModelSpec, Reply, Request

LOGITS_TOLERANCE = 1e-3
_END: Any = object()
PROBE = "Order 48213 from Mara Lind: two lamps, one of them broken."


class PromptError(HarnessError):
    """A model cannot be asked these messages: its chat template fails on them."""


class PromptTooLong(PromptError):
    """A prompt leaves no room for a reply in the model's context."""


@dataclass(frozen=True, slots=True)
class Home:
    """What one loaded base can serve: all models with the same home share it.

    `alone` is an adapter that has to be the only one: of two adapters that tie the embeddings
    PEFT loads the second wrongly, without a word.
    """

    source: Path | str
    revision: str | None
    quantization: str
    alone: Path | None = None


def home_of(spec: ModelSpec) -> Home:
    """Return where `spec` is answered.

    Raises:
        HarnessError: there is no such model.
        EvidenceError: its adapter is damaged.

    """
    alone = spec.adapter if spec.adapter and _ties_embeddings(spec.adapter) else None
    return Home(weights.source_of(spec), spec.revision, weights.quantization_of(spec), alone)


def _ties_embeddings(adapter: Path) -> bool:
    try:
        config = settings_of(adapter / "adapter_config.json")
        return bool(config.get("ensure_weight_tying"))
    except (OSError, ValueError) as problem:
        raise _damaged(adapter, problem) from None


class Loaded:
    """A base with adapters; none is active for good after the batches of a model.

    Raises:
        HarnessError: the base cannot be loaded, or the extra `local` is not installed.
        EvidenceError: an adapter cannot be loaded, changes nothing, or disturbs its base.

    """

    def __init__(self, home: Home, adapters: Sequence[Path]) -> None:
        _import_libraries(offline=isinstance(home.source, Path), with_peft=bool(adapters))
        from harness.models import beginning

        self._home = home
        self._names = {path: f"adapter{index}" for index, path in enumerate(adapters)}
        with _quiet():
            self._tokenizer = load_tokenizer(home)
            self._model = _load_base(home)
            if adapters:
                self._add_adapters()
            beginning.enable(self._model)
        self._stop = _stop_tokens(self._model, self._tokenizer)
        self._context = context_of(self._model.config)
        self._too_large = math.inf
        self._joins = True
        self._reads_calls = False

    def serves(self, home: Home, adapters: Iterable[Path]) -> bool:
        """Whether all of `adapters` at `home` are here."""
        return home == self._home and all(path in self._names for path in adapters)

    def answers(
        self,
        adapter: Path | None,
        batches: Iterable[Sequence[Request] | None],
        wishes: Mapping[str, Wish] | None = None,
        usual: int = 0,
    ) -> Iterator[dict[str, Reply]]:
        """Yield replies by key as they end; all of `batches` are for the model with `adapter`.

        `wishes` are those of some requests, by key. A batch of None and `usual` as for
        `decode.Stream`.
        """
        given = {} if wishes is None else wishes  # it may grow while batches come
        asked: dict[decode.Row, Request] = {}
        refused: dict[str, Reply] = {}

        def rows_of(batch: Sequence[Request] | None) -> list[decode.Row] | None:
            if batch is None:
                return None
            rows = []
            for request in batch:
                row = self._row(request, given.get(request.key, NO_WISH))
                if isinstance(row, Reply):
                    refused[request.key] = row
                else:
                    asked[row] = request
                    rows.append(row)
            return rows

        with self._active(adapter):
            for ended in self._ended(map(rows_of, batches), usual):
                replies = [(asked.pop(one.row), one) for one in ended]
                yield {r.key: self._reply(r, one) for r, one in replies} | refused
                refused.clear()
        if refused:
            yield refused

    def close(self) -> None:
        """Free the memory."""
        del self._model, self._tokenizer
        _free()

    # ------------------------------------------------------------------ adapters

    def _add_adapters(self) -> None:
        # bitsandbytes packs 4-bit weights in the first forward, and what is loaded onto packed
        # weights is not exact: the probe before loading must leave them as they are.
        with _unpacked(self._model):
            alone = self._probe()
        self._load_adapters()
        with _unpacked(self._model):
            with self._active(None):
                base = self._probe()
            if not _alike(base, alone):
                raise EvidenceError(
                    f"{', '.join(map(str, self._names))}: with these adapters loaded the base no "
                    "longer answers as it does alone; train them again with one setting of "
                    "train_embeddings"
                )
            for path in self._names:
                with self._active(path):
                    _refuse_useless(path, self._probe(), base)

    def _load_adapters(self) -> None:
        from peft import PeftModel

        base, self._model = self._model, None
        for path, name in self._names.items():
            try:
                # Adapters stay in the precision of their base, as they were trained.
                with panics_as_errors():
                    if self._model is None:
                        self._model = PeftModel.from_pretrained(
                            base, path, adapter_name=name, autocast_adapter_dtype=False
                        )
                    else:
                        self._model.load_adapter(path, name, autocast_adapter_dtype=False)
            except Exception as problem:  # a damaged file can break anything in the libraries
                raise _damaged(path, problem) from None
        self._model.eval()

    def _probe(self) -> Any:
        import torch

        ids = self._tokenizer(PROBE, return_tensors="pt").input_ids.to(self._model.device)
        with torch.inference_mode():
            return self._model(input_ids=ids).logits.float()

    @contextmanager
    def _active(self, adapter: Path | None) -> Iterator[None]:
        if not self._names:
            yield
            return
        from harness.models.adapters import shortened

        with ExitStack() as stack:
            if adapter is None:
                stack.enter_context(self._model.disable_adapter())
                stack.enter_context(shortened(self._model, None))
            else:
                self._model.set_adapter(self._names[adapter], inference_mode=True)
                stack.enter_context(shortened(self._model, self._names[adapter]))
            yield

    # ------------------------------------------------------------------ rows

    def _row(self, request: Request, wish: Wish) -> decode.Row | Reply:
        sampling = request.model.sampling
        try:
            self._refuse_unreadable(request)
            tokens = wish.prompt or prompt_tokens(self._tokenizer, request)
            limit = int(min(sampling.max_tokens, room_behind(tokens, self._context)))
        except PromptError as problem:
            return Reply(error=str(problem))
        seed = int(request.key[:15], 16)
        guide = guide_of(self._tokenizer, wish, self._stop)
        return decode.Row(tokens, limit, sampling.temperature, seed, wish.top_p, guide)

    def _ended(
        self, batches: Iterator[Sequence[decode.Row] | None], usual: int
    ) -> Iterator[list[decode.Ended]]:
        """Yield the rows of `batches` as they end, without tokens where no memory holds one."""
        again: deque[Sequence[decode.Row]] = deque()
        while True:
            most = self._too_large if self._joins else 0
            parts = self._parts(again, batches)
            stream = decode.Stream(self._model, parts, self._stop, self._pad, most, usual)
            try:
                yield from stream
                return
            except (RuntimeError, MemoryError) as problem:
                if not _is_memory(problem):
                    raise
            # Outside of the handler: the exception holds on to the tensors.
            again.extendleft(filter(None, [stream.upcoming, stream.at_work]))
            begun = stream.begun
            del stream, parts
            _free()
            if len(begun) > 1:
                self._joins = False
            elif len(begun[0]) == 1:
                yield [decode.Ended(again.popleft()[0], None, 0.0)]
            else:
                self._too_large = min(self._too_large, decode.room(begun[0]))

    def _parts(
        self, again: deque[Sequence[decode.Row]], batches: Iterator[Sequence[decode.Row] | None]
    ) -> Iterator[Sequence[decode.Row] | None]:
        """Yield batches in parts that the memory can hold, as far as that is known.

        Halved by size alone, so that the candidates' rows begin in the company that the base's had.
        """
        for rows in iter(lambda: again.popleft() if again else next(batches, _END), _END):
            if rows and len(rows) > 1 and decode.room(rows) >= self._too_large:
                half = len(rows) // 2
                again.extendleft([rows[half:], rows[:half]])
            else:
                yield rows

    @property
    def _pad(self) -> int:
        return self._tokenizer.pad_token_id or 0

    def _reply(self, request: Request, ended: decode.Ended) -> Reply:
        row, tokens = ended.row, ended.tokens
        if tokens is None:
            return Reply(error=f"out of memory with a prompt of {len(row.tokens)} tokens")
        stopped = bool(tokens) and tokens[-1] in self._stop
        if isinstance(row.guide, Following):
            text, stopped = row.guide.finish(), stopped or row.guide.done
        else:
            text = decode.text_of(self._tokenizer, tokens[:-1] if stopped else tokens)
        calls: tuple[tool_calls.Call, ...] = ()
        if tools := _tools(request):
            text, calls = self._called(text, tokens[:-1] if stopped else tokens, request, tools)
        done = "tool_calls" if calls else "stop"
        return Reply(
            text=text,
            prompt_tokens=len(row.tokens),
            completion_tokens=len(tokens),
            latency_s=ended.seconds,
            finish_reason=done if stopped else "length",
            tool_calls=calls,
        )

    def _called(
        self, text: str, tokens: list[int], request: Request, tools: Tools
    ) -> tuple[str, tuple[tool_calls.Call, ...]]:
        """Return what is said beside the calls in a reply, and the calls.

        Their marks are special tokens in some vocabularies, which `text` is without.
        """
        whole = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        said, calls = self._read(whole, prompt_text(self._tokenizer, request), tools)
        if not calls:
            return text, ()
        for special in self._tokenizer.all_special_tokens:
            said = said.replace(special, "")
        return said.strip(), calls

    def _read(
        self, whole: str, prompt: str, tools: Tools
    ) -> tuple[str, tuple[tool_calls.Call, ...]]:
        """Read calls as the tokenizer describes them, else as the families that are known."""
        if getattr(self._tokenizer, "response_template", None):
            given = [dict(tool) for tool in tools]
            # What the folder describes need not fit to what the model wrote.
            with suppress(Exception):
                message = self._tokenizer.parse_response(whole, prefix=prompt, tools=given)
                said, calls = tool_calls.from_message(message)
                if calls:
                    return said, calls
        return tool_calls.read(whole, tools)

    def _refuse_unreadable(self, request: Request) -> None:
        """Raise PromptError if a call, as the template writes it, would not be read as one.

        Every model on this base would seem to call nothing.
        """
        tools = _tools(request)
        if not tools or self._reads_calls:
            return
        template = ChatTemplate(self._tokenizer, template_options(prompting_of(request.model)))
        try:
            prompt, answer = template.exchange(tool_calls.example(tools), tools)
        except TemplateRefusal:  # it writes none, and leaves it to the model how to
            return
        if not self._read(answer, prompt, tools)[1]:
            raise PromptError(
                "the calls of tools are written in a way that is not known here; "
                "describe it as response_template in the tokenizer's configuration"
            )
        self._reads_calls = True


def _tools(request: Request) -> Tools:
    return tools_of(request.model.options, request.case.tools if request.case else ())


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


# ---------------------------------------------------------------------- loading


def _import_libraries(*, offline: bool, with_peft: bool) -> None:
    if offline:
        # bitsandbytes, too, asks the hub when it is imported.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # It complains where the hub's faster kernels are missing; its own are meant here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import transformers  # noqa: F401

            if with_peft:
                import peft  # noqa: F401
    except ImportError as problem:
        raise HarnessError(
            f"local models need the extra: pip install 'pytest-finetune[local]' ({problem})"
        ) from None
    if weights.device() == "cuda" and not torch.cuda.is_available():
        raise HarnessError(
            "there is a GPU that torch cannot use; install a torch for its driver, or set "
            "CUDA_VISIBLE_DEVICES to nothing to ask on the CPU"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars, notes and warnings off the terminal while they load."""
    from transformers.utils import logging as notes

    verbosity, has_bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # PEFT fills what an adapter's file lacks with fresh weights and only warns.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            yield
    finally:
        notes.set_verbosity(verbosity)
        if has_bars:
            notes.enable_progress_bar()


def prompt_tokens(tokenizer: Any, request: Request) -> Sequence[int]:
    """Return the tokens that a model with this tokenizer is asked; PromptError if there are none.

    It may take seconds where the messages are long, and needs no weights.
    """
    try:
        return tokens_of(tokenizer, prompt_text(tokenizer, request))
    except TemplateRefusal as problem:
        raise PromptError(
            f"the model's chat template cannot carry the conversation: {problem}; "
            "change the case, or ask a model whose template can"
        ) from None
    except ValueError as problem:
        raise PromptError(f"the prompt cannot be made: {first_line(problem)}") from None


def prompt_text(tokenizer: Any, request: Request) -> str:
    """Return what a model with this tokenizer reads; ValueError if its template cannot carry it."""
    template = ChatTemplate(tokenizer, template_options(prompting_of(request.model)))
    return template.prompt(request.messages, _tools(request))


def context_of(config: Any) -> float:
    """Return how many tokens fit into the context of the model with this configuration."""
    size = getattr(config, "max_position_embeddings", None)
    return size if isinstance(size, int) and size > 0 else math.inf


def load_context(home: Home) -> float:
    """Return how many tokens fit into the context of a base; HarnessError if it cannot be read."""
    from transformers import AutoConfig

    try:
        return context_of(AutoConfig.from_pretrained(str(home.source), **_where(home)))
    except Exception as problem:  # a damaged file can break anything in the libraries
        raise _unloadable(home, problem) from None


def room_behind(tokens: Sequence[int], context: float) -> float:
    """Return how many tokens of `context` are left for a reply; PromptTooLong if none are."""
    if len(tokens) >= context:
        raise PromptTooLong(
            f"the prompt takes {len(tokens)} tokens and the model's context ends at {context:.0f}"
        )
    return context - len(tokens)


def load_tokenizer(home: Home) -> Any:
    """Return the tokenizer of a base; HarnessError if it cannot be loaded."""
    _import_libraries(offline=isinstance(home.source, Path), with_peft=False)
    from transformers import AutoTokenizer

    try:
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(str(home.source), **_where(home))
    except Exception as problem:  # a damaged file can break anything in the libraries
        raise _unloadable(home, problem) from None
    if not tokenizer.chat_template:
        raise _unloadable(home, "it has no chat template; start from a chat model")
    endless.refuse(tokenizer, home.source)
    return tokenizer


def _load_base(home: Home) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    device = weights.device()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        if isinstance(home.source, Path):
            _refuse_odd(home.source)
        with panics_as_errors():
            model, found = AutoModelForCausalLM.from_pretrained(
                str(home.source),
                dtype=dtype,
                use_safetensors=True,
                quantization_config=_nf4(dtype) if home.quantization == "nf4" else None,
                device_map=None if device == "cpu" else {"": device},
                output_loading_info=True,
                **_where(home),
            )
    except Exception as problem:  # a damaged file can break anything in the libraries
        raise _unloadable(home, problem) from None
    if missing := sorted(found["missing_keys"]):
        raise _unloadable(home, f"its weights lack {missing[0]}")
    return model.eval()


def _refuse_odd(folder: Path) -> None:
    """Raise ValueError or OSError if building the model of a folder would not end."""
    tensors = [tensors_of(path) for path in folder.glob("*.safetensors")]
    refuse_endless(settings_of(folder / "config.json"), sum(map(len, tensors)))


def _where(home: Home) -> dict[str, Any]:
    return {
        "revision": home.revision or "main",
        "local_files_only": isinstance(home.source, Path),
        "trust_remote_code": False,
    }


def _nf4(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _unloadable(home: Home, problem: object) -> HarnessError:
    if _is_refused(problem):
        return HarnessError(
            f"the model {home.source} cannot be loaded: the hub refuses access to it, or has no "
            "such repository or revision; accept its terms on its page and set HF_TOKEN to a token "
            "that may read it, or correct the name"
        )
    return HarnessError(
        f"the model {home.source} cannot be loaded: {first_line(problem)}; "
        "name a folder or a hub id that holds a chat model as safetensors"
    )


def _is_refused(problem: object) -> bool:
    """Whether the hub keeps a repository back: gated, private, or not there at all."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    seen = problem if isinstance(problem, BaseException) else None
    while seen is not None:
        if isinstance(seen, RepositoryNotFoundError | RevisionNotFoundError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _damaged(adapter: Path, problem: object) -> EvidenceError:
    return EvidenceError(
        f"{adapter}: the adapter cannot be loaded: {first_line(problem)}; "
        "delete the folder to train it again"
    )


@contextmanager
def _unpacked(model: Any) -> Iterator[None]:
    """Keep bitsandbytes from packing weights: it leaves those of layers in training alone."""
    layers = [layer for layer in model.modules() if _is_4bit(layer)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _is_4bit(layer: Any) -> bool:
    kind = type(layer)
    return kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes")


def _alike(logits: Any, others: Any) -> bool:
    import torch

    return torch.allclose(logits, others, rtol=LOGITS_TOLERANCE, atol=LOGITS_TOLERANCE)


def _refuse_useless(path: Path, logits: Any, base: Any) -> None:
    if (logits == base).all():
        raise EvidenceError(
            f"{path}: the adapter changes nothing in its base's answers; "
            "delete the folder to train it again"
        )
    if not logits.isfinite().all():
        raise EvidenceError(
            f"{path}: with the adapter the model says nothing but NaN or infinity; "
            "train it again with a lower learning rate"
        )


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _is_memory(problem: Exception) -> bool:
    text = str(problem).lower()
    return isinstance(problem, MemoryError) or "out of memory" in text or "can't allocate" in text
