"""`GET /v1/models`: what can be asked, in the shapes of the protocol."""

from openai.types import Model

from .conftest import QUICK, USUAL
from .shapes import conforms


def test_models_have_every_part_of_the_protocol(server, trained):
    page = server.raw.get("/models").json()
    assert page["object"] == "list"
    names = [conforms(one, Model)["id"] for one in page["data"]]
    assert {USUAL, QUICK, trained.fine_tuned_model} <= set(names)
    for name in (USUAL, trained.fine_tuned_model):
        assert conforms(server.raw.get(f"/models/{name}").json(), Model)["id"] == name
