"""`POST /v1/chat/completions` on the bundled model and a random one."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from .conftest import QUICK, USUAL
from .shapes import conforms, refused

PROMPT = [{"role": "user", "content": "Order 48213 from Mara Lind: two lamps, one broken."}]


def ask(server, model=USUAL, **more):
    chosen = {"messages": PROMPT, "temperature": 0, "max_tokens": 24, **more}
    return server.client.chat.completions.create(model=model, **chosen)


def text(completion, index=0):
    return completion.choices[index].message.content


def test_an_answer_has_every_part_of_the_protocol(server):
    body = {"model": USUAL, "messages": PROMPT, "temperature": 0, "max_tokens": 3, "n": 2}
    value = server.raw.post("/chat/completions", json=body).json()
    conforms(value, ChatCompletion)
    for index, choice in enumerate(value["choices"]):
        assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
        assert set(choice["message"]) == {"role", "content", "refusal"}
        assert choice["index"] == index
        assert choice["finish_reason"] == "length"
    usage = value["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_reply_that_ends_by_itself_has_stopped(server):
    done = ask(server, max_tokens=None, max_completion_tokens=200)
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.completion_tokens < 200


@pytest.mark.parametrize("many", [False, True], ids=["text", "list"])
def test_a_reply_ends_before_the_first_text_that_stops(server, many):
    whole = text(ask(server))
    stop = whole[len(whole) // 2 :][:2]
    found = ask(server, stop=["§§", stop] if many else stop)
    assert text(found) == whole[: whole.index(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_the_same_seed_draws_the_same_and_another_seed_another(server):
    same = [text(ask(server, temperature=2, seed=5)) for _ in range(2)]
    assert same[0] == same[1]
    assert text(ask(server, temperature=2, seed=6)) != same[0]
    assert text(ask(server, temperature=2)) != text(ask(server, temperature=2))


def test_a_temperature_near_zero_is_greedy(server):
    assert text(ask(server, temperature=1e-300)) == text(ask(server))


def test_choices_differ_and_a_tiny_top_p_makes_them_equal(server):
    drawn = ask(server, temperature=2, seed=1, n=3)
    assert len({choice.message.content for choice in drawn.choices}) == 3
    for top_p in (1e-6, 0):
        narrow = ask(server, temperature=2, seed=1, n=3, top_p=top_p)
        assert {choice.message.content for choice in narrow.choices} == {text(ask(server))}


@pytest.mark.parametrize("model", [USUAL, QUICK])
def test_json_mode_gives_an_object_whatever_the_model_would_say(server, model):
    form = {"type": "json_object"}
    done = ask(server, model, response_format=form, temperature=1.3, seed=3, n=12, max_tokens=60)
    ends = [choice.finish_reason for choice in done.choices]
    for choice in done.choices:
        assert choice.message.content.lstrip().startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    assert "stop" in ends or model == QUICK
    with pytest.raises(ValueError, match=r"."):
        json.loads(text(ask(server, QUICK)))


@pytest.mark.parametrize("more", [{}, {"stop": ["a b", "en"]}, {"n": 2, "seed": 4}])
def test_a_stream_says_what_a_whole_answer_says(server, more):
    chosen = {"temperature": 1, "seed": 4, **more}
    whole = ask(server, **chosen)
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}, **chosen))
    heard = {choice.index: "" for choice in whole.choices}
    ends = {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        [choice] = chunk.choices
        heard[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert heard == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"


def test_a_stream_keeps_back_what_may_be_the_beginning_of_its_end(server):
    whole = text(ask(server))
    stop = whole[len(whole) // 2 :][:7]
    heard = [
        chunk.choices[0].delta.content or "" for chunk in ask(server, stop=[stop], stream=True)
    ]
    assert "".join(heard) == whole[: whole.index(stop)]


def test_a_stream_is_server_sent_events_with_an_end(server):
    body = {"model": USUAL, "messages": PROMPT, "max_tokens": 5, "stream": True}
    response = server.raw.post("/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, end = response.text.strip().split("\n\n")
    assert end == "data: [DONE]"
    for event in events:
        conforms(json.loads(event.removeprefix("data: ")), ChatCompletionChunk)


def test_many_clients_at_once_get_what_each_would_get_alone(server):
    prompts = [f"my {word} is broken, order {n}" for n in range(16) for word in ("lamp", "radio")]

    async def gathered():
        async with openai.AsyncOpenAI(base_url=server.api, api_key="x") as client:
            calls = (
                client.chat.completions.create(
                    model=USUAL,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=6,
                )
                for prompt in prompts
            )
            return await asyncio.gather(*calls)

    with ThreadPoolExecutor(1) as thread:  # a browser's tests leave a loop running in this one
        together = [text(done) for done in thread.submit(asyncio.run, gathered()).result()]
    for place in (0, 13, 31):
        alone = ask(server, messages=[{"role": "user", "content": prompts[place]}], max_tokens=6)
        assert together[place] == text(alone)
    assert len(set(together)) > 1


WRONG = {
    "no such model": ({"model": "gpt-nope"}, 404, "model"),
    "no messages": ({"messages": []}, 400, "messages"),
    "messages missing": ({"messages": None}, 400, "messages"),
    "unknown role": ({"messages": [{"role": "bob", "content": "x"}]}, 400, "messages.0.role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        None,
    ),
    "too hot": ({"temperature": 2.1}, 400, "temperature"),
    "no number": ({"max_tokens": "many"}, 400, "max_tokens"),
    "no room": ({"max_tokens": 0}, 400, "max_tokens"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools.0.function"),
    "schema": ({"response_format": {"type": "json_schema"}}, 400, "response_format.type"),
    "unknown key": ({"colour": "red"}, 400, "colour"),
    "too long": ({"messages": [{"role": "user", "content": "x " * 4000}]}, 400, "messages"),
    "too long, streamed": (
        {"messages": [{"role": "user", "content": "x " * 4000}], "stream": True},
        400,
        "messages",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(server, name):
    change, status, param = WRONG[name]
    body = {"model": USUAL, "messages": PROMPT, "max_tokens": 4, **change}
    error = refused(server.raw.post("/chat/completions", json=body), status)
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


DEEP = b'{"model": "x", "messages": [], "user": ' + b"[" * 900 + b"]" * 900 + b"}"
HALF = b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}'


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 9_000, DEEP, HALF])
def test_a_body_that_is_no_request_is_refused(server, body):
    refused(server.raw.post("/chat/completions", content=body), 400)


def test_an_unknown_address_or_method_gets_the_error_of_the_protocol(server):
    refused(server.raw.get("/nothing"), 404)
    refused(server.raw.get("/chat/completions"), 405)


def test_the_models_are_listed_and_shown(server):
    names = [model.id for model in server.client.models.list()]
    assert {USUAL, QUICK} <= set(names)
    assert server.client.models.retrieve(USUAL).owned_by == "local"
    refused(server.raw.get("/models/none"), 404)
    refused(server.raw.delete(f"/models/{USUAL}"), 403)
