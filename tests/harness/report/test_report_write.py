from __future__ import annotations

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
