from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import parse
from harness.prices import Price, Prices, cost_of, most, prompt_tokens
from harness.records import Case, HarnessError, ModelSpec, Reply, Request

SPEC = ModelSpec("base", "openai", "gpt-4o-mini")
OPENAI = {"base_url": "https://api.openai.com/v1"}
PRICE = Price(input=2.0, output=10.0, cached=0.5)


def test_a_reply_costs_its_tokens_the_cached_ones_less() -> None:
    reply = Reply("x", prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=100_000)
    assert cost_of(reply, PRICE) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.1 * 10)
    assert cost_of(reply, replace(PRICE, cached=None)) == pytest.approx(2 + 1)


@pytest.mark.parametrize("reply", [Reply("x"), Reply("x", prompt_tokens=3)])
def test_a_reply_without_tokens_has_an_unknown_cost_and_not_0(reply: Reply) -> None:
    assert cost_of(reply, PRICE) is None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_cost_is_never_negative_and_grows_with_the_reply(
    prompt: int, cached: int, out: int
) -> None:
    reply = Reply("x", prompt_tokens=prompt, cached_tokens=cached, completion_tokens=out)
    cost = cost_of(reply, PRICE)
    more = cost_of(replace(reply, completion_tokens=out + 1), PRICE)
    assert cost is not None
    assert more is not None
    assert 0 <= cost < more


@given(st.text(max_size=300), st.integers(1, 500))
def test_the_estimate_of_a_request_is_no_less_than_a_reply_of_full_length(
    text: str, out: int
) -> None:
    """For three characters a token and more."""
    spec = replace(SPEC, sampling=replace(SPEC.sampling, max_tokens=out))
    request = Request("k", spec, ({"role": "user", "content": text},), len(text))
    reply = Reply("x", prompt_tokens=len(text) // 3, completion_tokens=out)
    assert most(request, PRICE) >= (cost_of(reply, PRICE) or 0) - 1e-12


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4o-mini-20240718"])
def test_a_dated_model_costs_what_its_name_without_the_date_costs(name: str) -> None:
    assert Prices().of(replace(SPEC, target=name), OPENAI) == Price(0.15, 0.6, 0.075, 3.0)


def test_a_dated_price_of_its_own_comes_first() -> None:
    found = Prices().of(replace(SPEC, target="gpt-4o-2024-05-13"), OPENAI)
    assert found == Price(5.0, 15.0)


def test_calls_and_tools_are_part_of_a_prompt() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "x" * 300}}
    calling = {"role": "assistant", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "f", "description": "y" * 300}}
    case = Case("s", "c", ({"role": "user", "content": "z" * 300},), tools=(tool,))
    for messages, known, least in (
        (case.messages, None, 100),
        (case.messages, case, 200),
        ((*case.messages, calling), case, 300),
        ((*case.messages, {"role": "tool", "tool_call_id": "1"}), None, 100),
    ):
        tokens = prompt_tokens(Request("k", SPEC, messages, 0, case=known))
        assert least <= tokens < least + 60


def test_a_fine_tuned_model_has_the_price_of_its_base_when_tuned() -> None:
    spec = replace(SPEC, target="ft:gpt-4o-mini-2024-07-18:acme::abc:1")
    assert Prices().of(spec, OPENAI) == Price(0.3, 1.2, 0.15)


@pytest.mark.parametrize(
    ("spec", "identity"),
    [
        (replace(SPEC, target="gpt-99"), OPENAI),
        (SPEC, {"base_url": "http://localhost:8000/v1"}),
        (SPEC, {"base_url": "https://api.openai.com.evil.test/v1"}),
        (replace(SPEC, provider="local"), OPENAI),
        (SPEC, {}),
    ],
)
def test_what_the_table_does_not_hold_is_unknown(spec: ModelSpec, identity: dict[str, str]) -> None:
    assert Prices().of(spec, identity) is None


def test_the_projects_own_price_comes_first_wherever_the_model_is() -> None:
    table = parse({"prices": {"openai:gpt-4o-mini": {"input": 1, "output": 2}}}).price_table
    assert table.of(SPEC, {"base_url": "http://localhost:8000/v1"}) == Price(1, 2)
    assert table.of(SPEC, OPENAI) == Price(1, 2)


def test_the_table_says_from_when_it_is() -> None:
    assert Prices().as_of == "2025-12"


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ({"gpt-4o": {"input": 1, "output": 1}}, "provider:name"),
        ({"openai:x": {"input": -1, "output": 1}}, "openai:x.input"),
        ({"openai:x": {"input": float("nan"), "output": 1}}, "openai:x.input"),
        ({"openai:x": {"input": 1e300, "output": 1}}, "openai:x.input"),
        ({"openai:x": {"input": 1}}, "openai:x.output"),
        ({"openai:x": {"input": 1, "output": 1, "per": 1000}}, "openai:x.per"),
    ],
)
def test_a_wrong_price_is_told_with_its_key(prices: dict[str, object], words: str) -> None:
    with pytest.raises(HarnessError, match=r"tool\.harness\.prices") as caught:
        parse({"prices": prices})
    assert words in str(caught.value)


def test_scripts_of_many_tokens_are_estimated_as_such() -> None:
    latin, chinese = ({"role": "user", "content": one * 300} for one in "x货")
    assert prompt_tokens(Request("k", SPEC, (latin,), 0)) == 100
    assert prompt_tokens(Request("k", SPEC, (chinese,), 0)) == 300
