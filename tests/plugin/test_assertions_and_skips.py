"""Assertions outside of the function's body, and skips, count as what they are."""

from __future__ import annotations

import pytest

SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")

{}
"""
FAILURES = {
    "a fixture": """
@pytest.fixture
def answer(reply):
    assert reply.text == "yes", "it said no"
    return reply.text

def test_it(answer):
    assert answer
""",
    "a fixture behind another": """
@pytest.fixture
def answer(reply):
    return reply.text

@pytest.fixture
def whole(answer, score):
    score.exact(name="whole")
    assert answer == "yes", "it said no"
    yield answer

def test_it(whole):
    if whole != "yes":
        raise OSError("never reached")
""",
    "a fixture that is asked for late": """
@pytest.fixture(autouse=True)
def answer(request):
    assert request.getfixturevalue("reply").text == "yes", "it said no"

def test_it(case):
    pass
""",
    "a decorated fixture of a class": """
import functools

def wrapped(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        return function(*arguments, **named)
    return wrapper

class TestIt:
    @pytest.fixture
    @wrapped
    def answer(self, reply):
        assert reply.text == "yes", "it said no"

    def test_it(self, answer):
        pass
""",
    "an exception that does not come": """
def test_it(reply):
    if reply.text != "yes":
        with pytest.raises(ValueError, match="it said no"):
            reply.text.upper()
""",
    "a fixture that talks": """
@pytest.fixture
def answer(case, model):
    assert model.ask(case.text).text == "yes", "it said no"

def test_it(answer):
    pass
""",
    "the end of a fixture": """
@pytest.fixture
def answer(reply):
    yield reply.text
    assert reply.text == "yes", "it said no"

def test_it(answer):
    assert answer
""",
    "a finalizer of a fixture": """
@pytest.fixture
def answer(request, reply):
    def agrees():
        assert reply.text == "yes", "it said no"

    request.addfinalizer(agrees)

def test_it(answer):
    pass
""",
    "a finalizer of the function": """
def _check(text):
    assert text == "yes", "it said no"

def test_it(request, reply):
    request.addfinalizer(lambda: _check(reply.text))
""",
    "an async fixture": """
@pytest.fixture
async def answer(reply):
    assert reply.text == "yes", "it said no"

async def test_it(answer):
    pass
""",
    "pytest.fail": """
def test_it(reply):
    if reply.text != "yes":
        pytest.fail("it said no")
""",
    "pytest.fail of a decorator": """
import functools

def answers(function):
    @functools.wraps(function)
    def whole(reply):
        if reply.text != "yes":
            pytest.fail("it said no")
        function(reply)

    return whole

@answers
def test_it(reply):
    pass
""",
    "an async pytest.fail": """
async def test_it(reply):
    if reply.text != "yes":
        pytest.fail("it said no")
""",
    "pytest.raises": """
def test_it(reply):
    with pytest.raises(LookupError):
        print("it said no" if reply.text != "yes" else [][0])
""",
    "pytest.xfail": """
def test_it(reply):
    if reply.text != "yes":
        pytest.xfail("it said no")
""",
    "a strict mark of xfail": """
@pytest.mark.xfail(strict=True)
def test_it(reply):
    assert reply.text == "yes", "it said no"
""",
    "a mark of xfail": """
@pytest.mark.xfail
def test_it(reply):
    if reply.text != "yes":
        pytest.fail("it said no")
""",
    "a group": """
def test_it(reply):
    if reply.text != "yes":
        raise ExceptionGroup("both", [AssertionError("it said no"), AssertionError("it did")])
""",
    "a subtest": """
def test_it(reply, subtests):
    for word in ("yes", reply.text):
        with subtests.test(word=word):
            assert reply.text == word, "it said no"
""",
    "a subtest in a fixture": """
@pytest.fixture
def answer(reply, subtests):
    for word in ("yes", reply.text):
        with subtests.test(word=word):
            assert reply.text == word, "it said no"

def test_it(answer):
    pass
""",
    "a subtest at the end of a fixture": """
@pytest.fixture
def answer(reply, subtests):
    yield
    for word in ("yes", reply.text):
        with subtests.test(word=word):
            assert reply.text == word, "it said no"

def test_it(answer):
    pass
""",
    "pytest-check": """
def test_it(reply, check):
    check.equal(reply.text, "yes", "it said no")
    check.equal(1, 1)
""",
    "pytest-check in a fixture": """
@pytest.fixture
def answer(reply, check):
    check.equal(reply.text, "yes", "it said no")
    return reply

def test_it(answer):
    assert answer.text
""",
}
PLUGINS = ("-p", "asyncio", "-o", "asyncio_mode=auto", "-p", "pytest_check.plugin")


def _write_all(project, failures):
    """Write one test of every kind: the suites are named after them."""
    for name, body in failures.items():
        file = "".join(letter if letter.isalnum() else "_" for letter in name)
        project.write(f"evals/test_{file}.py", SUITE.format(body))
    (project.root / "evals/test_demo.py").unlink()
    return len(failures)


def test_an_assertion_is_a_score_wherever_it_fails(project, workers):
    kinds = _write_all(project, FAILURES)
    project.rows("data/demo.jsonl", project.questions(12))
    project.settings(
        "[tool.harness.gates]\nit = { max_regressions = 0 }\n", base="right", cand="half"
    )
    run = project.run(*PLUGINS, *workers, "--junit-xml=junit.xml")
    assert run.status == 1, run.text
    assert run.results["errors"] == []
    means = {
        metric["metric"]: (metric["baseline_mean"], metric["candidate_mean"])
        for metric in run.results["metrics"]
        if metric["metric"].endswith(".it")
    }
    assert len(means) == kinds
    assert set(means.values()) == {(1.0, 0.5)}
    gates = {name: outcome for name, outcome in project.gates().items() if ".it[" in name}
    assert set(gates.values()) == {"failure"}
    assert run.counts["failed"] == len(gates) == kinds, "only gates fail"
    page = (project.root / "reports/latest/index.html").read_text("utf-8")
    assert page.count("it said no") >= kinds - 1, "the page says why"
    assert run.metric("a_fixture_behind_another.whole")["candidate_mean"] == 0.5
    statuses = {case["status"]["cand"][f"{case['suite']}.it"] for case in run.results["cases"]}
    assert statuses == {"held", "regressed"}


ERRORS = {
    "an async test without a plugin for it": """
async def test_it(reply):
    pass
""",
    "a fixture without the reply": """
@pytest.fixture
def room(case, model):
    assert model.name == "base", "no room"

def test_it(room, reply):
    pass
""",
    "another exception of a fixture": """
@pytest.fixture
def answer(reply):
    if reply.text == "no":
        raise OSError("no room")

def test_it(answer):
    pass
""",
    "the end of a fixture": """
@pytest.fixture
def answer(reply):
    yield
    if reply.text == "no":
        raise OSError("no room")

def test_it(answer):
    pass
""",
    "a finalizer": """
@pytest.fixture
def answer(reply, request):
    def leave():
        if reply.text == "no":
            raise OSError("no room")

    request.addfinalizer(leave)

def test_it(answer):
    pass
""",
    "a subtest": """
def test_it(reply, subtests):
    with subtests.test():
        if reply.text == "no":
            raise OSError("no room")
""",
    "a mark of xfail": """
@pytest.mark.xfail
def test_it(reply):
    if reply.text == "no":
        raise OSError("no room")
""",
    "a group": """
def test_it(reply):
    if reply.text == "no":
        raise ExceptionGroup("both", [AssertionError("it said no"), OSError("no room")])
""",
    "a time limit": """
import time

@pytest.mark.timeout(0.1)
def test_it(reply):
    if reply.text == "no":
        time.sleep(2)
""",
}


def test_any_other_exception_is_an_evaluation_error(project):
    kinds = _write_all(project, ERRORS)
    project.rows("data/demo.jsonl", project.questions(2))
    project.settings(base="right", cand="wrong", worse="wrong")
    run = project.run("-p", "pytest_timeout", "--tb=no")
    assert run.status == 6, run.text
    told = [error.partition(".")[0] for error in run.results["errors"] if " under cand: " in error]
    assert len(set(told)) == len(told) == kinds, run.results["errors"]


def test_a_mistake_in_a_fixture_is_told_as_one_in_the_function(project):
    body = "@pytest.fixture\ndef answer(score):\n    score.exact()\n    score.exact()\n{}\n\n"
    project.write(
        "evals/test_demo.py", SUITE.format(body.format("") + "def test_it(answer):\n    pass\n")
    )
    late = body.replace("    score", "    yield\n    score", 1).format("")
    project.write("evals/test_late.py", SUITE.format(late + "def test_it(answer):\n    pass\n"))
    project.settings(base="right", cand="half")
    run = project.run()
    assert run.status == 4, run.text
    assert len(run.errors) == 2
    assert all("is recorded twice for one case" in error for error in run.errors)


SKIPS = {
    "in the body": """
def test_it(case, reply):
    if case.id == "c3":
        pytest.skip("asks for no number")
    assert reply.text == "yes"
""",
    "behind a check": """
def test_it(case, score):
    score.exact()
    if case.id == "c3":
        pytest.skip("asks for no number")
""",
    "in a fixture": """
@pytest.fixture
def applies(case):
    if case.id == "c3":
        pytest.importorskip("nothing_of_this_name", reason="asks for no number")

def test_it(applies, reply):
    assert reply.text == "yes"
""",
    "by a mark": """
@pytest.fixture
def applies(request, case):
    if case.id == "c3":
        request.applymarker(pytest.mark.skip(reason="asks for no number"))

def test_it(reply):
    assert reply.text == "yes"

@pytest.mark.skipif(True, reason="asks for no number")
def test_never(reply):
    raise OSError

@pytest.mark.xfail(run=False, reason="it hangs")
def test_later(reply):
    raise OSError
""",
}


def test_a_case_that_is_skipped_under_all_models_is_left_out_and_named(project, workers):
    _write_all(project, SKIPS)
    project.rows("data/demo.jsonl", project.questions(6))
    project.settings(base="right", cand="right")
    run = project.run(*workers, "--harness-trials=2", "--junit-xml=junit.xml")
    assert run.status == 0, run.text
    told = " ".join(run.text.split())
    for suite in ("in_the_body", "behind_a_check", "in_a_fixture"):
        note = "test_it: 1 case skipped under all models and left out (asks for no number): c3"
        assert f"{suite}.{note}" in told
        [metric] = [m for m in run.results["metrics"] if m["metric"].startswith(suite)]
        assert (metric["n"], metric["missing"], metric["unscored"]) == (5, 0, 0)
    assert "by_a_mark.test_never: 6 cases skipped under all models and left out" in told
    assert "test_later: 6 cases skipped under all models and left out ([NOTRUN] it hangs)" in told
    page = (project.root / "reports/latest/index.html").read_text("utf-8")
    assert "case skipped under all models and left out (asks for no number): c3" in page
    assert set(project.gates().values()) == {"passed"}


@pytest.mark.parametrize("condition", ['model.name == "cand" and case.id == "c3"', "first()"])
def test_what_is_skipped_under_one_model_or_trial_alone_lacks_evidence(project, condition):
    project.write(
        "evals/test_demo.py",
        SUITE.format(
            "def first(seen=[]):\n    seen.append(1)\n    return len(seen) == 1\n\n\n"
            "def test_it(case, reply, model):\n"
            f"    if {condition}:\n        pytest.skip('not for this one')\n    assert reply.text\n"
        ),
    )
    project.rows("data/demo.jsonl", project.questions(6))
    project.settings(base="right", cand="right")
    run = project.run("--harness-trials=2")
    assert run.status == 6, run.text
    assert "skipped under this model: not for this one" in " ".join(run.results["errors"])


GATE = "[tool.harness.gates]\nit = { at_least = 0.5 }\n"


@pytest.mark.parametrize(
    ("gates", "other", "words"),
    [
        ("", "", "every case was skipped, so nothing was compared"),
        (GATE, "def test_other(reply):\n    assert reply.text\n", "gates.it: no test recorded"),
    ],
    ids=["nothing is left", "a gate has no case"],
)
def test_a_run_whose_evidence_was_skipped_is_undecidable(project, gates, other, words):
    skipped = "@pytest.mark.skip(reason='later')\ndef test_it(reply):\n    assert reply.text\n\n\n"
    project.write("evals/test_demo.py", SUITE.format(skipped + other))
    project.settings(gates, base="right", cand="right")
    run = project.run()
    assert run.status == 6, run.text
    assert words in " ".join(run.results["errors"])
