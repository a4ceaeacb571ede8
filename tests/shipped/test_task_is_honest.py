"""The shipped task is a real one: hard enough, labelled by its guideline, and nowhere leaked."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.cases import load_cases
from harness.data.jsonl import read_rows
from harness.data.leakage import refuse_leaks

REPO = Path(__file__).parents[2]
TICKETS = {
    "train": ("datasets/tickets/train.jsonl", 300),
    "validation": ("datasets/tickets/validation.jsonl", 60),
    "test": ("datasets/tickets/test.jsonl", 150),
    "few_shot": ("datasets/tickets/few_shot.jsonl", 5),
    "freehand": ("tests/data/freehand.jsonl", 60),
}
OTHERS = {
    "regression": ("datasets/regression.jsonl", 40),
    "general": ("datasets/general/test.jsonl", 200),
    "mixed in": ("datasets/general/train.jsonl", 100),
}
FIELDS = ["category", "urgency", "name", "order", "product"]
TITLES = re.compile(r"(mr|mrs|ms|miss|dr|prof)\b", re.IGNORECASE)
ARTICLES = re.compile(r"(the|a|an|my|our|your|this|that)\b")
NO_PRODUCTS = {"parcel", "package", "order", "item"}
CORPUS_TICKETS = 20_000
LONGEST_SHARED = 8


def _rows(name: str) -> list[dict[str, Any]]:
    path, _ = (TICKETS | OTHERS)[name]
    return [json.loads(line) for line in (REPO / path).read_text("utf-8").splitlines()]


def _tickets(name: str) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    """Yield id, message and label of every ticket of a file."""
    for row in _rows(name):
        _, user, answer = row["messages"]
        yield row["id"], user["content"], json.loads(answer["content"])


def _grams(texts: Iterable[str]) -> set[str]:
    """Return every run of eight words in one of the texts."""
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        starts = range(len(words) - LONGEST_SHARED + 1)
        found.update(" ".join(words[start : start + LONGEST_SHARED]) for start in starts)
    return found


def _corpus() -> Iterator[str]:
    """Yield what the base has read about tickets: generated ones, and every phrase."""
    from trainers.pocket.corpus import PHRASES, SLOT, Bank, ticket

    bank, rng = Bank(), Random("honest")
    for _ in range(CORPUS_TICKETS):
        yield ticket(bank, rng).text
    for path in PHRASES.rglob("*.*"):
        for line in path.read_text("utf-8").splitlines():
            yield from SLOT.split(line)


@pytest.mark.parametrize("name", [*TICKETS, *OTHERS])
def test_the_files_have_the_promised_sizes(name):
    _, size = (TICKETS | OTHERS)[name]
    rows = _rows(name)
    assert len(rows) == size
    assert len({row["id"] for row in rows}) == size


def test_regular_expressions_and_majority_labels_do_not_solve_it():
    baseline = runpy.run_path(str(Path(__file__).with_name("keyword_baseline.py")))
    assert baseline["field_accuracy"](REPO / TICKETS["test"][0]) <= 0.65


def test_no_wording_is_shared_between_corpus_training_and_evaluation():
    seen = {name: _grams(text for _, text, _ in _tickets(name)) for name in TICKETS}
    wanted = set().union(*seen.values())
    seen["corpus"] = wanted & _grams(_corpus())
    shared = {pair: seen[pair[0]] & seen[pair[1]] for pair in combinations(seen, 2)}
    assert {pair: found for pair, found in shared.items() if found} == {}


@pytest.mark.parametrize("name", TICKETS)
def test_labels_follow_the_mechanical_rules_of_the_guideline(name):
    wrong = {id_: found for id_, *ticket in _tickets(name) if (found := [*_mistakes(*ticket)])}
    assert wrong == {}


def _mistakes(text: str, label: dict[str, str | None]) -> Iterator[str]:
    if list(label) != FIELDS:
        yield f"keys {list(label)}"
    if label["category"] not in ("billing", "delivery", "defect", "account", "question"):
        yield f"category {label['category']}"
    if label["urgency"] not in ("low", "normal", "high"):
        yield f"urgency {label['urgency']}"
    for field in ("name", "order"):
        if label[field] is not None and label[field] not in text:
            yield f"{field} {label[field]!r} is not in the text"
    if TITLES.match(label["name"] or ""):
        yield f"name {label['name']!r} has a title"
    if label["order"] is not None and not re.search(r"\d", label["order"]):
        yield f"order {label['order']!r} has no digit"
    if (label["order"] or "").lower().startswith(("#", "no.", "no ", "nr")):
        yield f"order {label['order']!r} is not the number alone"
    yield from _product_mistakes(label["product"], text)


def _product_mistakes(product: str | None, text: str) -> Iterator[str]:
    if product is None:
        return
    if product != product.lower() or product not in text.lower():
        yield f"product {product!r} is not in the text, in lower case"
    if ARTICLES.match(product) or product in NO_PRODUCTS:
        yield f"product {product!r} is no product by the guideline"


@pytest.mark.parametrize("name", TICKETS)
def test_every_ticket_is_asked_with_the_same_words_and_fits_the_schema(name):
    from jsonschema import Draft202012Validator

    [asked] = {row["messages"][0]["content"] for row in _rows("train")}
    schema = json.loads((REPO / "datasets/tickets/schema.json").read_text("utf-8"))
    validator = Draft202012Validator(schema)
    for row in _rows(name):
        system, _, answer = row["messages"]
        label = json.loads(answer["content"])
        assert (system["role"], system["content"]) == ("system", asked), row["id"]
        assert row["tags"] == [label["category"], label["urgency"]], row["id"]
        validator.validate(label)


def test_the_few_shot_examples_take_under_600_tokens():
    from jinja2 import Template
    from tokenizers import Tokenizer

    from trainers import pocket

    tokenizer = Tokenizer.from_file(str(pocket.path() / "tokenizer.json"))
    template = Template((pocket.path() / "chat_template.jinja").read_text("utf-8"))
    turns = [message for row in _rows("few_shot") for message in row["messages"][1:]]
    assert len(tokenizer.encode(template.render(messages=turns)).ids) < 600


@pytest.mark.parametrize("name", ["train", "validation", "few_shot", "mixed in"])
def test_no_training_row_is_an_evaluation_case(name):
    path, _ = (TICKETS | OTHERS)[name]
    for suite in ("test", "freehand", "regression", "general"):
        cases = load_cases(REPO / (TICKETS | OTHERS)[suite][0], suite, REPO)
        refuse_leaks(read_rows(REPO / path, REPO), cases)


def test_no_training_row_is_a_validation_row():
    path = REPO / TICKETS["validation"][0]
    refuse_leaks(read_rows(REPO / TICKETS["train"][0], REPO), load_cases(path, "tickets", REPO))


FREEHAND = """
import pytest

pytestmark = pytest.mark.cases("freehand.jsonl")


def test_ticket(score):
    score.fields()
"""


@pytest.mark.slow
def test_tickets_written_freely_lose_the_candidate_at_most_20_points(shipped, project):
    project.write("freehand.jsonl", (REPO / TICKETS["freehand"][0]).read_text("utf-8"))
    project.suites(freehand=FREEHAND)
    project.configure(gates={})
    freehand = project.run().metric("freehand.field_accuracy")
    tested = shipped.first_run.metric("tickets.field_accuracy")
    assert freehand["n"] == 60
    assert freehand["candidate_mean"] >= tested["candidate_mean"] - 0.20
