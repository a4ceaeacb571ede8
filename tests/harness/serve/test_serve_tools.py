"""Tools: what a model may call, its calls in an answer and in a stream, and their results."""

import json
import shutil

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from .conftest import QUICK, started
from .shapes import conforms, refused

TOOL = {
    "type": "function",
    "function": {"name": "track", "parameters": {"type": "object"}, "description": None},
}
USER = {"role": "user", "content": "where is order 7?"}
CALL = 'Wait. <tool_call>{"name": "track", "arguments": {"number": 7}}</tool_call>'
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: "
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
    "</tool_call>{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SAYING = f"""
from harness.models import decode

class Stream:
    def __init__(self, model, batches, *rest):
        from transformers import AutoTokenizer
        self.upcoming, self.at_work, self.begun, self.batches = (), [], [], batches
        self.tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)

    def __iter__(self):
        for row in next(self.batches):
            asks = self.tokenizer.decode(row.tokens)
            said = {CALL!r} if "parameters" in asks else asks
            end = [self.tokenizer.eos_token_id]
            yield [decode.Ended(row, [*self.tokenizer(said)["input_ids"], *end], 0.0)]

decode.Stream = Stream
"""


@pytest.fixture(scope="module")
def calling(tiny_base, tmp_path_factory):
    """A server whose model calls a tool if it has one, and else repeats what it was asked."""
    root = tmp_path_factory.mktemp("calling")
    shutil.copytree(tiny_base, root / "base")
    (root / "base" / "chat_template.jinja").write_text(TEMPLATE)
    running = started(root, "--alias", f"{QUICK}=local:{root / 'base'}", before=SAYING)
    yield running
    running.process.kill()
    running.process.communicate()


def ask(server, **more):
    asked = {"model": QUICK, "messages": [USER], "tools": [TOOL], "max_tokens": 90, **more}
    return server.raw.post("/chat/completions", json=asked)


def test_a_call_is_part_of_the_answer(calling):
    value = conforms(ask(calling, n=2).json(), ChatCompletion)
    for choice in value["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Wait."
        [call] = choice["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "track"
        assert json.loads(call["function"]["arguments"]) == {"number": 7}


def test_a_call_is_part_of_a_stream(calling):
    lines = ask(calling, stream=True).text.strip().split("\n\n")
    chunks = [conforms(json.loads(line[6:]), ChatCompletionChunk) for line in lines[:-1]]
    [calls] = [d["tool_calls"] for c in chunks if "tool_calls" in (d := c["choices"][0]["delta"])]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "track")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(said) == "Wait."


@pytest.mark.parametrize("more", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
def test_a_model_that_is_not_to_call_is_not_told_of_tools(calling, more):
    [choice] = ask(calling, **more).json()["choices"]
    assert choice["message"]["content"].startswith("user: where")
    assert "tool_calls" not in choice["message"]


def test_what_the_client_sends_back_is_in_the_next_prompt(calling):
    called = ask(calling).json()["choices"][0]["message"]
    result = {
        "role": "tool",
        "tool_call_id": called["tool_calls"][0]["id"],
        "content": "on its way",
    }
    [choice] = ask(calling, messages=[USER, called, result], tools=None).json()["choices"]
    assert "Wait.<tool_call>" in choice["message"]["content"]
    assert "tool: on its way" in choice["message"]["content"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": [{**TOOL, "colour": "red"}]}, "tools.0.colour"),
        ({"tools": [None]}, "tools.0"),
        ({"tools": "track"}, "tools"),
    ],
)
def test_tools_that_are_none_are_refused_by_their_place(calling, change, param):
    assert refused(ask(calling, **change), 400)["param"] == param
