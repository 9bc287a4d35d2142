"""Generated graphs: communities with noisy features, in the form that graph libraries use."""

from __future__ import annotations

import torch
from torch import Tensor

Graph = tuple[Tensor, Tensor]  # features [nodes, width], edges [2, edges] from source to target, both directions


def communities(nodes: int, seed: int, classes: int = 4, width: int = 12) -> tuple[Graph, Tensor]:
    """A graph whose nodes are tied mostly to their own class, with weak features; the classes are the targets."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(nodes) % classes
    features = torch.randn(nodes, width, generator=generator)
    features += 0.8 * torch.eye(classes, width)[labels] * 2
    near = (labels[:, None] == labels[None]).float()
    probability = (4.0 * near + 0.5 * (1 - near)) / nodes * 1.5
    linked = torch.rand(nodes, nodes, generator=generator) < probability
    linked = (linked | linked.T) & ~torch.eye(nodes, dtype=torch.bool)
    return (features, linked.nonzero().T.contiguous()), labels


def with_loops(edges: Tensor, nodes: int) -> Tensor:
    """The edges and one from every node to itself."""
    loops = torch.arange(nodes, device=edges.device)
    return torch.cat([edges, torch.stack([loops, loops])], 1)


def mean_of_neighbours(h: Tensor, edges: Tensor) -> Tensor:
    """[nodes, width] -> for every node the mean over the sources of its edges; zero where there are none."""
    source, target = edges[0], edges[1]
    total = torch.zeros_like(h).index_add(0, target, h.index_select(0, source))
    degree = h.new_zeros(h.shape[0]).index_add(0, target, h.new_ones(target.shape[0]))
    return total / degree.clamp(min=1)[:, None]


def propagated(h: Tensor, edges: Tensor) -> Tensor:
    """[nodes, width] multiplied by the adjacency, symmetrically normalised by degrees."""
    source, target = edges[0], edges[1]
    degree = h.new_zeros(h.shape[0]).index_add(0, target, h.new_ones(target.shape[0])).clamp(min=1).rsqrt()
    weight = degree.index_select(0, source) * degree.index_select(0, target)
    return torch.zeros_like(h).index_add(0, target, h.index_select(0, source) * weight[:, None])


def renumbered(graph: Graph, seed: int = 0) -> tuple[Graph, Tensor]:
    """The same graph with its nodes in another order, and the order: new node i was order[i]."""
    features, edges = graph
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    place = order.argsort()
    return (features[order], place[edges]), order


__all__ = ["Graph", "communities", "mean_of_neighbours", "propagated", "renumbered", "with_loops"]
