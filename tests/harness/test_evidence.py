"""Item results -> evidence: which cases are one cluster."""

from __future__ import annotations

from harness.evaluation import ItemResult
from harness.evidence import evidence_of
from harness.records import Reply


def result(id_: str, prompt: str, cluster: str | None = None) -> ItemResult:
    return ItemResult(
        suite="demo",
        id=id_,
        test="test_it",
        arm="base",
        guard=False,
        plain=False,
        prompt=prompt,
        expected=None,
        tags=(),
        cluster=cluster,
        digest=f"digest of {id_}",
        reply=Reply("yes"),
        error="",
        trial=0,
        asserted=True,
        explanation="",
        mistake="",
        scores=(),
    )


def test_prompts_that_read_the_same_are_one_cluster() -> None:
    results = [
        result("a", "Wo ist mein Päckchen?"),
        result("b", "Wo ist mein Pa\u0308ckchen?"),
        result("c", "Wo ist\u00a0mein Päckchen?\u200b"),
        result("d", "Wo ist mein Packchen?"),
        result("e", "Wo ist mein Päckchen?", cluster="told"),
    ]
    clusters = evidence_of(results).clusters
    same = "prompt digest of a"
    assert {id_: name for (_, id_), name in clusters.items()} == {
        "a": same,
        "b": same,
        "c": same,
        "e": "told",
    }
