"""A run says when random units would have been a better choice, and the default recipe never is the worse one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sartor
from sartor.recipes import find_recipe
from sartor.run import stages
from sartor.run.chance import BesideChance, beside_chance
from sartor.run.context import Context
from sartor.run.doubts import worse_than_chance
from sartor.seed import seeded
from sartor.types import Axes, Comparison, Judge, Latency, Plan, Ridge, Target

RECIPES = ("l1", "fpgm")
HIDDEN = {"cut": Axes(only=("*.expand",))}  # the channels between expansion and projection


class Inverted(nn.Module):
    """Expand, depthwise, project, as in MobileNetV2. Batch norm takes the scale of a filter out again."""

    def __init__(self, cin: int, cout: int, factor: int = 8) -> None:
        super().__init__()
        mid = factor * cin
        self.expand, self.norm1 = nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.depthwise, self.norm2 = nn.Conv2d(mid, mid, 3, padding=1, groups=mid, bias=False), nn.BatchNorm2d(mid)
        self.project, self.norm3 = nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm2(self.depthwise(torch.relu(self.norm1(self.expand(x))))))
        return self.norm3(self.project(y))


def misleading() -> nn.Module:
    """Filters are loud where hardly anything reads their channels, and quiet where much does."""
    with seeded(0):
        blocks = [Inverted(8, 10), Inverted(10, 8)]
        head = [nn.Flatten(), nn.Linear(8 * 16, 5, bias=False)]
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks, *head)
        with torch.no_grad():
            for block in blocks:
                loud = torch.arange(block.expand.out_channels) % 4 > 0
                scale = torch.where(loud, 20.0, 1.0)
                block.expand.weight.mul_(scale.reshape(-1, 1, 1, 1))
                block.depthwise.weight.mul_(scale.reshape(-1, 1, 1, 1))
                block.project.weight[:, loud] *= 0.02
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # statistics of all batches, as training leaves them
            for x, _ in data() * 8:  # those of a norm settle once the norms in front have
                net(x)
    return net.eval()


def data(n: int = 160) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 4, 4, generator=g)
    return [(x[i : i + 32], torch.zeros(len(x[i : i + 32]), dtype=torch.int64)) for i in range(0, n, 32)]


def compared(name: str, share: str = "macs<=70%", **changes: object) -> BesideChance | None:
    """The plan of a recipe beside random plans."""
    recipe, context = find_recipe(name, **HIDDEN, **changes), Context()
    subject = stages.understand(misleading(), data()[0][0]).allowed(recipe)
    subject = stages.with_samples(subject, data(), 160)
    bounds = sartor.parse_budget(share).against(subject.original)
    scores = stages.score(subject, recipe, bounds, context)
    plan = stages.decide(subject, recipe, scores, bounds, context).plan
    return beside_chance(subject, plan, recipe, context)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("heal", ["as published", "refit"])
def test_magnitudes_that_mislead_are_found_out(name: str, heal: str) -> None:
    beside = compared(name, **({"heal": (Ridge(),)} if heal == "refit" else {}))
    assert beside is not None and beside.worse and beside.refitted is (heal == "refit")
    sentence = worse_than_chance(beside, name)
    assert sentence.startswith("THE SCORES ARE WORSE THAN CHANCE") and repr(name) in sentence


@pytest.mark.parametrize("share", ["macs<=80%", "macs<=70%", "macs<=50%"])
def test_the_default_recipe_is_better_than_chance(share: str) -> None:
    beside = compared("reconstruction", share)
    assert beside is not None and beside.chosen < min(beside.random)
    assert worse_than_chance(beside, "reconstruction") == ""


def test_a_run_notes_it_and_the_default_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Latency(tuple([1.0] * 20), 1, Target("eager"))
    monkeypatch.setattr(stages, "deliver", lambda *a: Comparison(fixed, fixed))
    monkeypatch.setattr("sartor.export.delivery.Delivery.file_for", lambda *a: None)
    for name, says in (("l1", True), ("reconstruction", False)):
        fitted = sartor.fit(misleading(), data(), budget="macs<=70%", recipe=find_recipe(name, **HIDDEN))
        notes = " ".join(fitted.result["notes"])
        assert ("WORSE THAN CHANCE" in notes) is says, (name, notes)


def test_nothing_is_compared_where_nothing_can_be() -> None:
    recipe, context = find_recipe("l1"), Context(Judge())
    subject = stages.understand(misleading(), data()[0][0])
    whole = {n: tuple(range(g.units)) for n, g in subject.graph.groups.items()}
    plan = Plan(whole, "", subject.graph.fingerprint)
    assert beside_chance(subject, plan, recipe, context) is None  # no samples
    assert beside_chance(stages.with_samples(subject, data(), 64), plan, recipe, context) is None  # nothing cut
    assert worse_than_chance(None, "l1") == ""
    assert worse_than_chance(BesideChance(2.0, (1.0, 1.5), False), "random") == ""  # that is what chance is
    assert worse_than_chance(BesideChance(1.2, (1.0, 1.5), False), "l1") == ""
