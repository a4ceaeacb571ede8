"""Plan -> schedule -> cache -> replies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from harness import prices
from harness.calls import first_difference, nearest, outline_of, request_of, stored_key
from harness.data.messages import instructs
from harness.models import Models
from harness.models.thinking import answered, thinks
from harness.prices import Price, Prices
from harness.records import (
    Case,
    HarnessError,
    Message,
    ModelSpec,
    Reply,
    Request,
    Usage,
    canonical_json,
    content_of,
)
from harness.store import Store, StoredCall

BATCH_ROWS = 128
BATCH_TOKENS = 48_000
SHARED_ROWS = 16
"""So many requests that begin alike are worth batches of their own."""
LOADED = ("bundled", "local")
"""Providers whose models take the memory of this machine: one base after the other."""
PAID = ("openai",)
"""Providers whose models cost money, or may: nobody knows who is behind an endpoint."""
SHORTFALLS = 0.05
"""The share of a model's replies that may be empty, refused or truncated without an alarm."""


_Place = tuple[str, int, str, int]
"""Where a case stands in the order of batches: its beginning, length, text and trial."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a wave of requests is: `done` of `total` that the cache did not hold.

    `cost_usd` is what they cost so far, as far as it is known; `in_flight` of them are under way.
    """

    done: int
    total: int
    cost_usd: float = 0.0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may not do: ask anything (`offline`), or spend more than `max_cost_usd`.

    `yes` agrees to paid trainings, which such a limit does too, and to asking paid models again
    what a damaged store lost.
    """

    offline: bool = False
    max_cost_usd: float | None = None
    yes: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests cost at most, in US dollars.

    Of `unpriced` models the price is unknown, and of `unlimited` ones how long a reply may be.
    """

    requests: int
    cost_usd: float
    unpriced: tuple[ModelSpec, ...]
    unlimited: tuple[ModelSpec, ...] = ()

    @property
    def unknown(self) -> list[str]:
        """Sentences on what of the cost is not known; none where all is."""
        return [*map(prices.unpriced, self.unpriced), *map(prices.unlimited, self.unlimited)]


class Replies:
    """Answers requests from the store, and from the models what the store does not hold."""

    def __init__(
        self,
        store: Store,
        models: Models | None = None,
        table: Prices | None = None,
        limits: Limits | None = None,
        run: str = "",
        spent_usd: float = 0.0,
    ) -> None:
        """Answer from `store` and `models`; `run` names a run of several processes.

        `spent_usd` is what the run cost so far.
        """
        self._store = store
        self._run = run
        self._models = models or Models()
        self._prices = table or Prices()
        self._limits = limits or Limits()
        self._known: dict[str, Reply] = {}
        self._asked: dict[str, str] = {}
        self._spent = spent_usd
        self._price_of: dict[tuple[str, str], Price | None] = {}

    @property
    def models(self) -> Models:
        """The models that are asked."""
        return self._models

    @property
    def spent_usd(self) -> float:
        """What the run cost so far, as far as it is known."""
        return self._spent

    def identity(self, spec: ModelSpec) -> Mapping[str, Any]:
        """Return what, beside its prompt, decides the replies of `spec`; see `Models.identity`."""
        return self._models.identity(spec)

    def plan(
        self,
        spec: ModelSpec,
        case_messages: Sequence[Message],
        trial: int = 0,
        label: str = "",
        case: Case | None = None,
    ) -> Request:
        """Return the call that asks `spec` a case; see `harness.calls.request_of`."""
        return request_of(self._models, spec, case_messages, trial, label, case)

    def missing(self, requests: Iterable[Request]) -> list[Request]:
        """Return the distinct `requests` that have to be asked; recordings never have to."""
        self._refresh()
        live = (r for r in requests if not r.model.recorded and r.key not in self._known)
        distinct = {self._stored_as(request): request for request in live}
        stored = self._stored(distinct)
        return [request for name, request in distinct.items() if name not in stored]

    def charge(self, cost_usd: float) -> None:
        """Count what something else than a reply costs: it leaves less for replies."""
        self._spent += cost_usd

    def refuse_cost(self, requests: Iterable[Request]) -> None:
        """Refuse `requests` that could cost more than what is left to spend.

        Raises:
            HarnessError: they could, or the price of a model is unknown.

        """
        if self._limits.max_cost_usd is None:
            return
        expected = estimate(self._models, self.missing(requests), self._prices)
        if expected.unknown:
            raise HarnessError(f"--harness-max-cost: {expected.unknown[0]}")
        if expected.cost_usd > self._limits.max_cost_usd - self._spent:
            raise HarnessError(
                f"--harness-max-cost: {expected.requests} requests can cost up to "
                f"${expected.cost_usd:.4g}, and ${self._limits.max_cost_usd - self._spent:.4g} is "
                "left; nothing of it was asked: raise the limit, lower max_tokens or ask fewer "
                "cases"
            )

    def gather(
        self,
        requests: Iterable[Request],
        progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, Reply]:
        """Return key -> reply of all `requests`; what the store does not hold is asked.

        Each batch is stored the moment it arrives. A reply with an `error` or a refused one is
        never stored, nor what a recording holds. What may not be asked, or not any more (see
        `Limits`), has an `error`.

        Raises:
            HarnessError: a model cannot be asked at all.
            EvidenceError: a trained artefact or the store is damaged.

        """
        self._refresh()
        distinct = _distinct(requests)
        names = {key: self._stored_as(request) for key, request in distinct.items()}
        stored = {**self._stored(names.values()), **self._passed(names.values())}
        found = {
            key: self._handed_out(distinct[key], stored[name])
            for key, name in names.items()
            if name in stored
        }
        self._known.update(found)
        total, spent = len(distinct) - len(found), self._spent
        first = {names[key]: key for key in reversed(distinct)}
        asked = [request for key, request in distinct.items() if first[names[key]] == key]
        for group in _groups(asked):
            for answers in self._answers(group, found):
                found.update(answers)
                if progress:
                    done = total - len(distinct) + len(found)
                    flying = min(self._models.in_flight, total - done)
                    progress(Progress(done, total, self._spent - spent, flying))
        # What the same call answers is in the store now.
        twins = [r for key, r in distinct.items() if key not in found and first[names[key]] != key]
        return {**found, **self.gather(twins, progress)} if twins else found

    def usage(self, requests: Iterable[Request]) -> dict[str, Usage]:
        """Return model name -> what its distinct `requests` took, of those that were gathered."""
        by_model: dict[str, set[str]] = {}
        for request in requests:
            by_model.setdefault(request.model.name, set()).add(request.key)
        return {name: self._usage(name, keys) for name, keys in by_model.items()}

    def close(self) -> None:
        """Let go of the models and the store."""
        self._models.close()
        self._store.close()

    def _stored_as(self, request: Request) -> str:
        return stored_key(self._models, request)

    def _refresh(self) -> None:
        """Take over what other processes found services to refuse."""
        self._models.refusals.load(self._store.refusals())

    def _stored(self, names: Iterable[str]) -> dict[str, Reply]:
        """Return the stored replies, without broken-off ones that earlier versions stored."""
        found = self._store.replies(names)
        return {name: reply for name, reply in found.items() if not reply.broken_off}

    def _passed(self, names: Iterable[str]) -> dict[str, Reply]:
        """Return what other processes of the run know."""
        passing = self._store.passing(self._run) if self._run else {}
        return {name: passing[name] for name in passing.keys() & set(names)}

    def _answers(
        self, group: Sequence[Request], found: Mapping[str, Reply]
    ) -> Iterator[dict[str, Reply]]:
        # Composed before the cache is looked at: which rows share a batch changes the last
        # digits of local logits, so it should not depend on what is known already.
        missing = [
            [request for request in batch if request.key not in found] for batch in batches(group)
        ]
        waiting = {request.key: request for request in group if request.key not in found}
        recorded = group[0].model.recorded
        for arrived in self._models.ask(missing) if recorded else self._live(missing, waiting):
            answers = {key: self._handed_out(waiting[key], one) for key, one in arrived.items()}
            self._known.update(answers)
            yield answers

    def _live(
        self, missing: Sequence[Sequence[Request]], waiting: Mapping[str, Request]
    ) -> Iterator[dict[str, Reply]]:
        if refusals := self._refusals(waiting):
            yield refusals
        left = {key: None for key in waiting if key not in refusals}
        allowed = [[request for request in batch if request.key in left] for batch in missing]
        for answers in self._models.ask(allowed):
            self._keep(waiting, answers)
            for key in answers:
                del left[key]
            yield dict(answers)
            if left and self._is_spent:
                rest = dict.fromkeys(left, Reply(error=self._no_money()))
                self._pass_on({self._stored_as(waiting[key]): one for key, one in rest.items()})
                yield rest
                return

    def _keep(self, waiting: Mapping[str, Request], answers: Mapping[str, Reply]) -> None:
        """Store what can be used again, and count what it cost."""
        if news := self._models.refusals.news():
            self._store.put_refusals(news)
        named = {self._stored_as(waiting[key]): (key, reply) for key, reply in answers.items()}
        good = {name: reply for name, (_, reply) in named.items() if _lasts(reply)}
        calls = {name: self._call(waiting[named[name][0]]) for name in good}
        self._store.put_replies(good, calls)
        self._pass_on({name: reply for name, (_, reply) in named.items() if name not in good})
        self._asked.update({key: waiting[key].model.name for key in answers})
        self._spent += math.fsum(self._cost(waiting[key], answers[key]) for key in answers)

    def _call(self, request: Request) -> StoredCall:
        return StoredCall(request.label, outline_of(self._models, request), request.model.spec)

    def _pass_on(self, replies: Mapping[str, Reply]) -> None:
        """Tell the other processes of the run what is not stored for later ones."""
        if self._run and replies:
            self._store.put_passing(self._run, replies)

    def _cost(self, request: Request, reply: Reply) -> float:
        """What `reply` cost; the most that it can have cost where it does not tell."""
        if reply.error is not None:
            return 0.0
        cost, price = self._priced(request, reply).cost_usd, self._price(request.model)
        return prices.most(request, price) if cost is None and price else cost or 0.0

    def _handed_out(self, request: Request, reply: Reply) -> Reply:
        """Return `reply` as it is used: the store keeps all that the model said."""
        if reply.error is None and reply.broken_off:
            return Reply(error=f"the service broke the reply off ({reply.finish_reason})")
        return answered(request.model, self._priced(request, reply))

    def _priced(self, request: Request, reply: Reply) -> Reply:
        if reply.cost_usd is not None or reply.error is not None or request.model.recorded:
            return reply
        price = self._price(request.model)
        return replace(reply, cost_usd=prices.cost_of(reply, price)) if price else reply

    def _price(self, spec: ModelSpec) -> Price | None:
        known = (spec.spec, str(spec.options.get("base_url")))
        if known not in self._price_of:
            self._price_of[known] = self._prices.of(spec, self._models.identity(spec))
        return self._price_of[known]

    @property
    def _is_spent(self) -> bool:
        limit = self._limits.max_cost_usd
        return limit is not None and self._spent > limit

    def _no_money(self) -> str:
        return (
            f"not asked: ${self._spent:.4g} is spent, and --harness-max-cost allows "
            f"${self._limits.max_cost_usd:.4g}; what arrived is kept, so run again with a higher "
            "limit to ask the rest"
        )

    def _refusals(self, waiting: Mapping[str, Request]) -> dict[str, Reply]:
        """Return the errors of requests that may not be asked at all; none where they may."""
        if self._limits.offline:
            return self._misses(waiting)
        try:
            self.refuse_cost(waiting.values())
        except HarnessError as problem:
            return dict.fromkeys(waiting, Reply(error=str(problem)))
        paid = [key for key, request in waiting.items() if self._is_paid(request.model)]
        reason = self._loss() if paid else ""
        return dict.fromkeys(paid, Reply(error=reason)) if reason else {}

    def _is_paid(self, spec: ModelSpec) -> bool:
        return spec.provider in PAID or spec.spec in self._prices.own

    def _loss(self) -> str:
        """Return why paid models are not asked what a damaged store may have lost; "" if they are.

        Consent is for good: the loss is forgotten.
        """
        losses = self._store.losses()
        if losses and self._limits.yes:
            self._store.accept_losses()
        if not losses or self._limits.yes:
            return ""
        return (
            "not asked: the store was damaged, and this reply may have been paid for and lost; to "
            "ask paid models again, run once with --harness-yes, or run: harness cache accept-loss"
        )

    def _misses(self, waiting: Mapping[str, Request]) -> dict[str, Reply]:
        errors: dict[str, Reply] = {}
        explained = set()
        for key, request in waiting.items():
            reason = "it is not in the cache (--harness-offline)"
            if request.model.name not in explained:
                explained.add(request.model.name)
                reason = f"{reason}: {self.why_missed(request)}"
            errors[key] = Reply(error=reason)
        return errors

    def why_missed(self, request: Request) -> str:
        """Return what keeps `request` from being answered by the nearest stored reply."""
        fields = outline_of(self._models, request)
        found = nearest(fields, request.label, self._store.calls())
        if found is None:
            return "no reply is stored yet"
        where = f" to {found.label}" if found.label else ""
        return f"the nearest stored reply{where} differs: {first_difference(fields, found.fields)}"

    def _usage(self, name: str, keys: set[str]) -> Usage:
        replies = [self._known[key] for key in sorted(keys & self._known.keys())]
        good = [reply for reply in replies if reply.error is None]
        latencies = sorted(r.latency_s for r in good if r.latency_s is not None)
        costs = [reply.cost_usd for reply in good if reply.cost_usd is not None]
        short = Counter(reply.shortfall for reply in good)
        return Usage(
            requests=len(keys),
            cached=sum(self._asked.get(key) != name for key in keys),
            prompt_tokens_mean=_mean(reply.prompt_tokens for reply in good),
            completion_tokens_mean=_mean(reply.completion_tokens for reply in good),
            latency_p50_s=_percentile(latencies, 0.50),
            latency_p95_s=_percentile(latencies, 0.95),
            cost_usd=math.fsum(costs) if costs else None,
            cached_tokens_mean=_mean(reply.cached_tokens for reply in good),
            attempts=_sum(reply.attempts for reply in replies),
            empty=short["empty"],
            refused=short["refused"],
            truncated=short["truncated"],
            thinking=sum(map(thinks, good)),
            reasoning_tokens_mean=_mean(reply.reasoning_tokens for reply in good),
        )


def estimate(models: Models, requests: Iterable[Request], table: Prices) -> Estimate:
    """Return what `requests` cost at most; models on this machine and recordings cost nothing."""
    asked = [request for request in requests if request.model.provider not in prices.FREE]
    costs, unpriced, unlimited = [], {}, {}
    for request in asked:
        spec = request.model
        price, longest = table.of(spec, models.identity(spec)), models.longest(spec)
        if price is None:
            unpriced[spec.spec] = spec
        elif longest is None:
            unlimited[spec.name] = spec
        else:
            costs.append(prices.most(request, price, longest))
    found = (tuple(unpriced.values()), tuple(unlimited.values()))
    return Estimate(len(asked), math.fsum(costs), *found)


def alarm(name: str, usage: Usage) -> str:
    """Return what is wrong with the replies of the model `name`; "" where few fall short."""
    counts = {"truncated": usage.truncated, "empty": usage.empty, "refused": usage.refused}
    short = sum(counts.values())
    if short <= SHORTFALLS * usage.requests:
        return ""
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    advice = "; ".join(_REMEDIES[kind] for kind, count in counts.items() if count)
    return (
        f"{name}: {short} of {usage.requests} replies ({short / usage.requests:.0%}) fall short "
        f"({told}): {advice}"
    )


_REMEDIES = {
    "truncated": "raise max_tokens, or the scores are of half answers (where the model thinks, "
    'thinking = "off" in its table may help)',
    "empty": "read them in the report: a reasoning model may need a higher max_tokens, another "
    "one its own chat template",
    "refused": "the service's content filter stood in the way: look at the prompts, or at the "
    "filter's settings",
}


def _lasts(reply: Reply) -> bool:
    """Whether `reply` may stand for the next one: a filter's mood may not."""
    return reply.error is None and reply.shortfall != "refused" and not reply.broken_off


def _distinct(requests: Iterable[Request]) -> dict[str, Request]:
    distinct: dict[str, Request] = {}
    for request in requests:
        distinct.setdefault(request.key, request)
    return distinct


def _groups(requests: Iterable[Request]) -> list[list[Request]]:
    """Split by what is asked at once: of models that are loaded, those on one base."""
    groups: dict[tuple[str | None, ...], list[Request]] = {}
    for request in requests:
        spec = request.model
        base = (spec.target, spec.revision) if spec.provider in LOADED else ()
        groups.setdefault((spec.provider, *base), []).append(request)
    return list(groups.values())


def batches(group: Iterable[Request]) -> list[list[Request]]:
    """Compose batches of cases of similar length, each of one model with one prompt.

    Cases that begin with the same system message stay among themselves: it is read once for all of
    them. The cuts are the same for all models, so a base and its candidates begin in the same
    company. At most `BATCH_ROWS` cases and about `BATCH_TOKENS` tokens, room for the replies
    included.
    """
    composed: list[list[list[Request]]] = []
    tokens, before = 0, None
    for shared, slot in _slots(group):
        size = max(map(_tokens, slot))
        full = composed and len(composed[-1]) == BATCH_ROWS
        if full or shared != before or tokens + size > BATCH_TOKENS:
            composed.append([])
            tokens, before = 0, shared
        composed[-1].append(slot)
        tokens += size
    return [batch for slots_of_one in composed for batch in _by_prompt(slots_of_one)]


def _slots(group: Iterable[Request]) -> Iterator[tuple[str, list[Request]]]:
    """Yield the requests of each case, in the order of batches, with what the case shares."""
    slots: dict[_Place, list[Request]] = {}
    for request in sorted(group, key=lambda request: request.key):
        slots.setdefault(_place(request), []).append(request)
    rows = Counter(beginning for beginning, *_ in slots)

    def shared(place: _Place) -> str:
        return place[0] if rows[place[0]] >= SHARED_ROWS else ""

    for place in sorted(slots, key=lambda place: (shared(place), *place[1:])):
        yield shared(place), slots[place]


def _by_prompt(slots: Iterable[Iterable[Request]]) -> list[list[Request]]:
    batches: dict[str, list[Request]] = {}
    for request in (request for slot in slots for request in slot):
        spec = request.model
        own = [spec.system, spec.template, spec.thinking == "off"]
        prompted = [str(spec.adapter), dict(spec.options), *own]
        known = canonical_json([*prompted, list(spec.few_shot)])
        batches.setdefault(known, []).append(request)
    return list(batches.values())


def _place(request: Request) -> _Place:
    # The case's own system message is the same whatever a model is prompted with.
    first = request.case.messages[0] if request.case else {}
    beginning = content_of(first) if instructs(first) else ""
    return beginning, request.length, content_of(request.messages[-1]), request.trial


def _tokens(request: Request) -> int:
    """Estimate what a request takes, generously."""
    return prices.prompt_tokens(request) + request.model.sampling.max_tokens


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of the values do not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
