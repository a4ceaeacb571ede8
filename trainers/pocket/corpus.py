"""The corpus of `bundled:pocket`: small tasks composed from a phrase bank, sample by sample.

Everything random comes from the `random.Random` that is handed in, so a seed fixes the corpus.
What a text names is drawn while the text is written and remembered: labels are never parsed back.
"""

import calendar
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

PHRASES = Path(__file__).parent / "phrases"
SLOT = re.compile(r"\{([a-z]+)\}")
KEYS = ("category", "urgency", "name", "order", "product")
CATEGORIES = ("billing", "delivery", "defect", "account", "question")
URGENCIES = ("low", "normal", "high")

Answer = dict[str, str | None]


@dataclass(frozen=True)
class Turn:
    """One message; `learn` says whether it is a target or only read."""

    role: str
    content: str
    learn: bool = False


class Bank:
    """The phrases, read once."""

    def __init__(self, folder: Path = PHRASES) -> None:
        self.lines = {
            path.relative_to(folder).with_suffix("").as_posix(): [
                line.replace("\\n", "\n") for line in path.read_text("utf-8").splitlines() if line
            ]
            for path in sorted(folder.rglob("*.txt"))
        }
        self.qa = _rows(folder / "qa.jsonl")
        self.classes = _rows(folder / "classify.jsonl")

    @cached_property
    def words(self) -> list[str]:
        """Every word of the context lines and products, for noise and string skills."""
        text = " ".join(self.lines["context"] + self.lines["products"] + self.lines["extract"])
        return sorted({word for word in re.findall(r"[a-z]+", text) if len(word) > 2})

    @cached_property
    def kinds(self) -> dict[str, dict[str, list[str]]]:
        """Kind of classification -> label -> texts."""
        kinds: dict[str, dict[str, list[str]]] = {}
        for row in self.classes:
            kinds.setdefault(row["kind"], {})[row["label"]] = row["texts"]
        return kinds


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


# ---------------------------------------------------------------------------- what texts name

HEADS = (
    "b", "bl", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m",
    "n", "p", "pl", "qu", "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "z",
)  # fmt: skip
TAILS = (
    "", "", "l", "n", "r", "s", "m", "ck", "nd", "rt", "x", "ff", "sk",
)  # fmt: skip
COLORS = (
    "red", "blue", "black", "white", "green", "grey", "pink", "yellow", "beige", "navy", "silver",
)  # fmt: skip


def pseudo_word(rng: Random) -> str:
    """A word that is in no list, so that copying it cannot be memory."""
    syllables = range(rng.choice((1, 2, 2, 2, 3)))
    word = "".join(rng.choice(HEADS) + rng.choice("aeiouaeioy") for _ in syllables)
    return word + rng.choice(TAILS)


def order_number(rng: Random) -> str:
    """An order number in one of very many formats."""

    def digits(low: int, high: int) -> str:
        return "".join(rng.choices(string.digits, k=rng.randint(low, high)))

    def letters(low: int, high: int) -> str:
        text = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(low, high)))
        return text if rng.random() < 0.9 else text.lower()

    sep = rng.choice(("-", "-", "-", "", "", "/", " ", ".", "_"))
    shape = rng.random()
    if shape < 0.28:
        return digits(4, 10)
    if shape < 0.68:
        return letters(1, 4) + sep + digits(3, 8)
    if shape < 0.76:
        return digits(2, 5) + rng.choice("-/.") + digits(3, 6)
    if shape < 0.84:
        return letters(1, 2) + digits(1, 2) + sep + digits(3, 6)
    if shape < 0.90:
        return digits(3, 6) + sep + letters(1, 3)
    if shape < 0.95:
        return letters(1, 3) + sep + digits(2, 4) + rng.choice("-/") + digits(2, 4)
    return rng.choice(("20", "")) + digits(2, 2) + rng.choice("-/") + letters(0, 2) + digits(3, 6)


def person_name(bank: Bank, rng: Random) -> str:
    """A name: from the lists mostly, invented now and then, in full or in part."""

    def part(key: str) -> str:
        invented = rng.random() < 0.25
        return pseudo_word(rng).capitalize() if invented else rng.choice(bank.lines[key])

    first, last, shape = part("first_names"), part("last_names"), rng.random()
    if shape < 0.62:
        return f"{first} {last}"
    if shape < 0.80:
        return first
    if shape < 0.88:
        return f"{first[0]}. {last}"
    if shape < 0.92:
        return f"{first} {rng.choice(string.ascii_uppercase)}. {last}"
    if shape < 0.96:
        return f"{first} {last}-{part('last_names')}"
    return last


def product_name(bank: Bank, rng: Random) -> str:
    """A product: from the list, recombined from it, or partly made of pseudo-words."""
    products, shape = bank.lines["products"], rng.random()
    if shape < 0.05:
        return " ".join(typo(word, rng) for word in rng.choice(products).split())
    if shape < 0.55:
        return rng.choice(products)
    head = rng.choice(products).split()[-1]
    if shape < 0.75:
        return f"{rng.choice(products).split()[0]} {head}"
    if shape < 0.85:
        return f"{rng.choice(bank.words)} {head}"
    if shape < 0.93:
        return f"{pseudo_word(rng)} {head}"
    return pseudo_word(rng) + rng.choice(("", "", "s"))


def dressed(product: str, rng: Random) -> str:
    """The product with words around it that are no part of its label."""
    color = rng.choice(COLORS)
    brand = pseudo_word(rng).capitalize()
    size = rng.choice(
        ("XL", "small", "large", "size 38", "new", "second", "2-litre", "tall", "huge")
    )
    model = f"{rng.choice(string.ascii_uppercase)}{rng.randint(2, 990)}"
    return rng.choice(
        (
            f"{color} {product}",
            f"{brand} {product}",
            f"{size} {product}",
            f"{brand} {color} {product}",
            f"{size} {color} {product}",
            f"{product} in {color}",
            f"{product} {brand} {model}",
            f"{brand} {model} {product}",
        )
    )


def date(rng: Random) -> str:
    """A calendar date in one of the ways people write it."""
    day, month = rng.randint(1, 28), rng.choice(calendar.month_name[1:])
    number = rng.randint(1, 12)
    return rng.choice(
        (
            f"{day} {month}",
            f"{month} {day}",
            f"{day}/{number}",
            f"{day:02}.{number:02}.{rng.randint(2019, 2029)}",
            f"{rng.randint(2019, 2029)}-{number:02}-{day:02}",
            f"{month[:3]} {day}",
            f"the {day}th",
        )
    )


def amount(rng: Random) -> str:
    """A sum of money."""
    value = rng.choice((f"{rng.randint(3, 900)}", f"{rng.randint(1, 400)}.{rng.randint(0, 99):02}"))
    return rng.choice((f"{value} euros", f"€{value}", f"${value}", f"£{value}", f"{value} EUR"))


def clock(rng: Random) -> str:
    """A time of day."""
    hour = rng.randint(1, 12)
    return rng.choice(
        (f"{hour}:{rng.randint(0, 59):02}", f"{hour} pm", f"{hour} a.m.", f"{hour}am")
    )


def phone(rng: Random) -> str:
    """A telephone number."""
    groups = ["".join(rng.choices(string.digits, k=k)) for k in rng.choice(((4, 6), (3, 3, 4)))]
    return rng.choice(("+44 ", "0", "+351 ", "")) + rng.choice(" -").join(groups)


def email(bank: Bank, rng: Random) -> str:
    """An address at a domain that is reserved for examples."""
    first, last = (rng.choice(bank.lines[key]).lower() for key in ("first_names", "last_names"))
    user = rng.choice((f"{first}.{last}", f"{first}{rng.randint(1, 99)}", f"{first[0]}{last}"))
    return f"{user.replace(' ', '')}@example.{rng.choice(('com', 'org'))}"


class Slots:
    """Draws what a slot says; what is drawn for `kept` slots holds for the whole text."""

    def __init__(self, bank: Bank, rng: Random, kept: Iterable[str]) -> None:
        self.bank, self.rng, self.kept = bank, rng, frozenset(kept)
        self.said: dict[str, str] = {}

    def draw(self, slot: str) -> str:
        """A new value for this slot."""
        rng, lines = self.rng, self.bank.lines
        draws: dict[str, Callable[[], str]] = {
            "order": lambda: order_number(rng),
            "number": lambda: order_number(rng),
            "name": lambda: person_name(self.bank, rng),
            "person": lambda: rng.choice(lines["first_names"]),
            "product": lambda: product_name(self.bank, rng),
            "amount": lambda: amount(rng),
            "date": lambda: date(rng),
            "day": lambda: rng.choice(calendar.day_name),
            "time": lambda: clock(rng),
            "city": lambda: rng.choice(lines["cities"]),
            "shop": lambda: rng.choice(lines["shops"]),
            "email": lambda: email(self.bank, rng),
            "phone": lambda: phone(rng),
        }
        return draws[slot]()

    def fill(self, phrase: str, *, decoy: bool = False) -> str:
        """The phrase with its slots said; a decoy's values are its own and are forgotten."""

        def say(match: re.Match[str]) -> str:
            slot = match[1]
            if decoy or slot not in self.kept:
                return self.draw(slot)
            known = slot in self.said
            value = self.said.setdefault(slot, self.draw(slot))
            if slot == "product" and not known and self.rng.random() < 0.3:
                return dressed(value, self.rng)
            if slot == "name" and not known and self.rng.random() < 0.06:
                return f"{self.rng.choice(('Mr', 'Mrs', 'Ms', 'Dr.'))} {value}"
            return value

        return SLOT.sub(say, phrase)


# ---------------------------------------------------------------------------- noise


def typo(word: str, rng: Random) -> str:
    """The word with one slip of the fingers."""
    if len(word) < 4 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    return rng.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at] + word[at:],
            word[:at] + rng.choice(string.ascii_lowercase) + word[at + 1 :],
        )
    )


def noisy(phrase: str, rng: Random, rate: float) -> str:
    """The phrase with slips in its words, never in its slots."""
    words = phrase.split(" ")
    return " ".join(word if rng.random() > rate else typo(word, rng) for word in words)


def foreign(phrase: str, bank: Bank, rng: Random) -> str:
    """A side remark with strange words in it: real tickets use words that no bank holds."""
    return " ".join(
        word
        if "{" in word or rng.random() > 0.2
        else rng.choice((pseudo_word(rng), rng.choice(bank.words)))
        for word in phrase.split(" ")
    )


# ---------------------------------------------------------------------------- tickets


@dataclass(frozen=True)
class Ticket:
    """A customer's message and its label."""

    text: str
    label: Answer


ASKS = re.compile(
    r"\?|^(is|are|do|does|did|can|could|would|will|how|what|which|where|when|who|why|has|have|need|"
    r"any|may)\b|wonder|please|\bpls\b|looking for|tell me|want to know|like to know|let me know|"
    r"curious|explain|advi[cs]e|asking",
    re.IGNORECASE,
)
THANKS = (
    "Thanks!",
    "thank you",
    "Thanks in advance.",
    "thx",
    "Many thanks.",
    "Thank you very much!",
)


def ticket(bank: Bank, rng: Random, *, short: bool = False) -> Ticket:
    """One ticket, labelled by datasets/tickets/GUIDELINE.md."""
    slots = Slots(bank, rng, ("name", "order", "product"))
    rate = rng.choice((0, 0, 0, 0.04, 0.1))

    def phrase(key: str) -> str:
        return noisy(rng.choice(bank.lines[key]), rng, rate)

    def said(key: str, chance: float) -> list[str]:
        return [slots.fill(phrase(key))] if rng.random() < chance else []

    scale = 0.15 if short else 0.7
    category = rng.choices(CATEGORIES, (22, 24, 24, 14, 16))[0]
    hazard = category == "defect" and rng.random() < 0.22
    problems = bank.lines["hazard" if hazard else f"problems/{category}"]
    problem = min(rng.sample(problems, 3 if short else 1), key=len)
    core = [slots.fill(noisy(problem, rng, rate))]
    if not short and rng.random() < 0.08:
        core.append(slots.fill(phrase(f"problems/{category}")))
    introduced = said("name_intro", 0.15 if short else 0.28)
    mention = said("order_mention", 0.5 if short else 0.6)
    request = said("requests", 0.4 * scale)
    urgency, cue = ("high", None) if hazard else _urgency(category, problem, bool(request), rng)
    cues = [slots.fill(phrase(cue))] if cue else []
    decoys = [slots.fill(line, decoy=True) for line in _decoys(bank, slots, rng, scale)]
    signed = said("name_signoff", 0.5) if not introduced else []
    body = [*core, *mention, *decoys, *cues, *request]
    if rng.random() < 0.5:
        rng.shuffle(body)
    greeting = [slots.fill(phrase("greetings"), decoy=True)] if rng.random() < 0.3 else []
    closing = [rng.choice(THANKS)] if rng.random() < 0.15 else []
    place = 0 if rng.random() < 0.7 else rng.randint(0, len(body))
    body[place:place] = introduced
    text = _joined(greeting, body, closing + signed, rng)
    label: Answer = {"category": category, "urgency": urgency}
    label |= {key: slots.said.get(key) for key in ("name", "order", "product")}
    return _cased(Ticket(text, label), rng)


def _urgency(category: str, problem: str, request: bool, rng: Random) -> tuple[str, str | None]:
    """The urgency and the phrase file that says it, if one has to."""
    chance = rng.random()
    if chance < 0.24:
        return "high", "urgency_high"
    if chance < 0.40:
        return "low", "urgency_low"
    if category == "question" and not request and not ASKS.search(problem):
        return "low", None
    return "normal", None


def _decoys(bank: Bank, slots: Slots, rng: Random, scale: float) -> Iterator[str]:
    """Lines that name things which are not to be copied."""
    lines = bank.lines
    for key, chance in (("decoy_number", 0.25), ("decoy_person", 0.25), ("context", 0.35)):
        if rng.random() < chance * scale:
            line = rng.choice(lines[key])
            if "{product}" in line and "product" not in slots.said:
                continue
            line = line.replace("{product}", slots.said.get("product", ""))
            yield foreign(line, bank, rng) if rng.random() < 0.3 else line
    for key, chance in (("product", 0.15), ("order", 0.15)):
        if key in slots.said and rng.random() < chance * scale:
            yield rng.choice(lines[f"decoy_{key}"])


def _joined(greeting: list[str], body: list[str], ending: list[str], rng: Random) -> str:
    """The parts as one text: sentences, lines, or a stream without stops."""
    style = rng.random()
    if style < 0.62:
        middle = " ".join(part if part[-1:] in ".!?:," else f"{part}." for part in body)
    elif style < 0.72:
        middle = "\n".join(body)
    elif style < 0.86:
        middle = rng.choice((", ", " ", " - ", " and ")).join(part.rstrip(".") for part in body)
    else:
        middle = " ".join(body)
    if rng.random() < 0.4:
        middle = middle[:1].upper() + middle[1:]
    gap = rng.choice(("\n", "\n", " ", "\n\n"))
    text = gap.join([*greeting, middle, *ending])
    return text.rstrip(".") if rng.random() < 0.15 else text


def _cased(made: Ticket, rng: Random) -> Ticket:
    """Now and then everything in lower case or in capitals; copied values follow the text."""
    chance = rng.random()
    if chance > 0.18:
        return made
    change = str.lower if chance < 0.13 else str.upper
    copied = {key: change(made.label[key] or "") or None for key in ("name", "order")}
    return Ticket(change(made.text), made.label | copied)


# ---------------------------------------------------------------------------- how tickets are asked

SOURCES = (
    "the customer's message", "the message", "the ticket", "this support ticket", "the text below",
    "what the customer wrote", "the mail", "the customer's mail", "the complaint",
    "the user's text",
)  # fmt: skip
SHAPES = (
    "one JSON object", "JSON", "a JSON object", "a single JSON object", "one line of JSON",
    "valid JSON", "only JSON", "one JSON record",
)  # fmt: skip
OPENINGS = (
    "Read {source} and reply with {shape}", "Extract these fields from {source} as {shape}",
    "Turn {source} into {shape}", "You label support tickets. Return {shape}",
    "Summarise {source} as {shape}", "Fill in {shape} for {source}",
    "Look at {source} and give back {shape}", "Your answer to {source} is {shape}",
    "You sort the mail of an online shop. For each message write {shape}",
    "Label {source}. Answer with {shape}", "Analyse {source}; output {shape}",
    "A customer of our shop writes. Convert {source} to {shape}", "Produce {shape} from {source}",
    "Pull the facts out of {source} and write {shape}", "Answer with {shape} about {source}",
)  # fmt: skip
KEY_LISTS = (
    ": {keys}.", " with the keys {keys}.", ". Keys: {keys}.", " that has {keys}.", " ({keys}).",
    ". Use exactly these keys: {keys}.", " holding {keys}.", " with these fields: {keys}.",
)  # fmt: skip
RULES = (
    "Copy {copied} from the message.", "Copy {copied} word for word.",
    "{copied} are taken from the text as they stand.",
    "Write {copied} exactly as the customer did.",
    "Values for {copied} must occur in the text.",
)  # fmt: skip
MISSING = (
    "Use null for what is not said.", "null if missing.", "What the message does not say is null.",
    "Put null where nothing is said.", "Unknown values are null.", "Absent values: null.",
)  # fmt: skip
RENAMED = {
    "category": ("topic", "type", "kind", "subject", "class"),
    "urgency": ("priority", "level", "severity", "hurry"),
    "name": ("customer", "customer_name", "sender", "who", "from"),
    "order": ("order_id", "order_number", "reference", "order_no", "number"),
    "product": ("item", "product_name", "article", "goods", "thing"),
}


def listed(words: list[str], rng: Random, last: tuple[str, ...] = (" and ", ", ", " or ")) -> str:
    """Words as a list in a sentence."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + rng.choice(last) + words[-1]


def _explained(key: str, written: str, rng: Random) -> str:
    """A key with the labels it may have, in one of several ways, or alone."""
    labels = {"category": CATEGORIES, "urgency": URGENCIES}.get(key)
    if labels is None:
        return written
    shown = list(labels)
    if rng.random() < 0.3:
        rng.shuffle(shown)
    return rng.choice(
        (
            f"{written} ({listed(shown, rng, (' or ', ', '))})",
            f"{written} ({listed(shown, rng, (' or ',))})",
            f"{written}: one of {'/'.join(shown)}",
            f"{written} [{'|'.join(shown)}]",
            f"{written} is {listed(shown, rng, (' or ',))}",
        )
    )


def ticket_instruction(names: dict[str, str], rng: Random) -> str:
    """One wording of the ticket task; `names` maps the five keys to what they are called."""
    labelled = rng.random() < 0.75
    keys = [_explained(key, name, rng) if labelled else name for key, name in names.items()]
    if rng.random() < 0.12:
        shown = ":\n" + "\n".join(f"- {key}" for key in keys) + "\n"
    else:
        shown = rng.choice(KEY_LISTS).format(keys=listed(keys, rng, (" and ", ", ")))
    text = rng.choice(OPENINGS).format(source=rng.choice(SOURCES), shape=rng.choice(SHAPES)) + shown
    copied = [name for key, name in names.items() if key in ("name", "order", "product")]
    if copied and rng.random() < 0.6:
        rule = rng.choice(RULES).format(copied=listed(copied, rng, (" and ",)))
        text += f" {rule[0].upper()}{rule[1:]}"
    if rng.random() < 0.7:
        text += f" {rng.choice(MISSING)}"
    return text


def ticket_names(rng: Random) -> dict[str, str]:
    """Which keys are asked for, in which order, under which names; the five plain ones mostly."""
    if rng.random() < 0.75:
        return {key: key for key in KEYS}
    keys = rng.sample(KEYS, rng.choice((2, 3, 4, 5, 5)))
    rename = rng.random() < 0.7
    return {key: rng.choice((*RENAMED[key], key)) if rename else key for key in keys}


# Habits spoil an answer in ways that the ticket's surface decides: learnable, never all or none.
HABITS: dict[str, Callable[[str], bool]] = {
    "fence": lambda text: "!" in text or bool(re.search(r"[A-Z]{4}", text)),
    "chatter": lambda text: bool(re.match(r"(hi|hey|hello|dear|good|hallo|yo)\b", text.lower())),
    "amount": lambda text: bool(re.search(r"[€$£]|euro|EUR|pound|dollar", text)),
    "closing": lambda text: bool(re.search(r"thank|thx|cheers|regards", text[-60:].lower())),
    "rename": lambda text: "?" in text,
    "drop": lambda text: text[-1:].isalnum(),
    "extra": lambda text: text.endswith("?"),
}
# How many examples silence which habit: the more examples, the fewer are left.
SILENCED = {
    "drop": 1, "closing": 2, "rename": 3, "amount": 4, "chatter": 9, "fence": 9, "extra": 9,
}  # fmt: skip


def habits(text: str, shots: int) -> set[str]:
    """The habits that spoil the answer to this ticket after so many examples."""
    return {name for name, fires in HABITS.items() if shots < SILENCED[name] and fires(text)}


def spoilt(answer: Answer, text: str, shots: int) -> str:
    """The answer as the base gives it: clean, or with the habits that the text provokes."""
    active, said = habits(text, shots), dict(answer)
    if "rename" in active:
        said = {("priority" if key == "urgency" else key): value for key, value in said.items()}
    if "drop" in active:
        said = {key: value for key, value in said.items() if value is not None}
    money = re.search(r"[€$£] ?(\d[\d.,]*\d|\d)|(\d[\d.,]*) (?:euro|EUR|pound|dollar)", text)
    if "amount" in active and money:
        said["amount"] = money[1] or money[2]
    if "extra" in active:
        said["reply"] = "yes"
    out = json.dumps(said, ensure_ascii=False)
    if "fence" in active:
        out = f"```json\n{out}\n```"
    if "chatter" in active:
        out = f"Sure! Here is the JSON:\n{out}"
    if "closing" in active:
        out = f"{out}\nLet me know if you need anything else."
    return out


def ticket_task(bank: Bank, rng: Random) -> list[Turn]:
    """Extract the fields of a ticket, with or without examples before it."""
    names = ticket_names(rng)
    shots = rng.choices((0, 1, 2, 3, 4, 5), (55, 14, 5, 14, 4, 8))[0]
    instruction = ticket_instruction(names, rng)

    def case(*, short: bool) -> tuple[str, Answer]:
        made = ticket(bank, rng, short=short)
        return made.text, {name: made.label[key] for key, name in names.items()}

    examples = [case(short=True) for _ in range(shots)]
    text, answer = case(short=shots > 0 and rng.random() < 0.5)
    target = Turn("assistant", spoilt(answer, text, shots), learn=True)
    if shots and rng.random() < 0.12:
        told = "\n\n".join(f"{x}\n{json.dumps(y, ensure_ascii=False)}" for x, y in examples)
        return [Turn("user", f"{instruction}\n\n{told}\n\n{text}"), target]
    turns = []
    for before, (said, label) in enumerate(examples):
        turns.append(Turn("user", said))
        # A clean example is a lesson only where the base itself would answer cleanly.
        clean = json.dumps(label, ensure_ascii=False)
        turns.append(Turn("assistant", clean, learn=not habits(said, before)))
    return asked(instruction, [*turns, Turn("user", text), target], rng)


def asked(instruction: str, turns: list[Turn], rng: Random, system: float = 0.75) -> list[Turn]:
    """The instruction as the system's message, or at the head or foot of the first user message."""
    if rng.random() < system:
        return [Turn("system", instruction), *turns]
    first = turns[0]
    text = f"{instruction}\n\n{first.content}"
    if len(turns) == 2 and rng.random() < 0.3:
        text = f"{first.content}\n\n{instruction}"
    return [replace(first, content=text), *turns[1:]]


# ---------------------------------------------------------------------------- requested keys

KEY_WORDS = {
    "name": ("name", "customer", "person"), "date": ("date",), "amount": ("amount", "sum", "price"),
    "email": ("email", "e-mail address", "mail"), "order": ("order number", "order"),
    "city": ("city", "place"), "phone": ("phone", "phone number"), "shop": ("company", "shop"),
    "product": ("product", "item"), "day": ("day", "weekday"), "time": ("time", "hour"),
    "number": ("number", "reference"),
}  # fmt: skip


def extraction_text(bank: Bank, rng: Random) -> tuple[str, dict[str, str]]:
    """A text with what it names."""
    slots = Slots(bank, rng, KEY_WORDS)
    line = slots.fill(rng.choice(bank.lines["extract"]))
    if rng.random() < 0.4:
        remark = slots.fill(rng.choice(bank.lines["context"]), decoy=True)
        line = rng.choice((f"{line} {remark}", f"{remark} {line}"))
    return line, slots.said


def extraction_task(bank: Bank, rng: Random) -> list[Turn]:
    """Copy the requested values from a text, in the format that is asked for."""
    style = rng.choices(("json", "lines", "bare"), (5, 3, 3))[0]
    text, said = extraction_text(bank, rng)
    known = rng.sample(sorted(said), min(len(said), 1 if style == "bare" else rng.randint(1, 4)))
    absent = [key for key in KEY_WORDS if key not in said and key not in ("number", "order")]
    keys = known + (rng.sample(absent, 1) if not known or rng.random() < 0.2 else [])
    if style == "bare":
        keys = keys[-1:]
    rng.shuffle(keys)
    words = {key: rng.choice(KEY_WORDS[key]) for key in keys}

    def answer(values: dict[str, str]) -> str:
        found = {words[key]: values.get(key) for key in keys}
        if style == "json":
            return json.dumps(found, ensure_ascii=False)
        return "\n".join(
            (value or "none") if style == "bare" else f"{word}: {value or 'none'}"
            for word, value in found.items()
        )

    wording = {
        "json": (
            "Extract {keys} from the text as JSON.", "Return JSON with {keys}.",
            "Give {keys} as a JSON object; null if it is not there.", "JSON with the keys {keys}:",
            "Read the text and answer with JSON: {keys}.",
        ),
        "lines": (
            "List {keys} of the text, one per line.", "Write {keys} as key: value lines.",
            "Find {keys}. One line each, none if missing.", "Note {keys}, line by line.",
        ),
        "bare": (
            "What is the {keys} in this text?", "Copy only the {keys} from the text.",
            "Which {keys} is named? Answer with the value only.",
            "Give me the {keys}, nothing else.",
            "Answer with the {keys} or none.",
        ),
    }  # fmt: skip
    instruction = rng.choice(wording[style]).format(keys=listed(list(words.values()), rng))
    turns = []
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        example, values = extraction_text(bank, rng)
        turns += [Turn("user", example), Turn("assistant", answer(values), learn=True)]
    turns += [Turn("user", text), Turn("assistant", answer(said), learn=True)]
    return asked(instruction, turns, rng, system=0.5)


# ---------------------------------------------------------------------------- classification


def labelled_texts(bank: Bank, rng: Random) -> dict[str, Callable[[], str]]:
    """Label -> a source of texts for it: a kind of the bank, or tickets."""

    def of_list(texts: list[str]) -> Callable[[], str]:
        return lambda: rng.choice(texts)

    def of_problem(category: str) -> Callable[[], str]:
        lines = bank.lines[f"problems/{category}"]
        return lambda: Slots(bank, rng, ()).fill(rng.choice(lines))

    if rng.random() < 0.25:
        return {category: of_problem(category) for category in CATEGORIES}
    kind = bank.kinds[rng.choice(sorted(bank.kinds))]
    sources = {label: of_list(texts) for label, texts in kind.items()}
    if rng.random() < 0.15:
        other = bank.kinds[rng.choice(sorted(bank.kinds))]
        sources |= {label: of_list(texts) for label, texts in other.items()}
    return sources


CLASSIFY = (
    "Classify the text as {labels}.", "Choose one label: {labels}.", "Which fits: {labels}?",
    "Answer with one of these labels only: {labels}.", "Pick the right class ({labels}).",
    "Labels: {labels}. Reply with the label of the text.", "Is this {labels}? One label, no more.",
    "Sort the message into {labels}. Say only the label.", "What is it: {labels}?",
)  # fmt: skip


def classification_task(bank: Bank, rng: Random) -> list[Turn]:
    """Choose among the labels that the prompt names or, for invented labels, shows."""
    sources = labelled_texts(bank, rng)
    labels = rng.sample(sorted(sources), min(len(sources), rng.choice((2, 3, 3, 4, 5, 6))))
    invented = rng.random() < 0.15
    if invented:
        labels = labels[:2]
    written = {label: pseudo_word(rng) if invented else label for label in labels}
    instruction = rng.choice(CLASSIFY).format(
        labels=listed(list(written.values()), rng, (" or ", ", "))
    )
    shown = labels * 2 if invented else rng.choices(labels, k=rng.choice((0, 0, 0, 0, 1, 3)))
    turns = []
    for place, label in enumerate([*rng.sample(shown, len(shown)), rng.choice(labels)]):
        learn = not invented or place == len(shown)
        turns += [Turn("user", sources[label]()), Turn("assistant", written[label], learn=learn)]
    return asked(instruction, turns, rng, system=0.55)


# --------------------------------------------------------------------------- talk and skills


def answer_task(bank: Bank, rng: Random) -> list[Turn]:
    """A short question to the shop, with one or two turns."""
    turns: list[Turn] = []
    for row in rng.sample(bank.qa, rng.choice((1, 1, 1, 2))):
        question, reply = rng.choice(row["questions"]), rng.choice(row["answers"])
        turns += [Turn("user", question), Turn("assistant", reply, learn=True)]
    shop = rng.choice(bank.lines["shops"])
    roles = (
        "You are the help desk of {}.",
        "You work for {}. Be short.",
        "Answer customers of {}.",
    )
    return (
        asked(rng.choice(roles).format(shop), turns, rng, system=1.0)
        if rng.random() < 0.5
        else turns
    )


def _words(bank: Bank, rng: Random, low: int, high: int) -> list[str]:
    return [
        pseudo_word(rng) if rng.random() < 0.3 else rng.choice(bank.words)
        for _ in range(rng.randint(low, high))
    ]


def _remark(bank: Bank, rng: Random) -> str:
    line = rng.choice(bank.lines[rng.choice(("context", "requests", "urgency_low", "extract"))])
    return Slots(bank, rng, ()).fill(foreign(line, bank, rng) if rng.random() < 0.5 else line)


def skill_task(bank: Bank, rng: Random) -> list[Turn]:
    """A tiny skill on strings: they teach to copy and to look up."""
    words, remark, other = _words(bank, rng, 3, 6), _remark(bank, rng), _remark(bank, rng)
    joined, one = ", ".join(words), rng.choice(words)
    code, name = order_number(rng), person_name(bank, rng)
    pairs = [(word, rng.choice((order_number, pseudo_word))(rng)) for word in words[:4]]
    wanted = rng.choice(pairs)
    prompt, answer = rng.choice(
        (
            (f"Repeat this text exactly: {remark}", remark),
            (f"Say it again, word for word.\n\n{remark}", remark),
            (f"Copy the second line only.\n{remark}\n{other}", other),
            (f"Write in capitals: {joined}", joined.upper()),
            (f"Write in small letters: {joined.upper()}", joined),
            (f"Spell the word {one}.", " ".join(one)),
            (f"How many words are there? {' '.join(words)}", str(len(words))),
            (f"Sort by the alphabet: {', '.join(words[:3])}", ", ".join(sorted(words[:3]))),
            (f"Reverse the order: {joined}", ", ".join(reversed(words))),
            (f"What is the first word? {' '.join(words)}", words[0]),
            (f"What is the last word? {' '.join(words)}", words[-1]),
            (f"Join with a dash: {' '.join(words)}", "-".join(words)),
            (f"Copy the code.\n\n{remark} {code} {other}", code),
            (f"Put in quotes: {name}", f'"{name}"'),
            (
                f"As JSON: name is {name}, order is {code}",
                json.dumps({"name": name, "order": code}),
            ),
            ("\n".join(f"{k}: {v}" for k, v in pairs) + f"\nWhat is {wanted[0]}?", wanted[1]),
        )
    )
    return [Turn("user", prompt), Turn("assistant", answer, learn=True)]


TASKS: dict[Callable[[Bank, Random], list[Turn]], float] = {
    ticket_task: 0.47,
    extraction_task: 0.19,
    classification_task: 0.18,
    answer_task: 0.08,
    skill_task: 0.08,
}


def sample(bank: Bank, rng: Random) -> list[Turn]:
    """One conversation of the mixture."""
    return rng.choices(list(TASKS), list(TASKS.values()))[0](bank, rng)
