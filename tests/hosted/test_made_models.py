"""What a job made: its curves, its checkpoints, and a model that is never lost."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import AZURE, OPENAI

from harness.records import EvidenceError, LossPoint
from trainers import find
from trainers.curves import losses_of
from trainers.diagnosis import findings


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("headers", [OPENAI, AZURE])
def test_result_files_of_every_kind_are_curves(account: Any, headers: str, encoded: bool) -> None:
    project = account(headers=headers, encoded=encoded)
    made = project.train(project.recipe(epochs=3)).candidates["cand"]
    train = [point for point in made.losses if point.train is not None]
    assert [point.step for point in train] == list(range(1, 13))
    assert (train[3].epoch, train[3].train) == (1.0, 0.5)
    validation = [p.validation for p in made.losses if p.validation is not None]
    assert validation == ([0.5] * 3 if headers == AZURE else [0.625, 0.3125, 0.2083])


WIDE = b"step,train_loss\n1," + b"9" * 200_000 + b"\n"
CSV = b"step,train_loss\n1,2.0\n2,1.0\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(range(256)) * 8,
        b"\0step,train_loss\n\0,1\n",
        b"<!doctype html><p>step, by step",
        WIDE,
        base64.b64encode(WIDE),
        b'step,"train_loss\n1,1',
        b'{"step": [1, 2]}',
        b"step,step\n1e308,nan\n",
    ],
)
def test_a_paid_model_is_usable_whatever_its_result_file_holds(
    account: Any, content: bytes
) -> None:
    project = account(result=content)
    made = project.train(project.recipe()).candidates["cand"]
    assert made.model == "ft:base-1:org:cand:ftjob-0"
    assert made.losses == ()


@pytest.mark.parametrize("content", [CSV.replace(b"\n", b"\r"), CSV.replace(b"\n", b"\r\n")])
def test_lines_end_as_they_like(content: bytes) -> None:
    assert [point.train for point in losses_of(content, 2)] == [2.0, 1.0]


@given(st.binary(max_size=200) | st.text(alphabet='step,train_lo12.\r\n"\0').map(str.encode))
def test_any_bytes_are_curves_or_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        losses_of(b"step,train_loss" + content, 3)


def test_a_model_without_a_name_is_the_last_checkpoint_or_a_sentence(account: Any) -> None:
    project = account(named=False)
    made = project.train(project.recipe()).candidates["cand"]
    assert made.model == "ft:base-1:org:cand:ftjob-0:ckpt-step-8"
    assert "names no model" in made.findings[-1]
    project.service.always["checkpoints"] = "404"
    failed = project.train(project.recipe(seed=1)).failed["cand"]
    assert "the job ftjob-1 is succeeded, but the service names no model that it made" in failed
    assert "the job ftjob-1 is" in project.train(project.recipe(seed=1)).failed["cand"]
    assert len(project.service.jobs) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no table", b"a,b\n1,2\n", b"[]"])
def test_what_is_no_table_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="result file"):
        losses_of(content, 3)


def test_hostile_cells_are_no_losses() -> None:
    content = b"step,train_loss,valid_loss\n1,nan,-1\n2,inf,x\n3,0.5,\nx,1,1\n"
    assert losses_of(content, None) == (LossPoint(3, 1.0, 0.5, None),)


def test_a_model_without_its_curves_is_kept_and_the_report_says_why(account: Any) -> None:
    project = account()
    project.service.faults["content"] = ["404"]
    made = project.train(project.recipe()).candidates["cand"]
    assert made.model.startswith("ft:")
    assert made.losses == ()
    assert "the result file cannot be read: the server answered 404" in made.findings[0]


def test_a_checkpoint_is_a_candidate_of_the_same_job(account: Any) -> None:
    project = account()
    last = project.train(project.recipe()).candidates["cand"]
    early = project.train(project.recipe(checkpoint=4)).candidates["cand"]
    assert early.model == f"{last.model}:ckpt-step-4"
    assert early.fingerprint != last.fingerprint
    assert last.recipe["checkpoints"] == "4, 8"
    assert len(project.service.jobs) == 1


def test_a_checkpoint_that_is_not_there_names_those_that_are(account: Any) -> None:
    project = account()
    failed = project.train(project.recipe(checkpoint=5)).failed["cand"]
    assert "has no checkpoint of step 5; there: 4, 8" in failed


def test_a_damaged_candidate_is_told(account: Any) -> None:
    project = account()
    made = project.train(project.recipe()).candidates["cand"]
    description = made.path / "candidate.json"
    text = json.loads(description.read_text())
    description.write_text(json.dumps({**text, "model": ""}))
    assert (
        "is damaged (it names no model); delete" in project.train(project.recipe()).failed["cand"]
    )
    description.write_text("{")
    with pytest.raises(EvidenceError, match="is damaged"):
        find(project.recipe(), project.home)


# ---------------------------------------------------------------------- diagnosis


def curve(*train: float, validation: tuple[float, ...] = ()) -> list[LossPoint]:
    points = [LossPoint(n, n / len(train) * 3, loss) for n, loss in enumerate(train, 1)]
    every = len(train) // len(validation) if validation else 0
    return points + [
        LossPoint(n * every, 3 * n / len(validation), validation=loss)
        for n, loss in enumerate(validation, 1)
    ]


FALLING = (2.0, 1.5, 1.0, 0.8, 0.7, 0.6)
LOCAL = {"learning_rate": 2e-4, "rank": 16}


def test_a_training_that_went_well_has_no_finding() -> None:
    assert findings(curve(*FALLING, validation=(1.2, 0.9, 0.8)), LOCAL) == ()


def test_a_rising_validation_loss_names_the_epoch_to_stop_at() -> None:
    [found] = findings(curve(*FALLING, validation=(0.9, 0.8, 1.1)), LOCAL)
    assert found.startswith("overfit: the validation loss rose from 0.8 (epoch 2) to 1.1; ")
    assert found.endswith("set epochs = 2, or set dropout = 0.1 and rank = 8")


def test_a_validation_loss_far_above_the_training_loss_is_overfit() -> None:
    [found] = findings(curve(*FALLING, validation=(1.3, 1.2, 1.1)), LOCAL)
    assert "1.8 times the training loss" in found


def test_a_training_loss_near_zero_is_memorised() -> None:
    [found] = findings(curve(2.0, 1.0, 0.2, 0.01, 0.001, 0.001), {"learning_rate_multiplier": 2.0})
    assert found.startswith("memorised: the training loss ends at 0.001")
    assert "halve learning_rate_multiplier" in found


def test_a_flat_training_loss_asks_for_a_higher_rate() -> None:
    [local] = findings(curve(*[2.0] * 6), LOCAL)
    assert local.endswith("set learning_rate = 0.0005")
    [hosted] = findings(curve(*[2.0] * 6), {"learning_rate_multiplier": "auto"})
    assert hosted.endswith("set learning_rate_multiplier = 2")


def test_a_remedy_is_no_multiplier_where_it_may_be_a_rate() -> None:
    [found] = findings(curve(*[2.0] * 6), {"learning_rate_multiplier": None})
    assert found.endswith("; raise learning_rate_multiplier")


def test_a_curve_of_few_points_says_nothing() -> None:
    assert findings(curve(2.0, 2.0), LOCAL) == ()
