"""`harness cache`: what it holds, making room, why a case was asked again; a damaged store."""

from __future__ import annotations


def test_the_cache_is_counted_by_model(project):
    project.settings(base="half", cand="right")
    project.run()
    status, text = project.harness("cache")
    assert status == 0
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["model", "replies", "size", "oldest", "newest"]
    assert [row[:2] for row in rows[1:]] == [
        ["python:stub_models:half", "24"],
        ["python:stub_models:right", "24"],
        ["all", "48"],
    ]


def test_pruning_a_model_asks_it_again_and_nothing_else(project):
    project.settings(base="half", cand="right")
    project.run()
    project.forget_calls()
    status, text = project.harness("cache", "prune", "--model", "python:stub_models:half")
    assert (status, text.strip()) == (0, "deleted 24 replies")
    assert project.harness("cache", "prune", "--older-than", "1d") == (0, "deleted 0 replies\n")
    assert project.run().status == 0
    assert {name for name, _ in project.calls()} == {"half"}
    status, text = project.harness("runs")
    assert (status, text.count("PASS") + text.count("pass")) == (0, 2), "the runs are kept"


def test_mistakes_with_the_cache_are_told(project):
    project.settings(base="half")
    assert project.harness("cache")[0] == 4
    project.run()
    for arguments, words in (
        (["prune"], "say which replies"),
        (["prune", "--older-than", "soon"], "'soon' is no age; write days or hours"),
        (["prune", "--model", "openai:x"], "there: python:stub_models:half"),
        (["explain", "demo:c99"], "no reply is stored for 'demo:c99'"),
    ):
        status, text = project.harness("cache", *arguments)
        assert status == 4, arguments
        assert words in text.replace("\n", " ")


def test_why_a_case_was_asked_again_is_explained(project):
    project.settings(base="half")
    project.run()
    rows = (project.root / "data/demo.jsonl").read_text().replace("is it 7", "could it be 7")
    project.write("data/demo.jsonl", rows)
    project.run()
    status, text = project.harness("cache", "explain", "demo:c7")
    assert status == 0
    told = " ".join(text.split())
    assert told.count("python:stub_models:half") == 2
    assert "differs from the nearest before it (demo:c7): message 1 is" in told
    assert '"could it be 7"' in told


def test_a_damaged_store_is_told_and_what_can_be_read_is_not_asked_again(project, workers):
    project.rows("data/demo.jsonl", project.questions(200))
    project.settings(base="half")
    project.run()
    project.forget_calls()
    path = project.root / ".harness/store.sqlite"
    data = bytearray(path.read_bytes())
    at = data.index(b'"text": "yes"', len(data) // 2) // 4096 * 4096
    data[at : at + 4096] = b"\x55" * 4096
    path.write_bytes(data)
    run = project.run(*workers)
    assert run.status == 0
    assert len(project.calls()) < 100
    told = run.text.replace("\n", " ")
    assert "the store was damaged; " in told
    assert any("some of it may be lost" in alarm for alarm in run.results["alarms"])
    assert "the damaged file is kept as store.sqlite.damaged-" in told
    assert list(path.parent.glob("store.sqlite.damaged-*"))


def test_a_store_that_is_rubbish_is_kept_aside_and_begun_anew(project):
    project.settings(base="half")
    project.write(".harness/store.sqlite", "no database")
    run = project.run()
    assert run.status == 0
    assert "0 replies and 0 runs could be read" in run.text.replace("\n", " ")
