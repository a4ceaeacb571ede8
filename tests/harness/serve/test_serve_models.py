"""`GET /v1/models`: what can be asked, in the shapes of the protocol."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from openai.types import Model

from harness.config import ModelSettings, Settings
from harness.records import HarnessError, ModelSpec
from harness.serve.catalog import bases
from harness.serve.training import base_of, model_of

from .conftest import QUICK, USUAL
from .shapes import conforms


def test_models_have_every_part_of_the_protocol(server, trained):
    page = server.raw.get("/models").json()
    assert page["object"] == "list"
    names = [conforms(one, Model)["id"] for one in page["data"]]
    assert {USUAL, QUICK, trained.fine_tuned_model} <= set(names)
    for name in (USUAL, trained.fine_tuned_model):
        assert conforms(server.raw.get(f"/models/{name}").json(), Model)["id"] == name


def test_a_table_with_tools_is_not_served(tmp_path):
    table = ModelSettings(model="bundled:pocket", tools=[{"type": "function"}])
    with pytest.raises(HarnessError, match=r"^--alias m: the table of 'own' has tools"):
        bases(["m=own"], Settings(models={"own": table}), tmp_path, 0)


def test_a_trained_model_thinks_as_its_base_does():
    base = ModelSpec("m", "local", "x", options={"quantization": "nf4"}, thinking="off")
    job = SimpleNamespace(base=base_of(base), fingerprint="f")
    made = model_of(job, "m", Path("home"))
    assert (made.thinking, made.options) == ("off", base.options)
