"""The fields that every request gets by default: which are sent, and under which names.

A model's table leaves some out (`omit`) or renames them (`rename`); what a service was found to
refuse is added. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.models.refusals import LIMITS, NOTHING, SAMPLING, Refused
from harness.records import HarnessError

OPTIONS = frozenset({"omit", "rename"})
"""Keys of a model's table."""
OURS = (*SAMPLING, *LIMITS)
_TAKEN = ("model", "messages", "tools")
MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call"}
)
"""What the protocol has in a message; anything else is for training, and never sent."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the table of a model says of the fields: `omit` are left out, `rename` renames.

    `limit` is the usual name of the limit of tokens there. `own` are the fields that the table
    gives itself, `reasons`: the model is told to reason, and such models refuse a temperature.
    """

    limit: str
    omit: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    reasons: bool = False

    def names(self, refused: Refused = NOTHING) -> dict[str, str]:
        """Return field -> the name under which it is sent; what is not sent is absent."""
        limit = refused.limit or self.limit
        wanted = ("temperature", "seed", limit) if not self.reasons else ("seed", limit)
        return {
            name: self.rename.get(name, name)
            for name in wanted
            if name not in self.omit and name not in refused.fields
        }

    def differences(self, refused: Refused = NOTHING) -> dict[str, Any]:
        """Return what is sent otherwise than by default, as JSON: `left_out` and `renamed`."""
        usual, names = Choice(self.limit, reasons=self.reasons).names(), self.names(refused)
        limit = next((names[name] for name in LIMITS if name in names), None)
        sent = {name: limit if name in LIMITS else names.get(name) for name in usual}
        left_out = sorted(name for name, value in sent.items() if value is None)
        renamed = {name: value for name, value in sent.items() if value not in (None, name)}
        return {
            **({"left_out": left_out} if left_out else {}),
            **({"renamed": renamed} if renamed else {}),
        }

    def ours(self, names: Mapping[str, str]) -> frozenset[str]:
        """Return which of the sent `names` nobody but us chose."""
        return frozenset(name for name, sent in names.items() if name == sent) - self.own


def omitted(value: object) -> frozenset[str]:
    """Return the fields that `omit` of a table names; the limit of tokens goes by either name.

    Raises:
        HarnessError: it is no list of fields that are sent by default; the sentence is an advice.

    """
    if not isinstance(value, list) or not all(name in OURS for name in value):
        raise HarnessError(f"write a list of fields that are sent by default: {', '.join(OURS)}")
    limits = LIMITS if set(LIMITS).intersection(value) else ()
    return frozenset([*value, *limits])


def renames(value: object) -> dict[str, str]:
    """Return what `rename` of a table says: field -> its name at the service.

    Raises:
        HarnessError: it is no such table, or two fields would have one name; an advice.

    """
    if not isinstance(value, Mapping) or not all(
        name in OURS and isinstance(new, str) and new for name, new in value.items()
    ):
        raise HarnessError(
            'write a table such as { max_completion_tokens = "max_tokens" } of fields that are '
            f"sent by default: {', '.join(OURS)}"
        )
    for limit in LIMITS:
        names = [value.get(name, name) for name in (*SAMPLING, limit)]
        if len({*names, *_TAKEN}) < len(names) + len(_TAKEN):
            raise HarnessError("give each field a name of its own")
    return {str(name): str(new) for name, new in value.items()}
