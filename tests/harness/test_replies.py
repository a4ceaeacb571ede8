from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.calls import prompt, request_key
from harness.models import Models
from harness.models.python import THREADS
from harness.records import Case, HarnessError, Message, ModelSpec, Reply, Request, Sampling
from harness.replies import BATCH_ROWS, Progress, Replies, batches
from harness.store import Store

SPEC = ModelSpec(name="base", provider="python", target="json:dumps")
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}


class Asked(Models):
    """Answers by itself and remembers in which batches it was asked."""

    def __init__(self, replies: dict[str, Reply] | None = None) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self._replies = replies or {}

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        return {"target": spec.target, "adapter": str(spec.adapter)}

    def ask(self, batches: Any) -> Iterator[dict[str, Reply]]:
        for batch in filter(None, batches):
            texts = {request.key: str(request.messages[-1]["content"]) for request in batch}
            self.batches.append(list(texts.values()))
            yield {
                key: self._replies.get(
                    text, Reply(text=f"re: {text}", prompt_tokens=2, latency_s=len(text) / 10)
                )
                for key, text in texts.items()
            }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def planned(replies: Replies, spec: ModelSpec, texts: Sequence[str]) -> list[Request]:
    return [replies.plan(spec, [{"role": "user", "content": text}]) for text in texts]


# ---------------------------------------------------------------------- prompts


@pytest.mark.parametrize("case", [[USER], [SYSTEM, USER]])
def test_the_system_message_of_the_model_comes_first_and_once(case: list[Message]) -> None:
    spec = replace(SPEC, system="obey", few_shot=(USER, ANSWER))
    assert prompt(spec, case) == ({"role": "system", "content": "obey"}, USER, ANSWER, USER)


def test_examples_stand_between_the_system_message_and_the_case() -> None:
    spec = replace(SPEC, few_shot=(USER, ANSWER))
    assert prompt(spec, [SYSTEM, USER]) == (SYSTEM, USER, ANSWER, USER)


def test_the_template_renders_the_last_user_message_only() -> None:
    spec = replace(SPEC, template="Q: {{ text }}\n", few_shot=(USER, ANSWER))
    case = [USER, ANSWER, {"role": "user", "content": "{{ 7 * 7 }}"}]
    assert prompt(spec, case) == (
        *(USER, ANSWER),
        *(USER, ANSWER),
        {"role": "user", "content": "Q: {{ 7 * 7 }}\n"},
    )
    assert case[-1]["content"] == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    "template",
    ["{{ text", "{{ missing }}", "{{ text.__class__.__mro__ }}", "{{ 1 / 0 }}", "{{ text.x() }}"],
)
def test_a_wrong_template_is_a_sentence(template: str) -> None:
    with pytest.raises(HarnessError, match="the template of the model 'base' fails: ") as caught:
        prompt(replace(SPEC, template=template), [USER])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- keys

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
specs = st.builds(
    ModelSpec,
    name=texts,
    provider=st.sampled_from(["local", "openai"]),
    target=st.just("x"),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5]),
        max_tokens=st.integers(1, 2),
        seed=st.integers(0, 1),
    ),
)
identities = st.fixed_dictionaries(
    {name: st.sampled_from([None, "a", "b"]) for name in ("weights", "adapter", "kernel")}
)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}),
    max_size=2,
)
calls = st.tuples(specs, identities, conversations, st.integers(0, 1))


@settings(deadline=None)
@given(calls, calls)
def test_calls_share_a_key_exactly_if_they_are_the_same_call(one: Any, other: Any) -> None:
    def decisive(call: Any) -> Any:
        spec, identity, messages, trial = call
        return spec.provider, spec.sampling, identity, messages, trial

    assert (request_key(*one) == request_key(*other)) == (decisive(one) == decisive(other))


@settings(deadline=None)
@given(calls, st.sampled_from(["adapter", "weights", "kernel"]))
def test_base_and_candidate_never_share_a_key(call: Any, changed: str) -> None:
    spec, identity, messages, trial = call
    assert request_key(*call) != request_key(spec, identity | {changed: "c"}, messages, trial)


@settings(deadline=None)
@given(st.text(), texts)
def test_names_and_labels_are_no_part_of_the_key(name: str, label: str) -> None:
    replies = Replies(None, Asked())  # type: ignore[arg-type]
    one = replies.plan(SPEC, [USER], label=label)
    assert one.key == replies.plan(replace(SPEC, name=name), [USER]).key
    assert len(one.key) == 64


def test_the_length_is_the_cases_own() -> None:
    replies = Replies(None, Asked())  # type: ignore[arg-type]
    spec = replace(SPEC, system="long " * 50, template="wrapped {{ text }}", few_shot=(USER,) * 4)
    assert replies.plan(spec, [SYSTEM, USER]).length == len("be brief") + len("hi")


# ---------------------------------------------------------------------- gathering


def test_each_call_is_asked_once_and_never_again(path: Path) -> None:
    models = Asked()
    replies = Replies(Store(path), models)
    requests = planned(replies, SPEC, ["a", "b", "a"])
    found = replies.gather(requests)
    assert {r.key: found[r.key].text for r in requests} == {
        requests[0].key: "re: a",
        requests[1].key: "re: b",
    }
    assert replies.gather(requests) == found
    assert Replies(Store(path), models).gather(requests) == found
    assert sum(map(len, models.batches)) == 2


def test_editing_one_case_asks_one(path: Path) -> None:
    Replies(Store(path), first := Asked()).gather(
        planned(Replies(Store(path), first), SPEC, ["a", "b", "c"])
    )
    models = Asked()
    replies = Replies(Store(path), models)
    replies.gather(planned(replies, SPEC, ["a", "b!", "c"]))
    assert models.batches == [["b!"]]


def test_errors_are_returned_and_asked_again(path: Path) -> None:
    replies = Replies(Store(path), Asked({"a": Reply(error="down")}))
    requests = planned(replies, SPEC, ["a", "b"])
    assert replies.gather(requests)[requests[0].key].error == "down"
    models = Asked()
    assert Replies(Store(path), models).gather(requests)[requests[0].key].text == "re: a"
    assert models.batches == [["a"]]


def test_progress_counts_what_the_cache_does_not_hold(path: Path) -> None:
    replies = Replies(Store(path), Asked())
    texts = [str(number) for number in range(BATCH_ROWS + 5)]
    replies.gather(planned(replies, SPEC, texts[:3]))
    seen: list[Progress] = []
    replies.gather(planned(replies, SPEC, texts), seen.append)
    assert [one.total for one in seen] == [BATCH_ROWS + 2] * 2
    assert [one.done for one in seen] == [BATCH_ROWS - 3, BATCH_ROWS + 2]


def test_usage_tells_what_each_model_took(path: Path) -> None:
    costly = Reply(text="x", prompt_tokens=4, completion_tokens=6, latency_s=1.0, cost_usd=0.5)
    replies = Replies(Store(path), Asked({"bb": costly, "c": Reply(error="down")}))
    replies.gather(planned(replies, SPEC, ["a"]))
    again = Replies(Store(path), Asked({"bb": costly, "c": Reply(error="down")}))
    other = replace(SPEC, name="tuned", adapter=Path("x"))
    requests = planned(again, SPEC, ["a", "bb", "c", "a"]) + planned(again, other, ["a"])
    again.gather(requests)
    usage = again.usage(requests)
    assert usage["base"].requests == 3
    assert usage["base"].cached == 1
    assert usage["base"].prompt_tokens_mean == 3
    assert usage["base"].completion_tokens_mean == 6
    assert usage["base"].latency_p50_s == 0.1
    assert usage["base"].latency_p95_s == 1.0
    assert usage["base"].cost_usd == 0.5
    assert (usage["tuned"].requests, usage["tuned"].cached) == (1, 0)
    assert usage["tuned"].cost_usd is None


def test_a_model_that_another_arm_is_too_asks_nothing(path: Path) -> None:
    replies = Replies(Store(path), models := Asked())
    twin = replace(SPEC, name="twin")
    requests = planned(replies, SPEC, ["a"]) + planned(replies, twin, ["a"])
    replies.gather(requests)
    assert models.batches == [["a"]]
    usage = replies.usage(requests)
    assert (usage["base"].cached, usage["twin"].cached) == (0, 1)


# ---------------------------------------------------------------------- batches


def test_batches_are_cut_over_the_whole_plan_and_not_over_what_is_missing(path: Path) -> None:
    texts = [f"{number:03} {'word ' * (number % 9)}" for number in range(300)]
    fresh = Asked()
    replies = Replies(Store(path), fresh)
    replies.gather(planned(replies, SPEC, texts))
    known = texts[::7]
    models = Asked()
    replies = Replies(Store(path.with_name("other.sqlite")), models)
    replies.gather(planned(replies, SPEC, known))
    models.batches.clear()
    replies.gather(planned(replies, SPEC, texts))
    expected = [[text for text in batch if text not in known] for batch in fresh.batches]
    assert models.batches == expected
    lengths = [len(text) for batch in fresh.batches for text in batch]
    assert lengths == sorted(lengths)
    assert max(map(len, fresh.batches)) == BATCH_ROWS


def test_the_models_of_a_case_share_the_room_of_the_longest_prompt(path: Path) -> None:
    shot = ({"role": "user", "content": "x" * 30_000},)
    replies = Replies(Store(path), Asked())
    texts = [str(number) for number in range(10)]
    group = planned(replies, SPEC, texts) + planned(replies, replace(SPEC, few_shot=shot), texts)
    assert [len(batch) for batch in batches(group)] == [4, 4, 4, 4, 2, 2]


def test_cases_that_begin_alike_stay_among_themselves(path: Path) -> None:
    def case(number: int) -> Case:
        rules = {0: "be brief", 1: "be kind"}.get(number % 3, f"rule {number}")
        turns = ({"role": "system", "content": rules}, {"role": "user", "content": f"{number:03}"})
        return Case("demo", str(number), turns)

    replies = Replies(Store(path), Asked())
    arms = [SPEC, replace(SPEC, name="one", adapter=Path("1")), replace(SPEC, system="obey")]
    cases = [case(number) for number in range(150)]
    cut = [batches([replies.plan(arm, c.messages, case=c) for c in cases]) for arm in arms]
    ids = [[[r.case.id for r in batch if r.case] for batch in of_arm] for of_arm in cut]
    assert ids[0] == ids[1] == ids[2]
    kinds = [{int(one) % 3 for one in batch} for batch in ids[0]]
    assert sorted(map(sorted, kinds)) == [[0], [1], [2]]


def test_long_prompts_make_small_batches(path: Path) -> None:
    spec = replace(SPEC, few_shot=({"role": "user", "content": "x" * 30_000},))
    replies = Replies(Store(path), Asked())
    cut = batches(planned(replies, spec, [str(number) for number in range(10)]))
    assert [len(batch) for batch in cut] == [4, 4, 2]


def test_a_base_and_its_candidates_are_asked_in_the_same_company(path: Path) -> None:
    texts = [f"{'word ' * (number % 11)}{number % 13}{number}" for number in range(400)]
    replies = Replies(Store(path), models := Asked())
    shot = ({"role": "user", "content": "an example " * 60},)
    arms = [
        replace(SPEC, few_shot=shot),
        replace(SPEC, name="one", adapter=Path("1")),
        replace(SPEC, name="two", adapter=Path("2")),
    ]
    replies.gather([request for spec in arms for request in planned(replies, spec, texts)])
    companies = {tuple(sorted(batch)) for batch in models.batches}
    assert len(models.batches) == 3 * len(companies)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from harness.records import ModelSpec
from harness.replies import Replies
from harness.store import Store
from test_replies import Asked, planned, SPEC

class Deadly(Asked):
    def ask(self, batches):
        for number, answers in enumerate(super().ask(batches)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield answers

replies = Replies(Store(Path(sys.argv[1])), Deadly())
replies.gather(planned(replies, SPEC, [str(number) for number in range(500)]))
"""


def test_a_killed_run_keeps_its_batches_and_the_next_one_asks_only_the_rest(path: Path) -> None:
    here = str(Path(__file__).parent)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), here])
    assert killed.returncode == -signal.SIGKILL
    models = Asked()
    replies = Replies(Store(path), models)
    requests = planned(replies, SPEC, [str(number) for number in range(500)])
    undisturbed = Asked()
    expected = Replies(Store(path.with_name("other.sqlite")), undisturbed).gather(requests)
    assert replies.gather(requests) == expected
    assert models.batches == undisturbed.batches[2:]


# ---------------------------------------------------------------------- providers


def test_an_unknown_provider_is_named_with_the_known_ones() -> None:
    spec = replace(SPEC, provider="opnai", target="gpt")
    with pytest.raises(HarnessError) as caught:
        Models().identity(spec)
    assert "'base' is 'opnai:gpt'" in str(caught.value)
    assert "bundled, local, openai, python" in str(caught.value)


def module(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my_model.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_model", raising=False)


SOURCE = """
import asyncio
import sys
import pytest
from harness.records import Reply
def text(messages): return messages[-1]["content"].upper()
def reply(messages): return Reply(text="r", prompt_tokens=7)
def table(messages): return {"text": "t", "cost_usd": 0.1}
def wrong(messages): return 3
def typo(messages): return {"txt": "t"}
def infinite(messages): return Reply(text="x", cost_usd=float("inf"))
def unstorable(messages): return Reply(text="x", tool_calls=({"x": {1, 2}},))
def broken(messages): raise KeyError("lost")
def leaves(messages): sys.exit("quota used up")
def cancelled(messages): raise asyncio.CancelledError("by the service")
def skips(messages): pytest.skip("no key")
def speechless(messages):
    class Odd(Exception):
        def __str__(self): raise ValueError
    raise Odd
def stopped(messages): raise KeyboardInterrupt
value = 3
"""


def ask_python(path: Path, name: str) -> Reply:
    replies = Replies(Store(path))
    request = replies.plan(replace(SPEC, target=f"my_model:{name}"), [USER])
    reply = replies.gather([request])[request.key]
    replies.close()
    return reply


def test_a_python_function_is_a_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, SOURCE, monkeypatch)
    assert ask_python(path, "text").text == "HI"
    assert (ask_python(path, "text").latency_s or -1) > 0
    assert ask_python(path, "reply").prompt_tokens == 7
    assert ask_python(path, "table").cost_usd == 0.1
    assert "not int" in str(ask_python(path, "wrong").error)
    assert "txt" in str(ask_python(path, "typo").error)
    assert "finite" in str(ask_python(path, "infinite").error)
    assert "set is not JSON" in str(ask_python(path, "unstorable").error)
    assert ask_python(path, "broken").error == "python:my_model:broken raised KeyError: 'lost'"


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("leaves", "SystemExit: quota used up"),
        ("cancelled", "CancelledError: by the service"),
        ("skips", "Skipped: no key"),
        ("speechless", "Odd"),
    ],
)
def test_the_end_of_a_python_function_is_its_error_and_ends_no_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raised: str
) -> None:
    module(tmp_path, SOURCE, monkeypatch)
    assert ask_python(path, name).error == f"python:my_model:{name} raised {raised}"


def test_ctrl_c_in_a_python_function_ends_the_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, SOURCE, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        ask_python(path, "stopped")


@pytest.mark.parametrize("source", ["import sys\nsys.exit(1)", "raise BaseException('odd')"])
def test_a_module_that_ends_when_it_is_imported_is_a_mistake(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    module(tmp_path, source, monkeypatch)
    with pytest.raises(HarnessError, match="cannot be imported"):
        ask_python(path, "answer")


def test_no_python_function_is_called_before_an_earlier_reply_is_kept(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run that is killed loses are the calls of its threads, however slow the disk is."""
    source = "begun = []\ndef answer(messages):\n    begun.append(1)\n    return 'yes'\n"
    module(tmp_path, source, monkeypatch)
    store, kept, begun = Store(path), [0], []
    keep = store.put_replies

    def put_slowly(*arguments: Any) -> None:
        time.sleep(0.02)  # long enough for every call that could begin
        begun.append((len(importlib.import_module("my_model").begun), kept[0]))
        keep(*arguments)
        kept[0] += 1

    monkeypatch.setattr(store, "put_replies", put_slowly)
    replies = Replies(store)
    spec = replace(SPEC, target="my_model:answer")
    replies.gather(planned(replies, spec, [str(number) for number in range(30)]))
    replies.close()
    assert kept == [30]
    assert all(calls <= stored + THREADS for calls, stored in begun), begun


def test_progress_tells_how_many_functions_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, SOURCE, monkeypatch)
    replies = Replies(Store(path))
    requests = planned(replies, replace(SPEC, target="my_model:text"), [str(n) for n in range(20)])
    seen: list[Progress] = []
    replies.gather(requests, seen.append)
    assert [one.in_flight for one in seen] == [min(THREADS - 1, left) for left in range(19, -1, -1)]
    replies.close()


def test_an_edited_python_model_is_asked_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, "def answer(messages): return 'one'", monkeypatch)
    assert ask_python(path, "answer").text == "one"
    module(tmp_path, "def answer(messages): return 'three'", monkeypatch)
    assert ask_python(path, "answer").text == "three"


@pytest.mark.parametrize(
    "target",
    ["my_model", "my_model:", ":f", "nowhere:f", "my_model:gone", "my_model:value", ".a:f"],
)
def test_a_function_that_is_not_there_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    module(tmp_path, SOURCE, monkeypatch)
    replies = Replies(Store(path))
    with pytest.raises(HarnessError, match=rf"'base' \(python:{target}\) cannot be imported: "):
        replies.gather([replies.plan(replace(SPEC, target=target), [USER])])
