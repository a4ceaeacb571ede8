from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.chat_template import ChatTemplate, TemplateRefusal, template_options
from harness.models import tool_calls

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as many bases have it: no tools, no calls, no names; each of several system messages."""

HERMES = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}Tools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}"
    "<|im_end|>\n{% elif messages[0].role == 'system' %}<|im_start|>system\n"
    "{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% elif m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": {{ c.function.name | tojson }}, "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% if not loop.last %}\n{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""Like Qwen's: arguments as objects, the system message first or not at all."""

LLAMA = (
    "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% set f = m.tool_calls[0].function %}"
    '<|h|>assistant<|/h|>\n\n{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "<|im_end|>{% else %}<|h|>{{ 'ipython' if m.role == 'tool' else m.role }}<|/h|>\n\n"
    "{% if tools and loop.first %}{{ tools | tojson }}\n{% endif %}{{ m.content | trim }}<|im_end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
"""Like Llama 3's: one call at a time, without text beside it."""

TEXTS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] + '' }}"
    "{% for c in m['tool_calls'] or [] %}<call>{{ c['function']['name'] }}"
    "{{ ' ' + c['function']['arguments'] }}</call>{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Like DeepSeek's: arguments as texts, and content in every message."""

TOOLS = ({"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}},)
ASKED = {"role": "user", "content": "Where is parcel 7?"}


def call(arguments: Any = '{"number": "7"}', name: str = "track") -> dict[str, Any]:
    return {"id": "t1", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls) or [call()], **fields}


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(text: str, **options: Any) -> ChatTemplate:
        monkeypatch.setattr(tokenizer, "chat_template", text)
        return ChatTemplate(tokenizer, options)

    return made


def test_a_plain_prompt_is_what_the_template_renders(template: Any) -> None:
    messages = ({"role": "system", "content": "Be brief."}, ASKED)
    rendered = template(PLAIN).tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True
    )
    assert template(PLAIN).prompt(messages) == rendered


@pytest.mark.parametrize("arguments", ['{"number": "7"}', {"number": "7"}])
@pytest.mark.parametrize("template_text", [HERMES, LLAMA, TEXTS])
def test_an_answer_that_calls_is_rendered_without_its_end(
    template: Any, template_text: str, arguments: object
) -> None:
    messages = (ASKED, calling(call(arguments)))
    prompt, answer = template(template_text).exchange(messages, TOOLS)
    assert prompt == template(template_text).prompt(messages[:1], TOOLS)
    assert "track" in prompt
    assert "None" not in prompt + answer
    assert "track" in answer
    assert json.loads(answer[answer.rindex("{") :].split("}")[0] + "}") == {"number": "7"}
    assert not answer.endswith(("<|im_end|>", "\n"))


@pytest.mark.parametrize("template_text", [HERMES, LLAMA])
def test_what_is_learnt_as_a_call_is_read_as_the_same_call(
    template: Any, template_text: str
) -> None:
    arguments = {"number": "7", "notes": ["ä", None, 1.5]}
    _, answer = template(template_text).exchange((ASKED, calling(call(arguments))), TOOLS)
    text, (found,) = tool_calls.read(answer, TOOLS)
    assert text == ""
    assert found["function"]["name"] == "track"
    assert json.loads(found["function"]["arguments"]) == arguments


def test_calls_and_results_of_the_history_are_in_the_prompt(template: Any) -> None:
    result = {"role": "tool", "tool_call_id": "t1", "content": "on its way"}
    prompt = template(HERMES).prompt((ASKED, calling(content="One moment."), result), TOOLS)
    assert '"arguments": {"number": "7"}' in prompt
    assert "One moment." in prompt
    assert "on its way" in prompt


def test_a_legacy_call_and_its_result_are_rendered(template: Any) -> None:
    function = {"name": "track", "arguments": '{"number": "7"}'}
    history = (
        ASKED,
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "track", "content": "on its way"},
    )
    prompt = template(HERMES).prompt(history, TOOLS)
    assert '"arguments": {"number": "7"}' in prompt
    assert "<tool_response>\non its way" in prompt


@pytest.mark.parametrize(
    ("template_text", "messages", "tools", "lost"),
    [
        (PLAIN, (ASKED,), TOOLS, "leaves out the tools"),
        (PLAIN, (ASKED, calling()), (), "leaves out the (arguments|calls) of"),
        (PLAIN.replace("user", "x"), ({**ASKED, "name": "Ann"},), (), "leaves out the names"),
        (LLAMA, (ASKED, calling(content="Wait.")), TOOLS, "leaves out the text beside calls"),
        (LLAMA, (ASKED, calling(call(), call())), TOOLS, "one call at a time"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            ({"role": "system", "content": "user"}, ASKED),
            (),
            "leaves out system messages",
        ),
        (
            HERMES.replace("== 'tool'", "== 'none'").replace("!= 'system'", "in ['user']"),
            (ASKED, {"role": "tool", "content": "Where is parcel 7?"}),
            (),
            "leaves out results of tools",
        ),
        (
            "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}"
            "{{ c.function.name }}{% endfor %}{% endfor %}",
            (ASKED, calling()),
            TOOLS,
            "leaves out the arguments of calls",
        ),
    ],
)
def test_what_a_template_leaves_out_is_refused(
    template: Any, template_text: str, messages: Any, tools: Any, lost: str
) -> None:
    with pytest.raises(TemplateRefusal, match=lost):
        template(template_text).prompt(messages, tools)


def test_an_object_written_as_python_does_is_no_argument(template: Any) -> None:
    as_it_is = TEXTS.replace("{{ ' ' + c", "{{ c")
    prompt = template(as_it_is).prompt((ASKED, calling(call({"number": 7}))), TOOLS)
    assert 'track{"number": 7}</call>' in prompt


def test_a_developer_instructs_as_a_system_message(template: Any) -> None:
    messages = ({"role": "developer", "content": "Be brief."}, ASKED)
    assert "<|im_start|>system\nBe brief." in template(HERMES).prompt(messages)


def test_parts_of_text_are_one_text(template: Any) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "parcel 7?"}]
    assert template(PLAIN).prompt(({**ASKED, "content": parts},)) == template(PLAIN).prompt(
        (ASKED,)
    )


def test_several_system_messages_stay_where_the_template_takes_them(template: Any) -> None:
    two = tuple({"role": "system", "content": text} for text in ("Be brief.", "Be kind."))
    assert "Be brief.<|im_end|>\n<|im_start|>system\nBe kind." in template(PLAIN).prompt(
        (*two, ASKED)
    )
    assert "Be brief.\n\nBe kind.<|im_end|>" in template(HERMES).prompt((*two, ASKED))


def test_weights_are_nothing_that_a_template_sees(template: Any) -> None:
    text = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    answered = {"role": "assistant", "content": "There.", "weight": 0}
    assert "weight" not in template(text).prompt((ASKED, answered, ASKED))


def test_thinking_is_switched_off_as_the_template_has_it(template: Any) -> None:
    off = template(HERMES, **template_options({"thinking": "off"}))
    assert off.prompt((ASKED,)).endswith("<think>\n\n</think>\n\n")
    on = {"thinking": "off", "chat_template_kwargs": {"enable_thinking": True}}
    assert template_options(on) == {"enable_thinking": True}


def test_options_of_wrong_types_are_named() -> None:
    with pytest.raises(ValueError, match="chat_template_kwargs is no table"):
        template_options({"chat_template_kwargs": [1]})
