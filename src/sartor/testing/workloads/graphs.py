"""Nodes and whole graphs classified: deep propagation, reversible layers, pooling, noise, projections, many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example, first_tensor
from sartor.testing.workloads.graph_data import communities, mean_of_neighbours, propagated, renumbered, with_loops
from sartor.testing.workloads.pictures import two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data


class NodeTask(Workload):
    """Nodes of graphs classified, judged on other graphs; renumbering the nodes renumbers the answers."""

    warm_up = 4
    lr = 1e-2
    tolerance = 1e-4

    def examples(self) -> Sequence[Example]:
        return [communities(n, i)[0] for i, n in enumerate((24, 40, 17))]

    def data(self) -> Data:
        train, val = ([communities(n, self.seed + i) for i in r] for n, r in ((100, range(8)), (150, range(8, 11))))
        return Data(train=train, val=val)

    def violation(self, model: nn.Module) -> float:
        graph = self.examples()[0]
        other, order = renumbered(graph)
        with torch.no_grad():
            return difference(first_tensor(model(*other)), first_tensor(model(*graph))[order])


class AdaptiveHops(nn.Module):
    """Transformation first, then propagation; each hop is weighted by a score that it gets itself."""

    def __init__(self, width: int = 12, hidden: int = 24, classes: int = 4, hops: int = 6):
        super().__init__()
        self.hops = hops
        self.transform = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, hidden))
        self.score, self.out = nn.Linear(hidden, 1), nn.Linear(hidden, classes)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """[nodes, width], [2, edges] -> [nodes, classes]."""
        edges = with_loops(edges, features.shape[0])
        h = self.transform(features)
        hops = [h]
        for _ in range(self.hops):
            h = propagated(h, edges)
            hops.append(h)
        stacked = torch.stack(hops, 1)  # [nodes, hops + 1, hidden]
        retained = self.score(stacked).sigmoid()
        return self.out((stacked * retained).sum(1))


@workload("dagnn", field="graphs", source="arXiv:2007.09296", preserves="renumbered nodes get renumbered answers")
class Dagnn(NodeTask):
    """Decoupled propagation over many hops with learned scores of the hops."""

    def network(self) -> nn.Module:
        return AdaptiveHops()


class Convolution(nn.Module):
    """Norm, activation, and the mean over neighbours beside the node itself."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm, self.own, self.others = nn.LayerNorm(width), nn.Linear(width, out), nn.Linear(width, out)

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        h = self.norm(h).relu()
        return self.own(h) + self.others(mean_of_neighbours(h, edges))


class Reversible(nn.Module):
    """Two groups of channels, each changed by a function of the other; its input can be computed from its output."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.parts = nn.ModuleList(
            nn.ModuleList([Convolution(width // 2, hidden), nn.Linear(hidden, width // 2)]) for _ in range(2)
        )

    def change(self, part: int, h: Tensor, edges: Tensor) -> Tensor:
        conv, out = self.parts[part].children()
        return out(conv(h, edges).relu())

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        a = a + self.change(0, b, edges)
        b = b + self.change(1, a, edges)
        return torch.cat([a, b], -1)

    def inverse(self, y: Tensor, edges: Tensor) -> Tensor:
        """The input of the forward."""
        a, b = y.chunk(2, -1)
        b = b - self.change(1, a, edges)
        a = a - self.change(0, b, edges)
        return torch.cat([a, b], -1)


class ReversibleNetwork(nn.Module):
    """Grouped reversible layers between two linear maps."""

    def __init__(self, width: int = 12, hidden: int = 24, classes: int = 4, layers: int = 3):
        super().__init__()
        self.enter, self.leave = (
            nn.Linear(width, hidden),
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes)),
        )
        self.layers = nn.ModuleList(Reversible(hidden, hidden) for _ in range(layers))

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        h = self.enter(features)
        for layer in self.layers:
            h = layer(h, edges)
        return self.leave(h)


@workload("revgnn", field="graphs", source="arXiv:2106.07476", preserves="each layer's input follows from its output")
class RevGnn(NodeTask):
    """Reversible layers over two groups of channels: what a layer read can be computed from what it wrote."""

    def network(self) -> nn.Module:
        return ReversibleNetwork()

    def violation(self, model: nn.Module) -> float:
        features, edges = self.examples()[1]
        worst = 0.0
        with torch.no_grad():
            h = model.enter(features)  # type: ignore[operator]
            for layer in model.layers:  # type: ignore[union-attr]
                y = layer(h, edges)
                worst, h = max(worst, difference(layer.inverse(y, edges), h)), y
        return worst


class MinCut(nn.Module):
    """Nodes softly assigned to clusters; the graph of clusters is classified. The losses of the cut go along."""

    def __init__(self, width: int = 6, hidden: int = 16, clusters: int = 8, classes: int = 3):
        super().__init__()
        self.first, self.assign = nn.Linear(width, hidden), nn.Linear(hidden, clusters)
        self.second, self.head = nn.Linear(hidden, hidden), nn.Linear(hidden, classes)

    def forward(self, features: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, nodes, width], [n, nodes, nodes] -> logits [n, classes], cut loss, orthogonality loss."""
        degree = adjacency.sum(-1)
        h = self.first(adjacency @ features / degree.clamp(min=1)[..., None] + features).relu()
        assigned = self.assign(h).softmax(-1)  # [n, nodes, clusters]
        pooled = assigned.transpose(1, 2) @ adjacency @ assigned
        inside = pooled.diagonal(dim1=1, dim2=2).sum(-1)
        reach = (assigned.square() * degree[..., None]).sum((1, 2))
        cut = 1 - (inside / reach.clamp(min=1e-6)).mean()
        overlap = assigned.transpose(1, 2) @ assigned
        trace = overlap.diagonal(dim1=1, dim2=2).sum(-1) / overlap.square().sum((1, 2)).sqrt()
        # the distance of the overlap from the unit matrix, both scaled to norm one
        orthogonal = (2 - 2 * trace / overlap.shape[-1] ** 0.5).clamp(min=1e-6).sqrt().mean()
        clusters = assigned.transpose(1, 2) @ h
        links = pooled / pooled.sum(-1, keepdim=True).clamp(min=1e-6)
        return self.head(self.second(links @ clusters + clusters).relu().mean(1)), cut, orthogonal


def shapes_of_graphs(n: int, seed: int, nodes: int = 12) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Random graphs with one, two or three communities, random features, and how many there are (0 to 2)."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (n,), generator=generator)
    member = (torch.arange(nodes)[None] * (kind + 1)[:, None]) // nodes
    same = (member[:, :, None] == member[:, None]).float()
    draw = torch.rand(n, nodes, nodes, generator=generator)
    linked = (torch.triu(draw, 1) > 1 - (0.85 * same + 0.03 * (1 - same))).float()
    linked = linked + linked.transpose(1, 2)
    return (torch.randn(n, nodes, 6, generator=generator) * 0.2 + linked.sum(-1, keepdim=True) / 6, linked), kind


@workload(
    "mincut", field="graphs", source="arXiv:1907.00481",
    preserves="renumbered nodes give the same answer, and both losses are finite",
)  # fmt: skip
class MinCutPooling(Workload):
    """Pooling by cluster assignments that two additional losses shape; the number of clusters can be cut."""

    lr = 1e-2
    warm_up = 2

    def network(self) -> nn.Module:
        return MinCut()

    def examples(self) -> Sequence[Example]:
        return [shapes_of_graphs(2, 0)[0], shapes_of_graphs(1, 1, 9)[0], shapes_of_graphs(3, 2, 20)[0]]

    def data(self) -> Data:
        return two_parts(shapes_of_graphs, (128, 96), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.cross_entropy(output[0], targets) + 0.1 * (output[1] + output[2])

    def violation(self, model: nn.Module) -> float:
        features, adjacency = self.examples()[1]
        order = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            answer, cut, orthogonal = model(features, adjacency)
            other = model(features[:, order], adjacency[:, order][:, :, order])
        finite = bool(torch.isfinite(torch.stack([cut, orthogonal])).all())
        return difference(other, answer) if finite else float("inf")


class GraphAttention(nn.Module):
    """Attention over the edges of each node, several heads."""

    def __init__(self, width: int, each: int, heads: int = 2):
        super().__init__()
        self.heads, self.each = heads, each
        self.project = nn.Linear(width, heads * each, bias=False)
        self.source, self.target = (nn.Parameter(torch.randn(heads, each) / each**0.5) for _ in range(2))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """[nodes, width] -> [nodes, heads * each]."""
        nodes, (source, target) = x.shape[0], edges.unbind(0)
        h = self.project(x).view(nodes, self.heads, self.each)
        score = (h * self.source).sum(-1)[source] + (h * self.target).sum(-1)[target]
        weight = F.leaky_relu(score, 0.2).clamp(max=20).exp()  # [edges, heads]
        whole = weight.new_zeros(nodes, self.heads).index_add(0, target, weight)
        sent = h[source] * (weight / whole[target])[..., None]
        return torch.zeros_like(h).index_add(0, target, sent).flatten(1)


class Representations(nn.Module):
    """Two layers of graph attention; representations of length one, and classes from them."""

    def __init__(self, width: int = 12, each: int = 8, out: int = 16, classes: int = 4):
        super().__init__()
        self.first, self.second = GraphAttention(width, each), GraphAttention(2 * each, out // 2)
        self.skip, self.head = nn.Linear(width, out), nn.Linear(out, classes)

    def forward(self, features: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """[nodes, width], [2, edges] -> logits [nodes, classes], representations [nodes, out]."""
        edges = with_loops(edges, features.shape[0])
        z = self.second(F.elu(self.first(features, edges)), edges) + self.skip(features)
        z = z / z.square().sum(-1, keepdim=True).add(1e-12).sqrt()
        return self.head(4 * z), z


def coding_rate(z: Tensor) -> Tensor:
    """Bits to code representations [nodes, width] to a precision of 0.1, halved."""
    nodes, width = z.shape
    return 0.5 * torch.logdet(torch.eye(width) + width / (nodes * 0.1) * z.T @ z)


@workload("erase", field="graphs", source="arXiv:2312.08852", preserves="renumbered nodes get renumbered answers")
class Erase(NodeTask):
    """Representations that keep the classes apart although a fifth of the labels is wrong."""

    def network(self) -> nn.Module:
        return Representations()

    def data(self) -> Data:
        whole = super().data()
        generator, train = torch.Generator().manual_seed(self.seed), []
        for graph, labels in whole.train or ():
            wrong = torch.rand(len(labels), generator=generator) < 0.2
            train.append((graph, torch.where(wrong, torch.randint(4, labels.shape, generator=generator), labels)))
        return Data(train=train, val=whole.val)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        def rate_reduction(output: Any, targets: Tensor) -> Tensor:
            logits, z = output
            apart = coding_rate(z)
            within = sum(coding_rate(z[targets == c]) * (targets == c).sum() / len(z) for c in targets.unique())
            return F.cross_entropy(logits, targets) - 0.05 * (apart - within)

        return rate_reduction


class RandomProjections(nn.Module):
    """Neighbours by two relations are averaged over hops and projected at random before anything is learned."""

    projection: Tensor

    def __init__(self, width: int = 12, projected: int = 16, hidden: int = 24, classes: int = 4, hops: int = 2):
        super().__init__()
        self.hops = hops
        self.register_buffer("projection", torch.randn(width, projected) / width**0.5)
        self.encoders = nn.ModuleList(nn.Linear(projected * hops, hidden) for _ in range(2))
        self.own = nn.Linear(width, hidden)
        self.out = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, features: Tensor, cites: Tensor, cited: Tensor) -> Tensor:
        """[nodes, width] and the edges of two relations -> [nodes, classes]."""
        views = [self.own(features)]
        for encode, edges in zip(self.encoders, (cites, cited)):
            h, collected = features @ self.projection, []
            for _ in range(self.hops):
                h = mean_of_neighbours(h, edges)
                collected.append(h)
            views.append(encode(torch.cat(collected, -1)))
        return self.out(torch.cat(views, -1).relu())


@workload("rphgnn", field="graphs", source="arXiv:2310.14481", preserves="renumbered nodes get renumbered answers")
class RpHgnn(NodeTask):
    """Random projections of two relations' neighbourhoods; their width is a group like any other."""

    def network(self) -> nn.Module:
        return RandomProjections()

    def examples(self) -> Sequence[Example]:
        return [self._directed(communities(n, i)[0]) for i, n in enumerate((24, 40, 17))]

    def data(self) -> Data:
        whole = super().data()
        train, val = ([(self._directed(g), y) for g, y in part or ()] for part in (whole.train, whole.val))
        return Data(train=train, val=val)

    def _directed(self, graph: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        features, edges = graph
        forth = edges[:, edges[0] < edges[1]]
        return features, forth, forth.flip(0)

    def violation(self, model: nn.Module) -> float:
        features, forth, back = self.examples()[0]
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        place = order.argsort()
        with torch.no_grad():
            return difference(model(features[order], place[forth], place[back]), model(features, forth, back)[order])


class ManyTasks(nn.Module):
    """One encoder; heads that rebuild features, predict links, and tell a graph from one with shuffled features."""

    def __init__(self, width: int = 12, hidden: int = 24, classes: int = 4):
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.rebuild, self.link, self.real = nn.Linear(hidden, width), nn.Linear(hidden, 16), nn.Linear(hidden, 1)
        self.classes = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, edges: Tensor) -> dict[str, Tensor]:
        edges = with_loops(edges, features.shape[0])
        h = self._encode(features, edges)
        shuffled = self._encode(features.flip(0), edges)
        keys = self.link(h)
        shared = {"shared": h} if self.training else {}  # the gradients of the tasks are compared there
        return {
            **shared,
            "logits": self.classes(h),
            "rebuilt": self.rebuild(h),
            "links": (keys[edges[0]] * keys[edges[1]]).sum(-1),
            "absent": (keys[edges[0]] * keys.flip(0)[edges[1]]).sum(-1),
            "real": torch.cat([self.real(h), self.real(shuffled)], -1),
        }

    def _encode(self, features: Tensor, edges: Tensor) -> Tensor:
        return propagated(self.second(propagated(self.first(features), edges).relu()), edges).relu()


def least_norm(gradients: Tensor, steps: int = 20) -> Tensor:
    """Weights of the shortest convex combination of gradients [tasks, entries]; Frank and Wolfe's method."""
    products = gradients @ gradients.T
    weights = torch.full((len(products),), 1 / len(products))
    for _ in range(steps):
        toward = F.one_hot((products @ weights).argmin(), len(products)).float() - weights
        curvature = toward @ products @ toward
        weights = weights + toward * (-(toward @ products @ weights) / curvature.clamp(min=1e-12)).clamp(0, 1)
    return weights


@workload(
    "paretognn", field="graphs", source="arXiv:2210.02016", preserves="every head gives finite values of its size"
)
class ParetoGnn(NodeTask):
    """Several self-supervised heads on one encoder; no task's gradient may work against the others'."""

    def network(self) -> nn.Module:
        return ManyTasks()

    def data(self) -> Data:
        whole = super().data()
        train, val = ([(g, (y, g[0])) for g, y in part or ()] for part in (whole.train, whole.val))
        return Data(train=train, val=val)

    def score(self, output: Any, targets: Any) -> float:
        return super().score(output["logits"], targets[0])

    def loss(self) -> Callable[[Any, Any], Tensor]:
        def of_all(output: Any, targets: Any) -> Tensor:
            links, absent, real = output["links"], output["absent"], output["real"]
            tasks = [
                F.mse_loss(output["rebuilt"], targets[1]), F.softplus(-links).mean() + F.softplus(absent).mean(),
                F.softplus(-real[:, 0]).mean() + F.softplus(real[:, 1]).mean(),
            ]  # fmt: skip
            weights = torch.full((3,), 1 / 3)
            if "shared" in output:
                rows = [torch.autograd.grad(t, output["shared"], retain_graph=True)[0].flatten() for t in tasks]
                weights = least_norm(torch.stack(rows))
            return F.cross_entropy(output["logits"], targets[0]) + (weights * torch.stack(tasks)).sum()

        return of_all

    def violation(self, model: nn.Module) -> float:
        features, edges = self.examples()[0]
        nodes, links = len(features), edges.shape[1] + len(features)
        sizes = {
            "logits": (nodes, 4),
            "rebuilt": (nodes, 12),
            "links": (links,),
            "absent": (links,),
            "real": (nodes, 2),
        }
        with torch.no_grad():
            output = model(features, edges)
        wrong = [k for k, s in sizes.items() if output[k].shape != s or not bool(torch.isfinite(output[k]).all())]
        return float(len(wrong))
