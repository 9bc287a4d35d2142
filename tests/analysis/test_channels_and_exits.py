"""Channels that a class needs, and the cost that an attack forces on early exits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from sartor import BadInput
from sartor.analysis import analyse
from sartor.analysis.layers import layers
from sartor.analysis.probes.class_channels import class_channels, class_weights
from sartor.analysis.probes.exit_cost import exit_cost, exit_of
from tests.analysis.known import batches, by_name, subject


class Quadrants(nn.Module):
    """Two of eight channels see the upper and the lower half of a picture; the class is the brighter half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 8, 1, bias=False), nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.head.weight.zero_()
            self.conv.weight[0, 0], self.conv.weight[1, 1] = 1.0, 1.0
            self.head.weight[0, 0], self.head.weight[1, 1] = 4.0, 4.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def halves(n: int = 60) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Channel 0 is bright at the upper left for class 0, channel 1 at the lower right for class 1."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.1 * torch.rand(n, 2, 8, 8, generator=generator)
    x[y == 0, 0, :3, :3] += 3.0
    x[y == 1, 1, 5:, 5:] += 3.0
    return batches(x, y, 20)


def test_the_channels_of_a_class_get_its_weight_and_the_better_half_keeps_the_accuracy() -> None:
    given = subject(Quadrants(), halves())
    where = given.graph.ops[layers(given.graph)[0].op]
    weights = class_weights(given, where)
    unused = weights[:, 2:].max()
    assert weights.shape == (2, 8) and bool((weights >= 0).all())
    assert weights[0, 0] > unused and weights[1, 1] > unused
    values = {r.quantity: r.value for r in class_channels(given)}
    better, worse = (values[f"accuracy with the {which} half of the channels"] for which in ("better", "worse"))
    assert better == 100.0 and better >= worse + 15
    assert values["deletion test"] >= 90  # a random fifth of the pixels holds a fifth of the bright ones


def test_an_unknown_layer_is_named_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="Layers: relu"):
        analyse(Quadrants(), halves(), [partial(class_channels, layer="conv9")])


class TwoExits(nn.Module):
    """Both exits read the sum of the inputs; the last is as good as the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 2), nn.Linear(4, 2)
        with torch.no_grad():
            for layer in (self.first, self.last):
                layer.weight.copy_(torch.stack([-torch.ones(4), torch.ones(4)]))
                layer.bias.zero_()

    def exits(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.first(x), self.last(x)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x)


def test_a_sample_leaves_at_the_first_exit_that_is_sure() -> None:
    sure, unsure = torch.tensor([9.0, 0.0]), torch.tensor([0.1, 0.0])
    logits = [torch.stack([sure, unsure, unsure]), torch.stack([unsure, sure, unsure]), torch.stack([unsure] * 3)]
    assert exit_of(logits, 0.9).tolist() == [0, 1, 2]


def test_the_attack_reaches_the_exact_cost_of_a_linear_exit() -> None:
    """Confidence is sigmoid(|2 sum x|); moving every input by e_j against the sign lowers |sum x| by sum e_j."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = (x.sum(1) > 0).long()
    low, high = x.amin(0), x.amax(0)
    from sartor.analysis.probes.attacks import Steps

    steps = Steps(eps=0.05, step=0.01, count=10)
    probe = partial(exit_cost, costs=(1.0, 3.0), threshold=0.9, steps=steps)
    seen = by_name(list(probe(subject(TwoExits(), batches(x, y)))))
    limit = float(torch.logit(torch.tensor(0.9))) / 2
    total = x.sum(1)
    moved = x - torch.sign(total)[:, None] * 0.05 * (high - low)
    reached = torch.maximum(torch.minimum(moved, high), low).sum(1)
    expected = {"clean": total.abs() <= limit, "attacked": (reached.abs() <= limit) | (reached.sign() != total.sign())}
    for name, late in expected.items():
        assert seen[f"mean cost, {name}"] == pytest.approx(1 + 2 * float(late.double().mean()), abs=0.02)
    assert seen["cost that the attack adds"] > 5 and seen["accuracy, clean"] == 100


def test_a_network_without_exits_and_costs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="method exits"):
        list(exit_cost(subject(nn.Linear(4, 2), [(torch.randn(4, 4), torch.arange(4) % 2)]), costs=(1.0,)))
    with pytest.raises(BadInput, match="a cost for each of 2 exits; got 3"):
        list(exit_cost(subject(TwoExits(), [(torch.randn(4, 4), torch.arange(4) % 2)]), costs=(1.0, 2.0, 3.0)))
    with pytest.raises(BadInput, match="ascending costs"):
        list(exit_cost(subject(TwoExits(), [(torch.randn(4, 4), torch.arange(4) % 2)]), costs=(2.0, 1.0)))
