"""A tenth of `benchmarks/fuzz_settings.py`: no settings end in anything but a plan or sentences."""

from __future__ import annotations

import fuzz_settings

from harness import config
from harness.models import chat, local


def test_mutated_settings_end_in_a_plan_or_in_sentences():
    tally = fuzz_settings.fuzz(fuzz_settings.TABLES // 10)
    assert tally.problems == []
    assert tally.ends["used"] > 30
    assert tally.ends["refused"] > 100


def test_the_settings_that_are_mutated_use_every_key():
    table = fuzz_settings.SEED_TABLE
    candidates = {key for one in table["candidates"].values() for key in one}
    models = {key for one in table["models"].values() for key in one}
    gates = table["gates"].values()
    rules = {
        key for one in gates for rule in (one if isinstance(one, list) else [one]) for key in rule
    }
    assert set(table) == set(config.Settings.model_fields)
    assert candidates == set(config.CandidateSettings.model_fields)
    options = chat.Provider.options | local.Provider.options
    assert models == {*config.ModelSettings.model_fields, *options}
    assert rules == set(config.RuleSettings.model_fields)
