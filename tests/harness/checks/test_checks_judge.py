import pytest

from harness.checks.judge import Material, prompt, question

SENTENCES = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("criterion", "rubric", "material"),
    [
        ("tone", [*SENTENCES[:4], "\ud800"], Material("p", "x", ("r",))),
        ("tone \udfff", SENTENCES, Material("p", "x", ("r",))),
        ("tone", SENTENCES, Material("p", "\ud83d", ("\ud800 r",))),
    ],
)
def test_half_a_surrogate_pair_can_be_put_before_a_judge(criterion, rubric, material):
    asked = prompt(question("here", criterion, rubric), material)
    assert "\\ud" in asked
    asked.encode()
