"""Networks that keep what they computed on themselves, outside of buffers, from one call to the next."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.halved import IMAGE, made
from torch import Tensor, nn

from sartor.errors import CannotCut
from sartor.structure import trace
from sartor.surgery import cut, probe, prove, silence
from sartor.testing.plans import unequal


class CachedGrid(nn.Module):
    """A detection head adds the place of every cell; the grid is kept until a map of another size comes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 1), nn.Conv2d(9, 6, 1)
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.more(self.stem(x).relu()).relu())
        if self.grid is None or self.grid.shape[-2:] != x.shape[-2:]:
            rows, columns = (torch.arange(n, dtype=torch.float32) for n in x.shape[-2:])
            self.grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([x[:, :2].sigmoid() + self.grid, x[:, 2:]], 1)


@pytest.mark.parametrize("size", [8, 12])
def test_a_network_that_cached_a_grid_between_trace_and_cut_is_cut(size):
    model = made(CachedGrid())
    graph = probe(model, trace(model, IMAGE))
    assert model.grid is None
    plan = unequal(graph)
    model(torch.randn(2, 3, size, size))
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    for n in (8, 12):
        x = torch.randn(3, 3, n, n)
        assert torch.allclose(smaller(x), silenced(x), atol=1e-5)
    assert prove(model, graph, plan, IMAGE).passed


def test_a_grid_that_is_gone_since_the_trace_is_refused_with_what_to_do():
    model = made(CachedGrid())
    model(IMAGE)
    graph = probe(model, trace(model, IMAGE))
    model.grid = None
    with pytest.raises(CannotCut, match="trace it again"):
        cut(model, graph, unequal(graph))
