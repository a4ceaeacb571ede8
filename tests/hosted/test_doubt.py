"""Nobody knows whether a job was made: nothing more is created until a person has looked."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.jobs import adopt, forget, overview
from harness.records import EvidenceError, HarnessError, ModelSpec
from trainers import protocol
from trainers.ledger import Entry, Ledger
from trainers.service import Service

METHOD = {"type": "supervised", "supervised": {"hyperparameters": {}}}
BODY = {"model": "base-1", "training_file": "file-0", "method": METHOD}


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers import hosted

    monkeypatch.setattr(hosted, "SETTLED_S", 0.2)


class _Plan:
    """As much of a plan as jobs are looked up by."""

    def __init__(self, project: Any, **recipes: Any) -> None:
        self.home = project.home
        self.hosted = recipes or {"cand": project.recipe()}


def doubtful(project: Any, fault: str = "500 after") -> str:
    """Leave the job of the project in doubt and return what was said."""
    project.service.faults["create"] = [fault]
    return str(project.train(project.recipe()).failed["cand"])


@pytest.mark.parametrize("fault", ["500", "500 after", "text 502 after", "drop", "drop after"])
@pytest.mark.parametrize("list_route", ["", "404"])
def test_a_creation_without_an_answer_is_never_repeated_before_somebody_has_looked(
    account: Any, fault: str, list_route: str
) -> None:
    project = account(metadata_kept=False, always={"list": list_route})
    first = doubtful(project, fault)
    second = project.train(project.recipe()).failed["cand"]
    for told in (first, second):
        assert "it is not known whether http://127.0.0.1" in told
        assert "`harness jobs adopt ID cand` takes a job over" in told
        assert "`harness jobs forget cand`" in told
    assert ("it may be ftjob-0" in second) == ("after" in fault and not list_route)
    assert project.service.calls["create"] == 1


@pytest.mark.parametrize("answer", ["garbage", "html", "null", "list", "empty"])
def test_an_answer_that_names_no_job_leaves_a_doubt(account: Any, answer: str) -> None:
    project = account(metadata_kept=False)
    assert "it may be ftjob-0" in doubtful(project, answer)
    assert project.service.calls["create"] == 1


def test_a_refusal_leaves_no_doubt(account: Any) -> None:
    project = account(metadata_kept=False, always={"list": "404"})
    for fault in ("400", "text 422", "403"):
        project.service.faults["create"] = [fault]
        assert "it is not known" not in project.train(project.recipe()).failed["cand"]
    project.service.faults["create"] = ["429", "409"]
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 1


def test_a_service_that_is_not_reached_leaves_no_doubt(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = account(metadata_kept=False)
    nowhere = ModelSpec("x", "openai", "base-1", options={"base_url": "http://127.0.0.1:1/v1"})

    def unreached(_: Service, body: Any) -> str:
        with Service(nowhere) as service:
            return create(service, body)

    create = protocol.create
    monkeypatch.setattr(protocol, "create", unreached)
    told = project.train(project.recipe()).failed["cand"]
    assert "could not begin: the connection failed" in told
    monkeypatch.undo()
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 1


def test_a_job_with_our_file_and_suffix_is_ours_without_metadata(account: Any) -> None:
    project = account(metadata_kept=False, suffix_shown=True)
    project.train(project.recipe(seed=1))
    project.service.faults["create"] = ["500 after"]
    made = project.train(project.recipe())
    assert made.failed == {}
    assert made.candidates["cand"].model == "ft:base-1:org:cand:ftjob-1"
    assert len(project.service.jobs) == 2


def test_somebody_elses_jobs_are_not_taken_for_ours(account: Any) -> None:
    project = account(metadata_kept=False, suffix_shown=True)
    project.train(project.recipe(seed=1))
    forget_all(project)
    for other in ({"suffix": "x"}, {"model": "base-2"}, {"seed": 1}, {"training_file": "file-9"}):
        body = {**project.service.jobs["ftjob-0"]["body"], "seed": 0, **other}
        project.service.files.setdefault(body["training_file"], b"")
        project.service._create(body)
    told = doubtful(project, "500")
    assert "it may be" not in told
    assert project.service.calls["create"] == 2


def forget_all(project: Any) -> None:
    """Lose the ledger's entries, as on another machine."""
    for path in (project.home / "jobs").glob("*.json"):
        path.unlink()


def test_a_doubt_is_listed_and_a_job_is_adopted(account: Any) -> None:
    project = account(metadata_kept=False, job_s=0)
    doubtful(project)
    plan: Any = _Plan(project)
    [told] = overview(plan)
    assert told.startswith("cand: training cand: a job was asked for at ")
    for _ in range(2):
        assert adopt(plan, "ftjob-0").startswith("cand: the job ftjob-0 (succeeded) is taken over")
    assert project.train(project.recipe()).candidates["cand"].model.endswith("ftjob-0")
    assert len(project.service.jobs) == 1


def test_a_forgotten_doubt_lets_the_next_run_create_the_job(account: Any) -> None:
    project = account(metadata_kept=False)
    doubtful(project, "500")
    plan: Any = _Plan(project)
    assert forget(plan) == "cand: the job is forgotten; the next run asks for another"
    assert forget(plan, "cand") == "cand: no job was asked for; the next run asks for one"
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 1


def test_a_job_that_lives_is_not_forgotten(account: Any) -> None:
    project = account(job_s=60)
    plan: Any = _Plan(project)
    Ledger(project.home).remember(plan.hosted["cand"], Entry(time.time()))
    project.service.files["file-0"] = b""
    project.service._create(BODY)
    adopt(plan, "ftjob-0", "cand")
    with pytest.raises(HarnessError, match=r"the job ftjob-0, which is not in doubt.*jobs cancel"):
        forget(plan)
    project.service.jobs["ftjob-0"]["cancelled"] = True
    assert "is forgotten" in forget(plan)


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("ftjob-9", "knows no job 'ftjob-9'"),
        ("", "knows no job ''"),
        ("ftjob-1", "it trains base-2 and not base-1"),
        ("ftjob-2", "its metadata name another recipe"),
        ("ftjob-3", "it trains on file-x and not on file-0"),
    ],
)
def test_a_foreign_job_is_not_adopted(account: Any, job: str, told: str) -> None:
    project = account()
    doubtful(project, "500")
    service = project.service
    service.files["file-x"] = b""
    service._create(BODY)
    service._create({**BODY, "model": "base-2"})
    service._create({**BODY, "metadata": {"pytest_finetune_recipe": "0" * 16}})
    service._create({**BODY, "training_file": "file-x"})
    plan: Any = _Plan(project)
    with pytest.raises(HarnessError) as problem:
        adopt(plan, job)
    assert told in str(problem.value)
    assert Ledger(project.home).entry(plan.hosted["cand"]).job == ""


def test_the_job_of_another_candidate_is_not_adopted(account: Any) -> None:
    project = account(metadata_kept=False)
    project.train(project.recipe(seed=1))
    doubtful(project)
    plan: Any = _Plan(project, one=project.recipe(), two=project.recipe(seed=1))
    with pytest.raises(HarnessError, match="it is another recipe's"):
        adopt(plan, "ftjob-0")
    assert "ftjob-1" in adopt(plan, "ftjob-1")
    with pytest.raises(HarnessError, match=r"name one of the hosted candidates \(one, two\)"):
        adopt(plan, "ftjob-1")


def test_a_service_that_is_away_settles_no_doubt(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = account(metadata_kept=False)
    doubtful(project)
    project.service.always["job"] = "401"
    plan: Any = _Plan(project)
    with pytest.raises(EvidenceError, match="cand: the server answered 401"):
        adopt(plan, "ftjob-0")


def test_an_entry_that_cannot_be_read_is_a_doubt(account: Any) -> None:
    project = account(metadata_kept=False)
    doubtful(project)
    [path] = (project.home / "jobs").glob("*.json")
    for content in (b"", b"{", b"[]", b'{"since": "x", "job": 5}', b"\xff\xfe"):
        path.write_bytes(content)
        assert "it is not known whether" in project.train(project.recipe()).failed["cand"]
    assert project.service.calls["create"] == 1


def test_a_job_that_its_service_no_longer_knows_is_a_doubt(account: Any) -> None:
    project = account(metadata_kept=False, job_s=60)
    recipe = project.recipe(deadline_h=0.0001)
    assert "not over" in project.train(recipe).failed["cand"]
    project.service.faults["job"] = ["404"]
    told = project.train(recipe).failed["cand"]
    assert "the service does not know its job ftjob-0 any more" in told
    assert project.service.calls["create"] == 1
    project.service.job_s = 0.1
    assert project.train(project.recipe()).failed == {}


def test_runs_at_the_same_time_make_one_job_or_none(account: Any) -> None:
    project = account(metadata_kept=False, always={"list": "405"})
    project.service.watch = lambda: time.sleep(0.02)
    project.service.faults["create"] = ["drop after"]

    def run(_: int) -> str:
        return str(project.train(project.recipe()).failed["cand"])

    with ThreadPoolExecutor(3) as pool:
        assert all("it is not known whether" in told for told in pool.map(run, range(3)))
    assert project.service.calls["create"] == 1


def test_a_job_is_not_asked_for_where_that_cannot_be_written_down(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers import ledger

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    project = account()
    project.train(project.recipe(seed=1))
    monkeypatch.setattr(ledger, "_write", full)
    told = project.train(project.recipe()).failed["cand"]
    assert "cannot be written (No space left on device)" in told
    assert project.service.calls["create"] == 1
