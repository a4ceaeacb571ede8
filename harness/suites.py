"""A suite: one eval file, its cases and the examples that may stand before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cases import load_cases, load_few_shot
from harness.data.leakage import conversation_key
from harness.records import Case, HarnessError, Message


@dataclass(frozen=True)
class Suite:
    """One eval file: `evals/test_tickets.py` is the suite `tickets`.

    `examples` are the few-shot examples, one tuple of turns each; `shots` the numbers of them to
    choose from by the `validation` cases (a single number: no choice). `confirm` are held-out
    cases, on which the winner of several candidates is confirmed.
    """

    name: str
    path: Path
    cases: tuple[Case, ...]
    examples: tuple[tuple[Message, ...], ...] = ()
    shots: tuple[int, ...] = (0,)
    validation: tuple[Case, ...] = ()
    confirm: tuple[Case, ...] = ()

    def few_shot(self, shots: int) -> tuple[Message, ...]:
        """The turns of the first `shots` examples."""
        return tuple(message for example in self.examples[:shots] for message in example)


def suite_name(path: Path) -> str:
    """`evals/test_tickets.py` -> `tickets`."""
    return path.stem.removeprefix("test_").removesuffix("_test")


def load_suite(path: Path, where: str, marker: Any, root: Path) -> Suite:
    """Return the suite that `pytest.mark.cases` describes in the file `path`.

    Raises:
        HarnessError: the marker, or a file that it names, is wrong; the sentence begins with
            `where` (`file:line` of the test) or the file's own line.

    """
    arguments = dict(marker.kwargs)
    if len(marker.args) != 1 or not isinstance(marker.args[0], str):
        raise HarnessError(f"{where}: pytest.mark.cases takes one path of a JSONL file")
    few_shot = arguments.pop("few_shot", None)
    shots = arguments.pop("shots", None)
    validation = arguments.pop("validation", None)
    confirm = arguments.pop("confirm", None)
    if arguments:
        unknown = ", ".join(sorted(arguments))
        raise HarnessError(
            f"{where}: pytest.mark.cases does not know {unknown}; "
            "it takes few_shot, shots, validation and confirm"
        )
    for key, value in (("few_shot", few_shot), ("validation", validation), ("confirm", confirm)):
        if value is not None and not isinstance(value, str):
            raise HarnessError(f"{where}: {key} = {value!r} is no path of a JSONL file")
    name = suite_name(path)
    examples = load_few_shot(root / few_shot, root) if few_shot else ()
    numbers = _numbers(shots, len(examples), where)
    if len(numbers) > 1 and not validation:
        raise HarnessError(f"{where}: to choose among {numbers} shots, give validation= a file")
    cases = tuple(load_cases(root / marker.args[0], name, root))
    held_out = tuple(load_cases(root / confirm, name, root)) if confirm else ()
    _refuse_shared(cases, held_out)
    return Suite(
        name=name,
        path=path,
        cases=cases,
        examples=examples,
        shots=numbers,
        validation=tuple(load_cases(root / validation, name, root)) if validation else (),
        confirm=held_out,
    )


def _refuse_shared(cases: Sequence[Case], held_out: Sequence[Case]) -> None:
    prompts = {conversation_key(case.messages): case.source for case in cases}
    for case in held_out:
        if source := prompts.get(conversation_key(case.messages)):
            raise HarnessError(
                f"{case.source}: this case stands at {source} too; what confirms a choice must "
                "not have been seen when it was made"
            )


def _numbers(shots: int | Sequence[int] | None, available: int, where: str) -> tuple[int, ...]:
    numbers = (available if shots is None else shots,) if not isinstance(shots, Sequence) else shots
    if not numbers:
        raise HarnessError(f"{where}: shots is empty; give a number, or several to choose from")
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number <= available:
            raise HarnessError(f"{where}: shots = {number!r}, but there are {available} examples")
    return tuple(dict.fromkeys(numbers))
