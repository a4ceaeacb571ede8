"""A disk that fails costs the job at work, never the worker or what is stored beside it."""

import io
import sqlite3
import time

import pytest

from harness.cli import main
from harness.serve import files, jobs, training
from harness.serve.jobs import FAILED, QUEUED, RUNNING, VALIDATING
from harness.serve.state import State, StorageError
from harness.serve.wire import ProtocolError

from .conftest import QUICK, TRAINING


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path / "serve")
    yield opened
    opened.close()


def readonly(state):
    state._db.execute("PRAGMA query_only = ON")


def full(state):
    (pages,) = state._db.execute("PRAGMA page_count").fetchone()
    state._db.execute(f"PRAGMA max_page_count = {pages}")


def closed(state):
    """Stands for whatever SQLite says of a damaged file."""
    state._db.close()


def well(state):
    state._db = sqlite3.connect(
        state.folder / "state.sqlite", isolation_level=None, check_same_thread=False
    )


def new_job():
    return jobs.new_job(jobs.JobRequest(model=QUICK, training_file="file-none"), {})


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [readonly, closed])
def test_a_disk_that_fails_costs_one_job_and_not_the_next(state, fault):
    held = jobs.Jobs(state)
    first, second = new_job(), new_job()

    def work(job):
        if job.id == first.id:
            fault(state)
        held.move(job.id, [VALIDATING], status=QUEUED)

    held.add(first)
    worker = jobs.Worker(held, VALIDATING, work)
    worker.start()
    wait(lambda: held.find(first.id).status == FAILED)
    assert held.find(first.id).error["code"] == "storage_error"
    assert held.find(first.id).finished_at is not None
    well(state)
    held.add(second)
    wait(lambda: held.find(second.id).status == QUEUED)
    assert worker.is_alive()
    held.close()


def test_a_failure_that_cannot_be_stored_fails_the_job_all_the_same(state, tmp_path):
    held, stored = jobs.Jobs(state), files.Files(state)
    work = training.Training(held, stored, tmp_path, tmp_path)
    held.add(job := new_job())
    readonly(state)
    work.validate(job)
    assert held.find(job.id).error["code"] == "storage_error"
    well(state)
    held.add(other := new_job())
    work.validate(other)
    assert held.find(other.id).error["code"] == "invalid_training_file"


def test_any_error_of_the_work_ends_the_job_alone(state, capsys):
    held = jobs.Jobs(state)
    held.add(job := new_job())

    def work(job):
        raise ZeroDivisionError

    worker = jobs.Worker(held, VALIDATING, work)
    worker.start()
    wait(lambda: held.find(job.id).status == FAILED)
    assert held.find(job.id).error["code"] == "server_error"
    assert worker.is_alive()
    held.close()


def test_a_job_that_was_cancelled_meanwhile_does_not_fail(state):
    held = jobs.Jobs(state)
    held.add(job := new_job())
    held.cancel(job.id)
    held.fail(job.id, VALIDATING, {"message": "too late"})
    assert held.find(job.id).status == "cancelled"


def test_a_full_database_is_a_storage_error(state):
    full(state)
    held = jobs.Jobs(state)

    def add_all():
        for _ in range(jobs.MOST_OPEN):
            held.add(new_job())

    with pytest.raises(StorageError, match="full"):
        add_all()


def test_a_damaged_job_costs_itself(state):
    held = jobs.Jobs(state)
    kept = [new_job() for _ in range(4)]
    for job in kept:
        held.add(job)
    held.move(kept[3].id, [VALIDATING], status=RUNNING)
    for job, body in zip(kept, ("{", "[]", f'{{"id": "{kept[2].id}"}}'), strict=False):
        state._do("UPDATE object SET body = ? WHERE id = ?", (body, job.id))
    again = jobs.Jobs(state)
    assert [(job.id, job.status) for job in again.all()] == [(kept[3].id, QUEUED)]


@pytest.mark.parametrize(
    "damage", [b"rubbish", b"SQLite format 3\0" + b"\xff" * 5_000], ids=["no database", "noise"]
)
def test_a_damaged_database_is_one_sentence(tmp_path, monkeypatch, capsys, damage):
    (tmp_path / "pyproject.toml").touch()
    folder = tmp_path / ".harness" / "serve"
    folder.mkdir(parents=True)
    (folder / "state.sqlite").write_bytes(damage)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["harness", "serve", "--port", "0"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 4
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert "serve" in line


def test_files_are_bounded_in_number_and_size(state, monkeypatch):
    monkeypatch.setattr(files, "MOST_FILES", 2)
    stored = files.Files(state)
    for _ in range(2):
        stored.refuse_more(len(TRAINING), 10_000)
        stored.add(io.BytesIO(TRAINING), "a.jsonl", "fine-tune")
    for size, most in ((1, 10_000), (1, len(TRAINING) // 100)):
        with pytest.raises(ProtocolError) as refusal:
            stored.refuse_more(size, most)
        assert refusal.value.status == 400
        monkeypatch.setattr(files, "MOST_FILES", 3)
    stored.delete(stored.all()[0]["id"])
    stored.refuse_more(1, 10_000)


def test_an_upload_that_the_disk_does_not_hold_leaves_nothing(state, monkeypatch):
    stored = files.Files(state)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        stored.add(Broken(b"x"), "a.jsonl", "fine-tune")
    assert list((state.folder / "files").iterdir()) == []
    assert stored.all() == []
