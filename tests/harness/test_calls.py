from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.calls import (
    first_difference,
    history_of,
    nearest,
    outline_of,
    request_key,
    request_of,
)
from harness.models import Models
from harness.records import (
    Case,
    HarnessError,
    ModelSpec,
    Request,
    Sampling,
    canonical_json,
)
from harness.store import StoredCall

SPEC = ModelSpec("base", "openai", "x", options={"base_url": "http://127.0.0.1:9/v1"})
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
LONG = "word " * 500


class Known(Models):
    """Models whose identity is all that a provider could make of them."""

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        table = dict(spec.options)
        return {"model": spec.target, "adapter": str(spec.adapter), **table}


def plan(spec: ModelSpec = SPEC, text: str = "hi", trial: int = 0, **case: Any) -> Request:
    made = Case("demo", "c1", ({"role": "user", "content": text},), **case)
    return request_of(Known(), spec, made.messages, trial, "demo:c1", made)


DECISIVE: list[Request] = [
    plan(),
    plan(replace(SPEC, provider="local")),
    plan(replace(SPEC, target="y")),
    plan(replace(SPEC, options={"base_url": "http://127.0.0.1:10/v1"})),
    plan(replace(SPEC, options={**SPEC.options, "response_format": {"type": "json_object"}})),
    plan(replace(SPEC, sampling=Sampling(temperature=0.5))),
    plan(replace(SPEC, sampling=Sampling(max_tokens=5))),
    plan(replace(SPEC, sampling=Sampling(seed=1))),
    plan(replace(SPEC, adapter=Path("a"))),
    plan(replace(SPEC, system="be brief")),
    plan(replace(SPEC, template="Q: {{ text }}")),
    plan(replace(SPEC, few_shot=(USER,))),
    plan(text="hello"),
    plan(trial=1),
    plan(tools=(TOOL,)),
    plan(tools=(TOOL, TOOL)),
]


def test_every_field_of_a_call_changes_its_key() -> None:
    assert len({request.key for request in DECISIVE}) == len(DECISIVE)


def test_no_field_of_the_sampling_is_forgotten() -> None:
    told = outline_of(Known(), plan())
    assert {f"sampling.{one.name}" for one in fields(Sampling)} <= told.keys()


excluded = st.fixed_dictionaries(
    {},
    optional={
        "max_concurrency": st.integers(1, 500),
        "timeout_s": st.floats(0.1, 1000),
        "api_key_env": st.sampled_from(["KEY_ONE", "KEY_TWO"]),
        "headers": st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.just("s3cret-value")),
    },
)
decisive = st.fixed_dictionaries(
    {"base_url": st.sampled_from(["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"])},
    optional={
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "api_version": st.sampled_from(["1", "2"]),
        "top_p": st.sampled_from([0.5, 1]),
        "stop": st.sampled_from(["a", ["a"]]),
        "extra_body": st.sampled_from([{}, {"top_k": 1}]),
    },
)


@settings(deadline=None)
@given(decisive, decisive, excluded, excluded)
def test_what_a_table_says_of_the_way_is_no_part_of_the_key_and_the_rest_is(
    one: dict[str, Any], other: dict[str, Any], way: dict[str, Any], other_way: dict[str, Any]
) -> None:
    """With the provider of services as it is."""
    first = request_of(Models(), replace(SPEC, options={**one, **way}), [USER])
    second = request_of(Models(), replace(SPEC, options={**other, **other_way}), [USER])
    assert (first.key == second.key) == (canonical_json(one) == canonical_json(other))
    assert "s3cret" not in str(outline_of(Models(), first))


AZURE = {"base_url": "https://x.azure.com", "api_version": "2026-01-01", "top_p": 0.5}
EXTRA = {"reasoning_effort": "low", "extra_body": {"top_k": 3, "seed": 7}}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "b562efc293a24d55ad02db26e5be110f57d903c7813dac3276a6582e2077fafc"),
        (EXTRA, "f8f25fe26048673ea18cc7709aa689fabf1ec573a2cd9c22062642c5590d15b6"),
        (AZURE, "876acbf82757c3c218f3946c3d8e8d3e0365530a7f926124110acc907cad7db0"),
    ],
)
def test_a_call_has_the_key_under_which_earlier_versions_stored_it(
    options: dict[str, Any], key: str
) -> None:
    tools = ({"type": "function", "function": {"name": "f"}},)
    case = Case("s", "c", ({"role": "user", "content": "hi", "weight": 1},), tools=tools)
    sampling = Sampling(temperature=0.5, max_tokens=9, seed=3)
    spec = ModelSpec("a", "openai", "m", system="s", sampling=sampling, options=options)
    assert request_of(Models(), spec, case.messages, trial=2, case=case).key == key


@given(st.text(), st.text())
def test_names_keys_and_what_is_not_asked_are_no_part_of_the_key(name: str, tag: str) -> None:
    known = request_of(Models(), SPEC, [USER]).key
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-other")
        assert request_of(Models(), replace(SPEC, name=name), [USER], label=tag).key == known
    tagged = plan(tags=(tag,), expected=tag, cluster=tag, source=tag)
    assert tagged.key == plan().key


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=90)
specs = st.builds(
    ModelSpec,
    name=texts,
    provider=st.just("openai"),
    target=st.sampled_from("xy"),
    sampling=st.builds(Sampling, seed=st.integers(0, 1)),
    options=st.dictionaries(st.sampled_from(["top_p", "response_format"]), texts, max_size=2),
)
tools = st.lists(st.just(TOOL), max_size=1).map(tuple)
requests = st.builds(plan, specs, texts, st.integers(0, 1), tools=tools)


@settings(deadline=None)
@given(requests, requests)
def test_calls_have_one_key_exactly_if_no_field_differs(one: Request, other: Request) -> None:
    difference = first_difference(outline_of(Known(), one), outline_of(Known(), other))
    assert (one.key == other.key) == (difference == "")


@pytest.mark.parametrize("other", DECISIVE[1:])
def test_a_miss_is_explained_by_the_first_field_that_differs(other: Request) -> None:
    known = StoredCall("demo:c1", outline_of(Known(), plan()), created="2026")
    assert nearest(outline_of(Known(), other), "demo:c1", [known]) == known
    assert first_difference(outline_of(Known(), other), known.fields)


def test_long_texts_are_kept_as_digests() -> None:
    told = outline_of(Known(), plan(replace(SPEC, system=LONG), LONG))
    assert len(str(told)) < 800
    assert told["message 1"].startswith("sha256:")


def stored(text: str, label: str, created: str, **spec: Any) -> StoredCall:
    return StoredCall(
        label, outline_of(Known(), plan(replace(SPEC, **spec), text)), "openai:x", created
    )


def test_of_equally_near_calls_the_one_of_the_same_case_explains_best() -> None:
    mine, others = stored("hi", "demo:c1", "1"), stored("ho", "demo:c2", "2")
    asked = outline_of(Known(), plan(text="hi!"))
    assert nearest(asked, "demo:c1", [others, mine]) == mine
    assert nearest(asked, "demo:c2", [others, mine]) == others
    assert nearest(asked, "demo:c1", []) is None


def test_the_calls_of_a_case_are_listed_with_why_they_were_asked() -> None:
    first = stored("hi", "demo:c1", "2026-11-01T00:00:00")
    edited = stored("hi!", "demo:c1", "2026-11-02T00:00:00")
    longer = stored("hi!", "demo:c1", "2026-11-03T00:00:00", sampling=Sampling(max_tokens=9))
    lines = history_of("demo:c1", [edited, longer, first])
    assert [line[:10] for line in lines] == ["2026-11-03", "2026-11-02", "2026-11-01"]
    assert "sampling.max_tokens is 9 and was 256" in lines[0]
    assert 'message 1 is {"content":"hi!","role":"user"} and was {"content":"hi",' in lines[1]
    assert lines[2].endswith("the first of all")


def test_a_case_without_any_reply_is_told() -> None:
    with pytest.raises(HarnessError, match="no reply is stored for 'demo:c9'; write SUITE:CASE"):
        history_of("demo:c9", [])


def test_what_local_models_are_asked_with_tools_is_asked_again_and_nothing_else() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = (USER, {"role": "assistant", "tool_calls": [call]}, USER)
    for provider, again in (("local", True), ("bundled", True), ("openai", False)):
        spec = replace(SPEC, provider=provider)
        plain = request_of(Known(), spec, (USER,), case=Case("demo", "a", (USER,)))
        tools = request_of(Known(), spec, (USER,), case=Case("demo", "a", (USER,), tools=(TOOL,)))
        history = request_of(Known(), spec, called, case=Case("demo", "a", called))
        identity = Known().identity(spec)
        assert plain.key == request_key(spec, identity, plain.messages, 0)
        assert (tools.key != request_key(spec, identity, tools.messages, 0, [TOOL])) == again
        assert (history.key != request_key(spec, identity, history.messages, 0)) == again
