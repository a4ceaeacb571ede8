"""`summary.md`: the run as a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.records import Decision, Run, Status, Verdict
from harness.report import summary
from harness.report.text import (
    NOTHING,
    dollars,
    number,
    p_value,
    plural,
    seconds,
    sentence,
    short,
    whole,
)
from harness.text import line

_NAMED_CASES = 20
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ =-]*")
_ACTIVE = re.compile(
    r"[\\`*{}\[\]<>#!|~@&$]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|^[-+=]|^\d{1,9}[.)]",
    re.IGNORECASE,
)
_UNLINKED = "\u200b"
_REFERENCE = re.compile(
    r"@|[#!~%$&^](?=[\w\"])|:(?=\S)|www(?=\.)|\bGHSA-|(?<=[a-z])-(?=\d)|[0-9a-f]{6}(?=[0-9a-f])",
    re.IGNORECASE,
)
"""Where a mention, an issue, an advisory, a commit, an address or an emoji would begin.

Services look for them in what is shown, when character references are resolved, and not in code.
"""

_SIGNS = {
    Decision.PASS: "✅",
    Decision.FAIL: "❌",
    Decision.UNDECIDABLE: "⚠️",
    Decision.EVALUATED: "📋",
}


def page(run: Run) -> str:
    """Return `summary.md`; no text of models or cases can form markup, links or mentions."""
    blocks = [
        f"## {_SIGNS[run.decision]} {run.decision.value.upper()}: {escape(summary.headline(run))}",
        escape(summary.reason(run)),
        _listed("⚠️ Alarm", map(escape, run.alarms)),
        *(block for arm in summary.judged(run) for block in _model(run, arm.name)),
        _listed("Ranking", map(escape, summary.ranks(run))),
        _listed("Judges", map(escape, summary.judge_lines(run))),
        _usage(run),
        _listed("Errors", map(code, run.errors)),
        _listed("Notes", map(escape, run.notes)),
        f"Run {code(run.run_id)}. Every changed case is in the run's `index.html`, "
        "all figures in its `results.json`.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str) -> str:
    """Return `text` as one line of Markdown that reads as itself and links to nothing.

    Zero-width spaces keep services from finding mentions and references in it; character references
    cannot open or close anything in Markdown (CommonMark 6.2).
    """
    return _inactive(_REFERENCE.sub(lambda match: match[0] + _UNLINKED, line(text)))


def _inactive(text: str) -> str:
    return _ACTIVE.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", text)


def code(text: str) -> str:
    """Return `text` in code type, where no service looks for mentions and references."""
    text = line(text)
    if _PLAIN.fullmatch(text):
        return f"`{text.strip()}`"
    return f"<code>{_inactive(text)}</code>"


def _listed(title: str, items: Iterable[str]) -> str:
    rows = [f"- {item}" for item in items]
    return "\n".join([f"**{title}**", "", *rows]) if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


def _model(run: Run, name: str) -> list[str]:
    verdicts = summary.gates(run, name)
    before = summary.baseline(run)
    against = f" against {code(before.name)}" if before else ""
    return [
        f"### {code(name)}{against}",
        _table(_HEAD, map(_row, verdicts)) if verdicts else "No gate applies.",
        "\n".join(f"- {escape(_because(v))}" for v in verdicts if v.decision is not Decision.PASS),
        "\n".join(f"- {escape(text)}" for text in summary.striking(run, name)),
        "\n".join(f"- {escape(text)}" for text in summary.sights(run, name)),
        *_changed(run, name),
    ]


_HEAD = ("metric", "before", "after", "difference", "p", "worse / better", "rule", "verdict")


def _row(verdict: Verdict) -> tuple[str, ...]:
    compared = verdict.comparison
    paired = compared.difference is not None
    return (
        code(compared.title),
        number(compared.baseline_mean),
        number(compared.candidate_mean),
        summary.change_of(compared),
        p_value(summary.evidence(compared)[0]),
        f"{compared.losses} / {compared.wins}" if paired else NOTHING,
        code(str(verdict.rule)),
        f"{_SIGNS[verdict.decision]} {verdict.verdict.replace('_', '-')}",
    )


def _because(verdict: Verdict) -> str:
    return sentence(f"{verdict.comparison.title}: {verdict.reason}")


def _changed(run: Run, name: str) -> list[str]:
    changes = summary.changes(run, name)
    return [
        _cases(status, [short(c.name) for c in changes if c.status is status])
        for status in (Status.REGRESSED, Status.IMPROVED)
    ]


def _cases(status: Status, names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    if not names:
        return ""
    left = len(names) - _NAMED_CASES
    more = f" and {left} more" if left > 0 else ""
    named = ", ".join(map(code, names[:_NAMED_CASES]))
    return f"{plural(len(names), 'case')} {status.value}: {named}{more}"


def _usage(run: Run) -> str:
    head = (
        "model",
        "requests",
        "of them cached",
        "attempts",
        "prompt tokens each",
        "of them cached by the service",
        "reply tokens each",
        "empty / refused / truncated",
        "latency p50",
        "p95",
        "cost",
    )
    return _table(head, [_usage_row(run, name) for name in summary.users(run)]) if run.usage else ""


def _usage_row(run: Run, name: str) -> tuple[str, ...]:
    usage = run.usage[name]
    return (
        code(name),
        f"{usage.requests:,}",
        f"{usage.cached:,}",
        whole(usage.attempts),
        whole(usage.prompt_tokens_mean),
        whole(usage.cached_tokens_mean),
        whole(usage.completion_tokens_mean),
        f"{usage.empty} / {usage.refused} / {usage.truncated}",
        seconds(usage.latency_p50_s),
        seconds(usage.latency_p95_s),
        dollars(usage.cost_usd),
    )
