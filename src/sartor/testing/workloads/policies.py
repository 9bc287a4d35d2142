"""Policies: tours divided by a graph network and improved piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data

PIECE = 5  # points of a sub-path; its ends are fixed


class EdgeLayer(nn.Module):
    """Points and edges changed together; messages are gated by edges."""

    def __init__(self, width: int):
        super().__init__()
        self.own, self.sent, self.edge, self.a, self.b = (nn.Linear(width, width) for _ in range(5))

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        e = e + F.silu(self.edge(e) + self.a(h)[:, :, None] + self.b(h)[:, None])
        return h + F.silu(self.own(h) + (e.sigmoid() * self.sent(h)[:, None]).mean(2)), e


class DivideAndConquer(nn.Module):
    """A heat map of likely edges over all points, and the order of the inner points of short sub-paths."""

    def __init__(self, width: int = 16, layers: int = 2, heads: int = 2):
        super().__init__()
        self.point, self.length = nn.Linear(2, width), nn.Linear(1, width)
        self.layers, self.heat = nn.ModuleList(EdgeLayer(width) for _ in range(layers)), nn.Linear(width, 1)
        self.start = nn.Linear(3, width)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, points: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor]:
        """Points [n, cities, 2], sub-paths [m, PIECE, 2] -> heat [n, cities, cities], successors [m, PIECE, PIECE]."""
        h = self.point(points)
        e = self.length((points[:, :, None] - points[:, None]).square().sum(-1, keepdim=True).add(1e-9).sqrt())
        for layer in self.layers:
            h, e = layer(h, e)
        ends = torch.zeros_like(pieces[..., :1])
        ends[:, 0], ends[:, -1] = 1, -1
        s = self.start(torch.cat([pieces - pieces[:, :1], ends], -1))
        s = s + self.attend(s, s, s, need_weights=False)[0]
        s = s + self.mlp(s)
        return self.heat(e)[..., 0], self.query(s) @ self.key(s).transpose(1, 2)


def tour_length(points: Tensor, tour: Sequence[int]) -> float:
    """Length of a closed tour."""
    path = points[list(tour)]
    return float((path - path.roll(-1, 0)).norm(dim=-1).sum())


def improved(points: Tensor) -> list[int]:
    """A tour that no reversal of a part makes shorter, from the nearest neighbour of each point on."""
    distance = torch.cdist(points, points).tolist()
    tour, left = [0], set(range(1, len(points)))
    while left:
        near = min(left, key=lambda j: distance[tour[-1]][j])
        tour.append(near)
        left.remove(near)
    better = True
    while better:
        better = False
        for i in range(1, len(tour) - 1):
            for j in range(i + 1, len(tour)):
                a, b, c, d = tour[i - 1], tour[i], tour[j], tour[(j + 1) % len(tour)]
                if a != d and distance[a][c] + distance[b][d] < distance[a][b] + distance[c][d] - 1e-9:
                    tour[i : j + 1] = reversed(tour[i : j + 1])
                    better = True
    return tour


def best_order(piece: Tensor) -> list[int]:
    """The shortest order of a sub-path between its ends."""
    distance = torch.cdist(piece, piece).tolist()
    whole = [[0, *inner, PIECE - 1] for inner in permutations(range(1, PIECE - 1))]
    return min(whole, key=lambda o: sum(distance[a][b] for a, b in pairwise(o)))


def maps(n: int, seed: int, cities: int = 10) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Points and sub-paths; edges of a short tour [n, cities, cities] and successors [m, PIECE - 1]."""
    generator = torch.Generator().manual_seed(seed)
    points, pieces = torch.rand(n, cities, 2, generator=generator), torch.rand(2 * n, PIECE, 2, generator=generator)
    edges = torch.zeros(n, cities, cities)
    for i in range(n):
        tour = torch.tensor(improved(points[i]))
        edges[i, tour, tour.roll(-1)] = edges[i, tour.roll(-1), tour] = 1
    following = torch.zeros(2 * n, PIECE - 1, dtype=torch.int64)
    for i in range(2 * n):
        order = best_order(pieces[i])
        following[i, order[:-1]] = torch.tensor(order[1:])
    return (points, pieces), (edges, following)


def decoded(heat: Tensor) -> list[int]:
    """A tour that goes on to the likeliest point left."""
    tour, left = [0], set(range(1, len(heat)))
    while left:
        here = tour[-1]
        best = max(left, key=lambda j: float(heat[here, j] + heat[j, here]))
        tour.append(best)
        left.remove(best)
    return tour


@workload("udc", field="policies", source="arXiv:2407.00312", preserves="renumbered cities get the renumbered heat map")
class Udc(Workload):
    """Neural divide and conquer for tours: a heat map divides, a second policy orders sub-paths."""

    quality_name = "negative tour length"
    lr = 5e-3
    warm_up = 4

    def network(self) -> nn.Module:
        return DivideAndConquer()

    def examples(self) -> Sequence[Example]:
        generator = torch.Generator().manual_seed(0)
        sizes = ((2, 10, 4), (1, 17, 2), (3, 7, 6))
        draw = lambda *shape: torch.rand(*shape, 2, generator=generator)
        return [(draw(n, cities), draw(m, PIECE)) for n, cities, m in sizes]

    def data(self) -> Data:
        (points, pieces), (edges, following) = maps(64, self.seed)
        train = [
            ((points[i : i + 8], pieces[2 * i : 2 * i + 16]), (edges[i : i + 8], following[2 * i : 2 * i + 16]))
            for i in range(0, 64, 8)
        ]
        return Data(train=train, val=[maps(24, self.seed + 1)])

    def loss(self) -> Callable[[Any, Any], Tensor]:
        def of_both(output: Any, targets: Any) -> Tensor:
            (heat, order), (edges, following) = output, targets
            conquer = F.cross_entropy(order[:, :-1].flatten(0, 1), following.flatten())
            return F.binary_cross_entropy_with_logits(heat, edges, pos_weight=torch.tensor(3.0)) + conquer

        return of_both

    def quality(self, model: nn.Module, batches: Sequence[Any]) -> float:
        """Mean length of the decoded tours after every sub-path was put into the order of the second policy."""
        total = count = 0.0
        for (points, pieces), _ in batches:
            with torch.no_grad():
                heat = model(points, pieces)[0]
            for i in range(len(points)):
                tour = self._conquered(model, points[i], decoded(heat[i]))
                total, count = total + tour_length(points[i], tour), count + 1
        return -total / count

    def _conquered(self, model: nn.Module, points: Tensor, tour: list[int]) -> list[int]:
        for start in range(0, len(tour) - PIECE + 1, 2):
            part = tour[start : start + PIECE]
            with torch.no_grad():
                order = model(points[None], points[part][None])[1][0]
            path, left = [0], set(range(1, PIECE - 1))
            while left:
                path.append(max(left, key=lambda j: float(order[path[-1], j])))
                left.remove(path[-1])
            candidate = [part[i] for i in [*path, PIECE - 1]]
            length = lambda p: float((points[p[1:]] - points[p[:-1]]).norm(dim=-1).sum())
            if length(candidate) < length(part):
                tour[start : start + PIECE] = candidate
        return tour

    def violation(self, model: nn.Module) -> float:
        points, pieces = self.examples()[0]
        order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            moved, heat = model(points[:, order], pieces)[0], model(points, pieces)[0]
            return difference(moved, heat[:, order][:, :, order])
