"""How many tokens a conversation has, as the server will bill them."""

import json

import openai
import pytest
from openai.types.responses import InputTokenCountResponse

from .conftest import QUICK, TRAINING, USUAL, example
from .shapes import conforms, refused


def count(server, messages, **more):
    asked = {"model": QUICK, "input": messages, **more}
    return server.client.responses.input_tokens.count(**asked).input_tokens


def test_the_count_of_all_examples_is_what_a_training_bills(server, trained):
    examples = [json.loads(line)["messages"] for line in TRAINING.splitlines()]
    counted = sum(count(server, messages) for messages in examples)
    assert trained.hyperparameters.n_epochs * counted == trained.trained_tokens


def test_the_count_of_a_question_is_what_asking_it_takes(server):
    prompt = example("kettle")["messages"][:-1]
    asked = server.client.chat.completions.create(model=QUICK, messages=prompt, max_tokens=1)
    assert count(server, prompt) == asked.usage.prompt_tokens
    assert count(server, prompt[1:], instructions=prompt[0]["content"]) == count(server, prompt)
    assert count(server, "my kettle", model=USUAL) > 0


def test_a_count_is_what_the_client_knows(server):
    body = {"model": QUICK, "input": [{"role": "user", "content": "my kettle"}]}
    answer = server.raw.post("/responses/input_tokens", json=body)
    assert conforms(answer.json(), InputTokenCountResponse)


@pytest.mark.parametrize("body", [{"input": []}, {"input": 3}, {"tools": [{}]}, {}])
def test_what_cannot_be_counted_is_refused(server, body):
    refused(server.raw.post("/responses/input_tokens", json={"model": QUICK, **body}), 400)


def test_an_unknown_model_is_not_counted_for(server):
    with pytest.raises(openai.NotFoundError):
        count(server, "x", model="other")
