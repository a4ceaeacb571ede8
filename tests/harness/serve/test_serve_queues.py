"""Queues are bounded: who comes too late is told when to come again."""

import pytest

from harness.records import ModelSpec, Sampling
from harness.serve import batching, jobs
from harness.serve.state import State
from harness.serve.wire import ProtocolError


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
