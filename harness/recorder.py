"""Ask a model every case of a file and keep its replies, as a recording and as training data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import prompting
from harness.arms import model_spec, planned_arms, with_artefact
from harness.cases import load_cases
from harness.config import Settings
from harness.data.jsonl import shown_path
from harness.data.messages import checked_message
from harness.preparation import Plan, Show
from harness.recording import Recording, recording_of
from harness.records import (
    Arm,
    Case,
    EvidenceError,
    HarnessError,
    Message,
    Recorded,
    Reply,
    Role,
    canonical_json,
)
from harness.replies import Replies
from harness.store import Store

_NAMED = 10
"""Cases without a reply that the error names."""


@dataclass(frozen=True)
class Training:
    """Rows that `train =` of a recipe accepts, and how many replies were left out, by reason."""

    rows: tuple[dict[str, Any], ...]
    left_out: Counter[str]

    @property
    def about(self) -> str:
        """How many rows there are and what was left out, for people."""
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{len(self.rows)} rows; left out: {left or 'none'}"

    @property
    def content(self) -> bytes:
        """The rows as a JSONL file."""
        return "".join(json.dumps(row) + "\n" for row in self.rows).encode()


def record(
    name: str, path: Path, settings: Settings, root: Path, show: Show, trials: int = 1
) -> Recording:
    """Ask the model `name` every case of `path`, `trials` times each, through the cache of replies.

    `name` is a table of `settings.models`, a candidate, or `provider:target`. What arrived is kept
    whatever happens: asked again, only the rest is asked.

    Raises:
        HarnessError: there is no such model, or the cases are wrong.
        EvidenceError: the candidate is not trained, or cases have no reply.

    """
    cases = load_cases(path, "", root)
    arm = _model(name, settings, root)
    store = Store(root / settings.store / "store.sqlite")
    with closing(Replies(store, table=settings.price_table)) as replies:
        planned = [
            (case, replies.plan(arm.spec, case.messages, trial, case.id, case))
            for case in cases
            for trial in range(trials)
        ]
        with show(f"asking {name}") as update:
            known = replies.gather((request for _, request in planned), prompting.counted(update))
    found = [
        Recorded(case.id, case.digest, known[request.key], trial=request.trial)
        for case, request in planned
    ]
    _refuse_lost(name, found)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return recording_of(arm, found, made=now, source=shown_path(path, root))


def _model(name: str, settings: Settings, root: Path) -> Arm:
    if name in settings.candidates:
        return _candidate(name, settings, root)
    if name not in settings.models and ":" not in name:
        known = ", ".join([*settings.candidates, *settings.models]) or "none"
        raise HarnessError(
            f"there is no model {name!r}; give a candidate or a table of tool.harness.models "
            f"(there: {known}), or provider:name such as 'bundled:pocket'"
        )
    spec = model_spec(name, name, settings, root, "tool.harness.models")
    return _live(Arm(name, Role.BASELINE, spec))


def _candidate(name: str, settings: Settings, root: Path) -> Arm:
    import trainers

    alone = settings.model_copy(update={"baseline": None})
    plan = Plan(alone, root, planned_arms(alone, root), ())
    arm = next(planned.arm for planned in plan.arms if planned.arm.name == name)
    recipe = plan.recipes.get(name) or plan.hosted.get(name)
    if recipe is None:
        return _live(arm)
    if (made := trainers.find(recipe, plan.home)) is None:
        raise EvidenceError(f"{name} is not trained yet; run: harness train {name}")
    return with_artefact(arm, made)


def _live(arm: Arm) -> Arm:
    if arm.spec.recorded:
        raise HarnessError(f"{arm.name} is a recording already: {arm.spec.target}; copy the file")
    return arm


def _refuse_lost(name: str, answered: Sequence[Recorded]) -> None:
    lost = [f"{one.id}: {one.reply.error}" for one in answered if one.reply.error]
    if lost:
        more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        raise EvidenceError(
            f"{name} did not answer {len(lost)} of {len(answered)} requests: "
            f"{'; '.join(lost[:_NAMED])}{more}; nothing was written; what arrived is kept, so run "
            "the same command again to ask only these"
        )


# ---------------------------------------------------------------------- training data


def training(path: Path, root: Path, recording: Recording) -> Training:
    """Return the cases of `path` with the recorded replies as training data.

    Only the first trial counts. The model's own system message, template and examples are not part
    of a row: the successor learns to do without.

    Raises:
        EvidenceError: no reply is fit to learn from.

    """
    first = {one.id: one.reply for one in recording.replies if one.trial == 0}
    rows, left_out = [], Counter[str]()
    for case in load_cases(path, "", root):
        if reason := _unfit(first[case.id]):
            left_out[reason] += 1
        else:
            rows.append(_row(case, first[case.id]))
    made = Training(tuple(rows), left_out)
    if not rows:
        raise EvidenceError(f"no reply is fit to train on ({made.about}); no row was written")
    return made


def _unfit(reply: Reply) -> str:
    """Say why nobody should learn from `reply`; an empty text if it is good."""
    if reply.shortfall in ("refused", "truncated"):
        return reply.shortfall
    if reply.failure:
        return "empty"
    try:
        checked_message(_answer(reply), "")
        canonical_json(_answer(reply)).encode()
    except (HarnessError, UnicodeEncodeError):
        return "broken"
    return ""


def _answer(reply: Reply) -> Message:
    if not reply.tool_calls:
        return {"role": "assistant", "content": reply.text}
    calls = [dict(call) for call in reply.tool_calls]
    return {"role": "assistant", "content": reply.text or None, "tool_calls": calls}


def _row(case: Case, reply: Reply) -> dict[str, Any]:
    turns = [*map(dict, case.messages), _answer(reply)]
    tools = {"tools": [dict(tool) for tool in case.tools]} if case.tools else {}
    return {"id": case.id, "messages": turns, **tools}
