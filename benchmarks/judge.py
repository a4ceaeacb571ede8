"""`make bench`: what do judges cost beyond their calls?

300 pairs in both orders, in whole `pytest` processes against a server on this machine: the time
that `score.prefer` adds to a run beside a bare asynchronous client that sends the same bodies; and
the next run, which asks nothing. Exit status 1 if a limit is missed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import replies
from loopback import Loopback

PAIRS, LATENCY_S, IN_FLIGHT = 300, 0.3, 64
MOST_OF_RAW = 1.5

CHECKS = {"without": "score.exact()", "with": "score.exact()\n    score.prefer()"}
OTHER = """
def other(messages):
    return "no"
"""
JUDGE = """
[tool.harness.judges.strict]
model = "openai:strict"
base_url = "{url}"
"""


def main() -> int:
    """Print the table; return the exit status."""
    print(f"\n{PAIRS} pairs x 2 orders, {LATENCY_S} s each, {IN_FLIGHT} in flight\n")
    with tempfile.TemporaryDirectory() as folder, Loopback(latency_s=LATENCY_S) as server:
        missed = list(_measured(Path(folder), server))
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


def _measured(folder: Path, server: Loopback) -> Iterator[str]:
    project = _project(folder, server)
    replies.run(project, "-m", "pytest", "evals/")  # the replies are known from here on
    without = replies.run(project, "-m", "pytest", "evals/")
    _suite(project, "with")
    server.forget()
    judged = replies.run(project, "-m", "pytest", "evals/")
    calls = server.stats()
    server.forget()
    again = replies.run(project, "-m", "pytest", "evals/")
    left = server.stats()["requests"]
    raw = _raw_client(folder, server, list(calls["asked"]))
    added = judged.seconds - without.seconds
    replies.row("calls x latency / in flight", f"{2 * PAIRS * LATENCY_S / IN_FLIGHT:.2f} s")
    replies.row("bare openai client, whole process", f"{raw.seconds:.2f} s")
    replies.row("what the judge adds to a run", f"{added:.2f} s", f"{added / raw.seconds:.2f} x")
    replies.row("of that, first call to last answer", f"{calls['seconds']:.2f} s")
    replies.row("run without the judge", f"{without.seconds:.2f} s")
    replies.row("next run with it", f"{again.seconds:.2f} s", f"{left} calls")
    if calls["requests"] != 2 * PAIRS or left:
        yield f"{calls['requests']} calls instead of {2 * PAIRS}, and {left} in the next run"
    yield from replies.above("added / bare client", added / raw.seconds, MOST_OF_RAW)


def _project(root: Path, server: Loopback) -> Path:
    project = replies.project_of(root / "judged", server, PAIRS)
    path = project / "pyproject.toml"
    settings = path.read_text().replace('model = "second"', 'model = "python:answers:other"')
    path.write_text(settings + JUDGE.format(url=server.url))
    (project / "answers.py").write_text(OTHER)
    _suite(project, "without")
    return project


def _suite(project: Path, which: str) -> None:
    text = replies.SUITE.replace("score.exact()", CHECKS[which])
    (project / "evals" / "test_demo.py").write_text(text)


def _raw_client(folder: Path, server: Loopback, asked: list[str]) -> replies.Took:
    """Send the texts that the judge was asked once more, with nothing around them."""
    texts = [text.partition(" ")[2] for text in asked if text.startswith("strict ")]
    rows = ({"messages": [_turn("user", text), _turn("assistant", "")]} for text in texts)
    cases = folder / "asked.jsonl"
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = str(replies.HERE / "raw_client.py")
    return replies.run(folder, script, server.url, str(cases), str(IN_FLIGHT), "strict")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    sys.exit(main())
