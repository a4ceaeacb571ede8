"""Chat templates that do not end: tried in a process of its own, which can be stopped.

`python -m harness.models.endless` reads a template as JSON from stdin and renders it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models import weights
from harness.records import HarnessError

CPU_S = 5
"""Seconds of a processor for conversations that take milliseconds."""

WALL_S = 120.0
MEMORY_BYTES = 8 * 2**30
_NO_MEMORY = 9

_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
_ASKED = {"role": "user", "content": f"What is 1 + 1? {'a' * 64}! {' ' * 64}x"}
_CONVERSATIONS: tuple[tuple[dict[str, Any], ...], ...] = (
    (_ASKED,),
    ({"role": "system", "content": "Answer."}, _ASKED),
    (_ASKED, {"role": "assistant", "content": "2"}, _ASKED),
    (
        _ASKED,
        {"role": "assistant", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "2"},
    ),
)
_TOOLS = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]


def refuse(tokenizer: Any, source: Path | str) -> None:
    """Raise HarnessError if the chat template of the model in `source` does not end.

    The bundled models' do.
    """
    if isinstance(source, Path) and weights.is_bundled(source):
        return
    templates = tokenizer.chat_template
    texts = templates.values() if isinstance(templates, dict) else [templates]
    parser = getattr(tokenizer, "response_template", None)
    if not all(map(_ends, [json.dumps([text, parser]) for text in texts])):
        raise HarnessError(
            f"the model {source} cannot be asked: its chat template does not end within "
            f"{CPU_S} seconds, or fills the memory; correct the template, or name another model"
        )


@lru_cache(maxsize=32)
def _ends(template: str) -> bool:
    here = str(Path(__file__).parents[2])
    paths = filter(None, [here, os.environ.get("PYTHONPATH")])
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "harness.models.endless"],
            input=template.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode >= 0 and ended.returncode != _NO_MEMORY


def main() -> None:
    """Render the template on stdin; what it says of a conversation, an error too, is not told."""
    template, parser = json.load(sys.stdin)
    _limit()
    try:
        render(template, _CONVERSATIONS)
        if parser:
            read(parser, ["a" * 64 + "!", " " * 64 + "x", "<tool_call>" * 20])
    except MemoryError:
        sys.exit(_NO_MEMORY)


def _limit() -> None:
    with suppress(ImportError, OSError, ValueError):  # Windows has none
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def render(template: str, conversations: Iterable[Iterable[dict[str, Any]]]) -> None:
    """Render each of `conversations`, with tools and without."""
    from transformers.utils.chat_template_utils import render_jinja_template

    for messages in conversations:
        for tools in (None, _TOOLS):
            for asks in (False, True):
                with _whatever_it_says():
                    render_jinja_template(
                        [list(messages)],
                        tools=tools,
                        chat_template=template,
                        add_generation_prompt=asks,
                    )


def read(parser: Any, texts: Iterable[str]) -> None:
    """Read each of `texts` with the parser of replies that a folder describes."""
    from transformers.utils.chat_parsing import parse_response

    for text in texts:
        with _whatever_it_says():
            parse_response(text, parser, prefix="")


@contextmanager
def _whatever_it_says() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception:  # a template may refuse these conversations
        return


if __name__ == "__main__":
    main()
