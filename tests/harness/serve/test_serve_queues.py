"""Queues are bounded: who comes too late is told when to come again."""

import asyncio
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models import guide
from harness.records import ModelSpec, Sampling
from harness.serve import batching, chat, jobs, prompts
from harness.serve.catalog import Served
from harness.serve.state import State
from harness.serve.wire import ProtocolError, while_connected


def test_jobs_that_wait_are_bounded(tmp_path):
    state = State(tmp_path)
    waiting = jobs.Jobs(state)
    asked = jobs.JobRequest(model="x", training_file="file-x")
    made = [jobs.new_job(asked, {}) for _ in range(jobs.MOST_OPEN + 1)]
    for job in made[:-1]:
        waiting.add(job)
    with pytest.raises(ProtocolError) as refusal:
        waiting.add(made[-1])
    assert refusal.value.status == 429
    assert int(refusal.value.headers["Retry-After"]) > 0
    waiting.cancel(made[0].id)
    waiting.add(made[-1])
    assert [job.id for job in jobs.Jobs(state).all()] == [job.id for job in made]
    state.close()


def test_requests_that_wait_are_bounded(tiny_base):
    from harness.models.guide import NO_WISH

    batcher = batching.Batcher()
    spec = ModelSpec("x", "local", str(tiny_base))
    many = batching.MOST_WAITING + 1
    with pytest.raises(ProtocolError) as refusal:
        batcher.ask(spec, ({"role": "user", "content": "x"},), many, [NO_WISH] * many)
    assert refusal.value.status == 429
    assert int(refusal.value.headers["Retry-After"]) > 0
    batcher.close()


def test_a_short_reply_does_not_wait_for_a_long_one_of_its_batch(tiny_base):
    from harness.models.guide import Wish

    batcher, replies, was_there = batching.Batcher(), [], []
    spec = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(max_tokens=40))
    wishes = [
        Wish(heard=lambda text: False),
        Wish(heard=lambda text: was_there.append(replies[0].done()) or True),
    ]
    replies += batcher.ask(spec, ({"role": "user", "content": "x"},), 2, wishes)
    short, long = (reply.result(timeout=60).completion_tokens for reply in replies)
    assert short < long
    assert was_there[-1]
    batcher.close()


def test_who_wants_many_replies_leaves_room_for_those_who_want_one(tiny_base):
    from harness.models.guide import NO_WISH

    batcher = batching.Batcher()
    asked = ({"role": "user", "content": "x"},)
    long = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(1.5, 150))
    many = 2 * batching.MOST_ROWS
    replies = batcher.ask(long, asked, many, [NO_WISH] * many)
    with pytest.raises(ProtocolError):
        batcher.ask(
            long, asked, batching.MOST_WAITING // 2, [NO_WISH] * (batching.MOST_WAITING // 2)
        )
    short = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(max_tokens=1))
    [reply] = batcher.ask(short, asked, 1, [NO_WISH])
    assert reply.result(timeout=60).completion_tokens == 1
    assert not all(other.done() for other in replies)
    for other in replies:
        other.cancel()
    batcher.close()


def test_who_comes_later_does_not_wait_for_a_long_reply(tiny_base):
    from harness.models.guide import NO_WISH, Wish

    batcher, begun, released = batching.Batcher(), threading.Event(), threading.Event()

    def wanted():
        begun.set()
        time.sleep(0.005)  # as slow as a model of some size
        return not released.is_set()

    asked = ({"role": "user", "content": "x"},)
    long = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(max_tokens=450))
    short = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(max_tokens=2))
    [slow] = batcher.ask(long, asked, 1, [Wish(wanted=wanted)])
    assert begun.wait(60)
    for _ in range(3):
        [quick] = batcher.ask(short, asked, 1, [NO_WISH])
        assert quick.result(timeout=60).completion_tokens <= 2
        assert not slow.done()
    released.set()
    assert slow.result(timeout=60).error is None
    batcher.close()


def test_nobody_joins_before_those_who_wait_for_another_model(tiny_base, tmp_path):
    from harness.models.guide import Wish

    shutil.copytree(tiny_base, tmp_path / "other")
    batcher, begun, released, order = batching.Batcher(), threading.Event(), threading.Event(), []

    def wanted():
        begun.set()
        released.wait(60)
        return True

    def ask(folder, name, **wish):
        spec = ModelSpec("x", "local", str(folder), sampling=Sampling(max_tokens=3))
        [reply] = batcher.ask(spec, ({"role": "user", "content": "x"},), 1, [Wish(**wish)])
        reply.add_done_callback(lambda _: order.append(name))
        return reply

    ask(tiny_base, "first", wanted=wanted)
    assert begun.wait(60)
    ask(tmp_path / "other", "second")
    last = ask(tiny_base, "third")
    released.set()
    assert last.result(timeout=60).error is None
    assert order == ["first", "second", "third"]
    batcher.close()


def test_a_reply_that_nobody_waits_for_is_not_finished(tiny_base):
    from harness.models.guide import Wish

    batcher = batching.Batcher()
    spec = ModelSpec("x", "local", str(tiny_base), sampling=Sampling(max_tokens=60))
    wishes = [
        Wish(wanted=lambda: False),
        Wish(wanted=lambda: False, stop=("nowhere",)),
        Wish(wanted=lambda: True),
    ]
    replies = batcher.ask(spec, ({"role": "user", "content": "x"},), 3, wishes)
    left, stopped, waited = (reply.result(timeout=60).completion_tokens for reply in replies)
    assert left <= 1
    assert stopped <= 1
    assert waited > 1
    batcher.close()


def test_a_client_that_leaves_is_not_answered_on():
    class Gone:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def leave():
        cancelled = asyncio.Event()

        async def answer():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        with pytest.raises(ProtocolError):
            await while_connected(Gone(), answer())
        await asyncio.wait_for(cancelled.wait(), 10)

    run(leave())


@pytest.mark.parametrize("answer", [chat.complete, chat.stream])
def test_a_request_that_is_given_up_is_wanted_no_more(answer):
    async def give_up():
        asked, futures = [], [Future()]

        class Prompts:
            async def ask(self, spec, conversation, wishes):
                asked.extend(wishes)
                return futures

        served = Served("x", ModelSpec("x", "local", "y"), 0)
        request = chat.ChatRequest(model="x", messages=[{"role": "user", "content": "x"}])
        task = asyncio.ensure_future(answer(request, served, Prompts()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert futures[0].cancelled()
        [wish] = asked
        assert not (wish.heard("piece") if wish.heard else wish.is_wanted)

    run(give_up())


def test_long_prompts_wait_for_each_other_and_short_ones_for_none():
    async def ask():
        lanes, going = prompts.Lanes(), threading.Event()
        long = conversation("x" * prompts.LONG_CHARACTERS)
        held = [
            asyncio.ensure_future(lanes.run(long, lambda: going.wait(20)))
            for _ in range(prompts.MOST_LONG)
        ]
        await asyncio.sleep(0)
        try:
            short = lanes.run(conversation("x"), lambda: "short")
            assert await asyncio.wait_for(short, 10) == "short"
            with pytest.raises(ProtocolError) as refusal:
                await lanes.run(long, lambda: None)
            assert refusal.value.status == 429
        finally:
            going.set()
            lanes.close()
        await asyncio.gather(*held, return_exceptions=True)

    run(ask())


def conversation(text):
    return prompts.Conversation([{"role": "user", "content": text}])


def run(work):
    with ThreadPoolExecutor(1) as thread:  # a browser's tests leave a loop running in this one
        thread.submit(asyncio.run, work).result()


TEXTS = st.text(alphabet="ab", max_size=12)


@given(TEXTS, TEXTS.filter(bool))
def test_what_may_begin_a_stop_is_kept_back(text, stop):
    longest = max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    assert guide._overlap(text, stop) == longest
