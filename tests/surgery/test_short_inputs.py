"""Shorter inputs for the proof: the same operators, as many samples, and a wrong cut is refused on them too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sartor.errors import ProofFailed
from sartor.structure import trace
from sartor.surgery import cut, probe, prove
from sartor.surgery.short_inputs import shortened
from sartor.testing.plans import halves


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 6, 3, 2, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).mean((2, 3)))


class OneSize(nn.Module):
    """Its linear layer reads every position, so no other size fits."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 4, 3, 8, 1), nn.Linear(4 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).flatten(1))


class Tokens(nn.Module):
    """Positions come from a table; the mask has both lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(50, 12), nn.Embedding(200, 12), nn.Linear(12, 3)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.words(words) + self.places.weight[: words.shape[1]]
        return self.head((x @ x.transpose(1, 2) + mask).softmax(-1) @ x)


class Branches(nn.Module):
    """Calls other operators on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x.relu() if x.shape[2] > 100 else x.tanh())


def image() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def text() -> dict[str, Tensor]:
    return {"words": torch.arange(128).repeat(2, 1) % 50, "mask": torch.zeros(2, 128, 128)}


@pytest.mark.parametrize(
    ("build", "given", "shapes"),
    [
        (Convolutions, image, [(2, 3, 32, 32)]),
        (OneSize, image, [(2, 3, 128, 128)]),
        (Branches, image, [(2, 3, 128, 128)]),
        (Tokens, text, [(2, 32), (2, 32, 32)]),
    ],
)
def test_long_dimensions_are_shortened_where_the_operators_stay(
    build: type[nn.Module], given: Callable, shapes: list[tuple[int, ...]]
) -> None:
    model, example = build().eval(), given()
    short = shortened(model, trace(model, example), example)
    tensors = list(short.values()) if isinstance(short, dict) else [short]
    assert [tuple(t.shape) for t in tensors] == shapes
    whole = list(example.values()) if isinstance(example, dict) else [example]
    assert all(torch.equal(a, b[tuple(map(slice, a.shape))]) for a, b in zip(tensors, whole))


def test_a_wrong_cut_is_refused_on_short_inputs() -> None:
    torch.manual_seed(0)
    model, example = Convolutions().eval(), image()
    graph = probe(model, trace(model, example))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    assert prove(model, graph, plan, example, smaller=smaller).passed
    with torch.no_grad():
        smaller.b.weight.copy_(smaller.b.weight.flip(1))
    with pytest.raises(ProofFailed):
        prove(model, graph, plan, example, smaller=smaller)
