"""`fit` with a recipe that prunes while the network trains: our loop, the same session, a record like any other."""

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput
from sartor.recipes import find_recipe
from sartor.run import stages
from sartor.run.context import Context
from sartor.seed import seeded
from sartor.types import FineTune, Gradual


def data(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=g)
    x = torch.randn(n, 1, 6, 6, generator=g) * 0.5
    for i, c in enumerate(y):
        x[i, 0, int(c)] += 2.0
    return [(x[i : i + 16], y[i : i + 16]) for i in range(0, n, 16)]


def fresh():
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d((6, 1)), nn.Flatten(), nn.Linear(96, 4),
        )  # fmt: skip


@pytest.mark.parametrize("recipe", ["chex", "gradual"])
def test_fit_trains_a_copy_meets_the_budget_and_the_files_load(recipe, tmp_path):
    model = fresh()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fitted = sartor.fit(model, data(), data(seed=1), budget="macs<=50%", recipe=recipe, epochs=4, out=tmp_path / "run")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert fitted.met and fitted.proof.status == "exact" and len(fitted.result["training"]) == 4
    assert fitted.result["quality"]["final"] > 60
    loaded = sartor.load(tmp_path / "run", fresh)
    x = data()[0][0]
    assert torch.equal(loaded.eval()(x), fitted.model.eval()(x))
    course = next(row for row in fitted.record.record if row.step == "while training")
    assert 0.4 < course.model_extra["training_cost"] < 1.0


def test_the_same_seed_gives_the_same_network():
    one, two = (sartor.fit(fresh(), data(), budget="macs<=50%", recipe="chex", epochs=2) for _ in range(2))
    assert one.plan == two.plan
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values()))


def test_without_training_such_a_recipe_is_refused():
    with pytest.raises(BadInput, match="prunes while a network trains"):
        sartor.fit(fresh(), data(), budget="macs<=50%", recipe="chex")
    with pytest.raises(BadInput, match="prunes while a network trains"):
        sartor.fit(fresh(), example=data()[0][0], budget="macs<=50%", recipe=find_recipe("l1", when=Gradual()))
    recipe, subject = find_recipe("gradual"), stages.understand(fresh(), data()[0][0][:1])
    bounds = sartor.parse_budget("macs<=50%").against(subject.original)
    with pytest.raises(BadInput, match="nothing is trained here"):
        stages.score(subject, recipe, bounds, Context())
    with pytest.raises(BadInput, match="with a length"):
        sartor.fit(
            fresh(), (b for b in data()), example=data()[0][0], budget="macs<=50%",
            recipe=recipe.with_training(FineTune(epochs=1, distill=0.0)),
        )  # fmt: skip
