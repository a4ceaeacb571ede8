"""Mutated training rows that were accepted, as a local trainer encodes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.data.jsonl import read_rows
from harness.records import HarnessError

ROWS = 1_500
LENGTH = 512

TEMPLATE = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.name or '' }}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that renders tools, calls and names, as those of larger models do."""


def broken(lines: Sequence[bytes]) -> Iterator[str]:
    """Yield what is wrong with the encoding of the rows in these lines."""
    tokenizers = tuple(_tokenizers())
    with tempfile.TemporaryDirectory() as name:
        for line in lines[:ROWS]:
            for tokenizer in tokenizers:
                if problem := _problem(line, tokenizer, Path(name)):
                    yield f"{problem}: {line[:600]!r}"


def _tokenizers() -> Iterator[Any]:
    from transformers import AutoTokenizer

    from trainers.base import find_base

    for template in (None, TEMPLATE):
        tokenizer = AutoTokenizer.from_pretrained(find_base("bundled:pocket", Path()).source)
        tokenizer.chat_template = template or tokenizer.chat_template
        yield tokenizer


def _problem(line: bytes, tokenizer: Any, folder: Path) -> str:
    from trainers.local import encode

    path = folder / "x.jsonl"
    path.unlink(missing_ok=True)
    path.write_bytes(b"\n" + line)
    try:
        examples = encode(read_rows(path, folder), tokenizer, LENGTH)
        none = "None" in tokenizer.decode([token for one in examples for token in one.input_ids])
        return "it learns None" if none and b"None" not in line else ""
    except HarnessError as problem:
        return "" if str(problem).startswith("x.jsonl:") else str(problem)
    except Exception as problem:  # what must never happen is what is looked for
        return f"{type(problem).__name__}: {str(problem)[:300]}"
