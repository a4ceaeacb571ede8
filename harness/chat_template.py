"""A conversation as a chat template renders it: one prompt for training and for asking.

Templates are programs of their models' makers. Many render no tools, no calls, no names, or only
the first system message, and say nothing: what a template leaves out is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from harness.data.messages import as_protocol, calls_of
from harness.records import Message, ModelSpec, content_of, strict_json

Messages = Sequence[Message]
Tools = Sequence[Mapping[str, Any]]


class TemplateRefusal(ValueError):
    """The template cannot render a conversation, or leaves out a part of it."""


def prompting_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the options of a local model, those of its prompt among them."""
    return {**spec.options, "thinking": spec.thinking}


def template_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that the table of a local model hands to its template.

    They are those of `chat_template_kwargs`; `thinking = "off"` uses the template's own switch.

    Raises:
        ValueError: an option has a wrong type; the sentence names it.

    """
    given = options.get("chat_template_kwargs", {})
    if not isinstance(given, Mapping):
        raise ValueError("chat_template_kwargs is no table; write { enable_thinking = false }")
    off = {"enable_thinking": False} if options.get("thinking") == "off" else {}
    return {**off, **given}


def template_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a table's options that change what its chat template renders.

    Raises:
        ValueError: an option has a wrong type; the sentence names it.

    """
    variables = template_options(options)
    tools = {"tools": [dict(tool) for tool in tools_of(options, ())]} if "tools" in options else {}
    return {**({"chat_template_kwargs": variables} if variables else {}), **tools}


def tools_of(options: Mapping[str, Any], tools: Tools) -> Tools:
    """Return the tools that a model is asked with: those of its table, else those of the case.

    Raises:
        ValueError: the table's are no list of objects.

    """
    own = options.get("tools", tools)
    if not isinstance(own, Sequence) or not all(isinstance(tool, Mapping) for tool in own):
        raise ValueError("tools is no list of tables; write them as the API takes them")
    return own


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of `tokenizer`, with the variables `options` of the user."""

    tokenizer: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, messages: Messages, tools: Tools = ()) -> str:
        """Return what a model reads before it answers.

        Raises:
            TemplateRefusal: the template cannot carry the conversation.

        """
        return self._render(self._form(messages, tools, answers=True), tools, answers=True)

    def exchange(self, messages: Messages, tools: Tools = ()) -> tuple[str, str]:
        """Return the prompt and the answer of a conversation that ends in its answer.

        An answer that calls tools is what the template makes of it, without its end.

        Raises:
            TemplateRefusal: the template cannot carry the conversation.

        """
        if not calls_of(messages[-1]):
            return self.prompt(messages[:-1], tools), content_of(messages[-1])
        form = self._form(messages, tools, answers=False)
        prompt = self._render(form[:-1], tools, answers=True)
        return prompt, self._called(form, tools, prompt)

    def _called(self, form: Messages, tools: Tools, prompt: str) -> str:
        """Return how the calls of the last message stand behind `prompt`."""
        whole = self._render(form, tools, answers=False)
        if not whole.startswith(prompt):
            raise TemplateRefusal("it does not render the calls of the answer behind its prompt")
        said = _Mark("answer", 0).text
        ended = [*form[:-1], {"role": "assistant", "content": said}]
        end = self._render(ended, tools, answers=False).rpartition(said)[2]
        answer = whole[len(prompt) :].removesuffix(end).rstrip()
        return answer.removesuffix(self.tokenizer.eos_token or "").rstrip()

    def _form(self, messages: Messages, tools: Tools, *, answers: bool) -> list[Message]:
        """Return the messages in the first form that the template renders whole."""
        first = ""
        for form in _forms([_plain(message) for message in as_protocol(messages)]):
            problem = self._problem(form, tools, answers=answers)
            if not problem:
                return form
            first = first or problem
        raise TemplateRefusal(first)

    def _problem(self, form: Messages, tools: Tools, *, answers: bool) -> str:
        """Return what of the conversation is not in the text, or why there is none; "" if all is.

        Words that occur nowhere else take the place of what has to be found again.
        """
        marked = _Marked(form, tools)
        if not marked.marks:
            return ""
        try:
            text = self._render(marked.messages, marked.tools, answers=answers)
        except TemplateRefusal as problem:
            return str(problem)
        lost = next((mark.what for mark in marked.marks if not mark.is_in(text)), "")
        return lost and f"it leaves out {lost}"

    def _render(self, messages: Messages, tools: Tools, *, answers: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=answers,
                **self.options,
            )
        except Exception as problem:  # a chat template is a program of its own
            raise TemplateRefusal(f"it fails on the messages: {first_line(problem)}") from None
        return text


def _plain(message: Message) -> Message:
    """Return `message` as templates take it: one text, known roles, nothing about training."""
    kept = {key: value for key, value in message.items() if key != "weight" and value is not None}
    if kept.get("role") == "developer":
        kept["role"] = "system"
    if isinstance(kept.get("content"), list):
        kept["content"] = content_of(kept)
    return kept


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered prompt or an answer.

    Raises:
        TemplateRefusal: the tokenizer fails on the text, as one whose pattern never ends does.

    """
    try:
        with panics_as_errors():
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception as problem:  # its file may hold anything
        raise TemplateRefusal(f"the tokenizer fails on the text: {first_line(problem)}") from None


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Let libraries in Rust raise a RuntimeError where they panic, which is no `Exception`."""
    try:
        yield
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":
            raise
        raise RuntimeError(first_line(problem)) from None


def first_line(problem: object) -> str:
    """Return the first line of what an exception says, 300 characters at most, or its name."""
    lines = str(problem).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(problem).__name__


# ---------------------------------------------------------------------- forms


def _forms(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield the ways to write the conversation, the one that is documented for templates first.

    Some templates take one system message, the arguments of a call as text, or want `content` in
    every message.
    """
    called = any(message.get("tool_calls") for message in messages)
    for one, as_text, filled in product((False, True), (False, True), (False, True)):
        if (one and not _several_systems(messages)) or ((as_text or filled) and not called):
            continue
        turns = _one_system(messages) if one else messages
        yield [_with_calls(turn, as_text=as_text, filled=filled) for turn in turns]


def _several_systems(messages: Messages) -> bool:
    return [message["role"] for message in messages[:2]] == ["system", "system"]


def _one_system(messages: list[Message]) -> list[Message]:
    """Return the messages with the system messages at the beginning as one."""
    end = next(at for at, message in enumerate(messages) if message["role"] != "system")
    text = "\n\n".join(str(message["content"]) for message in messages[:end])
    return [{"role": "system", "content": text}, *messages[end:]]


def _with_calls(message: Message, *, as_text: bool, filled: bool) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [_with_arguments(call, as_text=as_text) for call in message["tool_calls"]]
    content = {"content": ""} if filled else {}
    return {**content, **message, "tool_calls": calls}


def _with_arguments(call: Mapping[str, Any], *, as_text: bool) -> Mapping[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return call
    arguments = arguments_of(function)
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def arguments_of(function: Mapping[str, Any]) -> Any:
    """Return the arguments of a call as an object; as they stand where they are none."""
    arguments = function.get("arguments")
    if arguments in (None, ""):
        return {}
    try:
        return strict_json(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


# ---------------------------------------------------------------------- marks


@dataclass(frozen=True)
class _Mark:
    """A word that has to be in the rendered text, and what it stands for."""

    what: str
    number: int

    @property
    def text(self) -> str:
        return f"qz{self.number}probe"

    def is_in(self, text: str) -> bool:
        """Whether the text holds the word, and not as Python writes an object."""
        return self.text in text and f"{{'{self.text}'" not in text


class _Marked:
    """A conversation with marks in place of what templates leave out."""

    def __init__(self, messages: Messages, tools: Tools) -> None:
        self.marks: list[_Mark] = []
        self.tools = [self._tool(tool) for tool in tools]
        self.messages = [self._message(message) for message in messages]

    def _new(self, what: str) -> str:
        self.marks.append(_Mark(what, len(self.marks)))
        return self.marks[-1].text

    def _tool(self, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(function := tool.get("function"), Mapping):
            return {**tool, "function": {**function, "name": self._new("the tools")}}
        return {**tool, "name": self._new("the tools")}

    def _message(self, message: Message) -> Message:
        marked = dict(message)
        calls = message.get("tool_calls")
        if message["role"] in ("system", "tool") and message.get("content"):
            kind = "system messages" if message["role"] == "system" else "results of tools"
            marked["content"] = self._new(kind)
        if calls:
            marked["tool_calls"] = [self._call(call) for call in calls]
            if message.get("content"):
                marked["content"] = self._new("the text beside calls of tools")
        if message.get("name") and message["role"] != "tool":
            marked["name"] = self._new("the names of messages")
        return marked

    def _call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return call
        arguments = function.get("arguments")
        if arguments_of(function):
            marked = {self._new("the arguments of calls"): 1}
            arguments = json.dumps(marked) if isinstance(arguments, str) else marked
        name = self._new("the calls of tools")
        return {**call, "function": {**function, "name": name, "arguments": arguments}}
