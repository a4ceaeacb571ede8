from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.config import CandidateSettings
from trainers.recipe import Recipe, resolve

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "The kettle with number TK-40921 is broken, please help me.",
    '{"category": "defect", "urgency": "normal", "name": null}',
    "system user assistant answer question billing delivery account",
]
WORDS = ["kettle", "lamp", "chair", "phone", "radio", "table", "clock", "knife", "glass", "brush"]


@dataclass(frozen=True)
class Project:
    """A user's project around the tiny base."""

    root: Path
    base: Path

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    @staticmethod
    def row(text: str, answer: str | None) -> dict[str, Any]:
        answers = [] if answer is None else [{"role": "assistant", "content": answer}]
        return {"messages": [{"role": "user", "content": text}, *answers]}

    def tickets(self, count: int) -> list[dict[str, Any]]:
        """Rows that a small model can learn by heart."""
        return [
            self.row(
                f"my {WORDS[i % 10]} {i} is broken", f'{{"item": "{WORDS[i % 10]}", "n": {i % 7}}}'
            )
            for i in range(count)
        ]

    def write(self, name: str, rows: Sequence[object]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return path

    def recipe(
        self, rows: Sequence[object] | None = None, name: str = "tickets", **settings: Any
    ) -> Recipe:
        """Resolve a recipe on the tiny base, with `rows` as training data."""
        if rows is not None:
            self.write("train.jsonl", rows)
        chosen = {"trainer": "qlora", "train": "train.jsonl", **settings}
        return resolve(name, CandidateSettings(**chosen), f"local:{self.base}", self.root)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of a few ten thousand parameters with a byte-level BPE."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("base") / "tiny"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [*TEXTS, *WORDS],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    # Adapters leave the tied output layer alone: it has to be able to say something.
    model.model.embed_tokens.weight.data.mul_(15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # A model this small is fastest on one thread, above all where tests share the processors.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def new_project(tiny_base: Path) -> Callable[[Path], Project]:
    return lambda root: Project(root, tiny_base)


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    return new_project(tmp_path)
