from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes of the tests also where the tests run in the background.

    And let local models answer on the CPU: the tests compare replies that float32 keeps the same
    whatever batch they are made in, which a GPU's bfloat16 does not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        slow = item.get_closest_marker("slow") is not None
        return not slow, item.path.stem != "test_gate_catches"

    items.sort(key=place)


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


@pytest.fixture
def add_code() -> Callable[[Path], Path]:
    """Let all of a model's folder come from code in it; return the trace that it would leave."""

    def add(folder: Path) -> Path:
        trace = folder / "ran"
        code = f"from pathlib import Path\nPath({str(trace)!r}).write_text('ran')\n"
        (folder / "own.py").write_text(f"{code}class Own:\n    pass\n")
        for name, change in {
            "config.json": {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
            },
            "tokenizer_config.json": {
                "tokenizer_class": "Own",
                "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]},
            },
        }.items():
            values = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**values, **change}))
        return trace

    return add
