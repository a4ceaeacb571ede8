from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import report
from harness.records import Run

NAMES = ["index.html", "results.json", "summary.md"]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_becomes_three_files_in_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    folder = report.write(run, tmp_path / "reports")
    assert folder == tmp_path / "reports" / run.run_id
    assert files(folder) == NAMES
    assert files(folder.parent) == [run.run_id, "latest"]


def test_latest_points_to_the_last_run_by_a_relative_link(run: Run, tmp_path: Path) -> None:
    report.write(run, tmp_path)
    report.write(replace(run, run_id="second"), tmp_path)
    assert (tmp_path / "latest").readlink() == Path("second")


def test_latest_is_a_copy_where_links_are_impossible(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(run, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for name in ("second", "third"):
        folder = report.write(replace(run, run_id=name), tmp_path)
        assert not (tmp_path / "latest").is_symlink()
        assert (tmp_path / "latest/results.json").read_bytes() == (
            folder / "results.json"
        ).read_bytes()
    monkeypatch.undo()
    report.write(run, tmp_path)
    assert (tmp_path / "latest").readlink() == Path(run.run_id)
    assert files(tmp_path) == sorted([run.run_id, "latest", "second", "third"])


def test_nothing_is_written_of_a_run_that_cannot_be_shown(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        report.write(replace(run, cases=(None,)), tmp_path)  # type: ignore[arg-type]
    assert files(tmp_path) == []


def test_an_interrupted_write_leaves_no_folder_that_looks_like_a_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.report.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        report.write(run, tmp_path)
    assert not (tmp_path / run.run_id).exists()
    assert not (tmp_path / "latest").exists()


def test_writing_twice_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    turned = replace(run, cases=run.cases[::-1], verdicts=run.verdicts[::-1])
    first, second = report.write(run, tmp_path / "a"), report.write(turned, tmp_path / "b")
    for name in NAMES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_folder_or_file_named_latest_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest/results.json").write_text("mine")
    report.write(run, tmp_path)
    assert (tmp_path / "latest/results.json").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/latest").write_text("mine")
    report.write(run, tmp_path / "other")
    assert (tmp_path / "other/latest").read_text() == "mine"


def test_what_a_killed_run_left_is_removed_and_nothing_else(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of dead processes of this machine at once; of others, and of earlier versions, in a day."""
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    made = {}
    for process in (gone, str(os.getppid())):
        monkeypatch.setattr("harness.report.os.getpid", lambda process=process: process)
        with monkeypatch.context() as patch:
            patch.setattr("harness.report.os.replace", lambda *_: signal.raise_signal(2))
            with pytest.raises(KeyboardInterrupt):
                report.write(replace(run, run_id=f"left-{process}"), tmp_path)
        [made[process]] = set(tmp_path.iterdir()) - set(made.values())
    monkeypatch.undo()
    kept = [".git-1", ".cache-2", f".else-elsewhere-{gone}", f".20260101-120000-abcd-{gone}"]
    for name in kept:
        (tmp_path / name).mkdir()
    for name in kept[:2]:
        (tmp_path / name / "config").touch()
    report.write(run, tmp_path)
    assert set(files(tmp_path)) == {run.run_id, "latest", *kept, made[str(os.getppid())].name}
    for name in files(tmp_path):
        os.utime(tmp_path / name, (0, 0))
    report.write(run, tmp_path)
    assert set(files(tmp_path)) == {run.run_id, "latest", *kept[:2]}


def test_a_report_that_cannot_be_written_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(run, tmp_path)
    assert files(tmp_path) == []
