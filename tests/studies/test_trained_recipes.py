"""The study of recipes: every row has as many epochs, meets its budget, and is made once."""

from __future__ import annotations

import pytest

from sartor.errors import BadInput, UnknownName
from sartor.studies import RowStore, StudyRun, markdown
from sartor.studies.trained_recipes import TrainedRecipes

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )
"""
RECIPES = """
[[comparison]]
budget = "macs<=60%"
recipes = ["l1", "gradual"]
[[comparison]]
budget = "weights<=30%"
recipes = ["static-random", {recipe = "gradual-weights", name = "early", changes = {"when.end" = 0.5}}]
"""


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    file = tmp_path / "recipes.toml"
    file.write_text(
        f"""epochs = 4
[[network]]
name = "small"
model = "{tmp_path}/net.py:net"
data = "digits:"
batch = 64
calibration = 64
train = {{lr = 0.05}}
{RECIPES}"""
    )
    return file


def test_every_recipe_meets_its_budget_after_the_same_training(bench, tmp_path) -> None:
    study = TrainedRecipes(file=bench)
    store = RowStore(tmp_path / "rows.jsonl", TrainedRecipes.key)
    rows = list(study.rows(StudyRun(store)))
    assert [r["recipe"] for r in rows] == ["dense", "l1", "gradual", "static-random", "early"]
    dense, l1, gradual, static, early = rows
    assert dense["cost"] == 1 and dense["accuracy"] > 60
    assert all(r["status"] == "met" and r["verdict"] == "exact" for r in rows[1:])
    assert max(l1["macs"], gradual["macs"]) <= 0.6 and max(static["weights"], early["weights"]) <= 0.3
    assert l1["cost"] == pytest.approx((2 + 2 * l1["macs"]) / 4) and 0.6 < gradual["cost"] < 1
    assert static["cost"] < early["cost"] < 1
    again = list(study.rows(StudyRun(RowStore(tmp_path / "rows.jsonl", TrainedRecipes.key))))
    assert again == rows
    text = markdown(study.parts(study.answer(rows, StudyRun(store))))
    assert "`weights<=30%`, 4 epochs in all:" in text and "| early |" in text


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"gradual"]', '"gradul"]', UnknownName),
        ("macs<=60%", "macs<=", BadInput),
        ("changes =", "chnges =", UnknownName),
        ("epochs = 4", "epochs = 4\ndense = 2", BadInput),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(bench, old: str, new: str, error: type[Exception]) -> None:
    bench.write_text(bench.read_text().replace(old, new))
    with pytest.raises(error):
        next(iter(TrainedRecipes(file=bench).rows(StudyRun(RowStore(None, TrainedRecipes.key)))))
