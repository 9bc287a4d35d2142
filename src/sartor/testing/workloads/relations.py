"""Knowledge graphs, links, subgraphs and hypergraphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.graph_data import communities, mean_of_neighbours
from sartor.testing.workloads.pictures import batched, two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data

ENTITIES, RELATIONS = 60, 4


def facts(seed: int) -> tuple[Tensor, Tensor]:
    """Triples [count, 3] (head, relation, tail) of a toy world, for training and to judge by.

    Entities have six kinds in a row; each relation leads some kinds on, to any entity of the kind that it leads to.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = torch.arange(ENTITIES).repeat(8 * RELATIONS)
    relations = torch.arange(RELATIONS).repeat_interleave(ENTITIES).repeat(8)
    kinds = heads % 6 + torch.tensor([1, 2, -1, -2])[relations]
    tails = kinds + 6 * torch.randint(ENTITIES // 6, heads.shape, generator=generator)
    triples = torch.stack([heads, relations, tails], 1)[(kinds >= 0) & (kinds < 6)]
    order = torch.randperm(len(triples), generator=generator)
    return triples[order[120:]], triples[order[:120]]


def hits_at_ten(scores: Tensor, tails: Tensor) -> float:
    """The share of true tails among the ten best of all entities, in percent."""
    return 100 * float(((scores > scores.gather(1, tails[:, None])).sum(1) < 10).double().mean())


def reciprocal_rank(scores: Tensor, tails: Tensor) -> float:
    """Mean reciprocal rank of the true tails among all entities, in percent."""
    return 100 * float((1 / ((scores > scores.gather(1, tails[:, None])).sum(1) + 1)).double().mean())


class Completion(Workload):
    """Missing tails of triples, by a score for every entity."""

    quality_name = "Hits@10 (%)"
    lr = 2e-2

    def score(self, output: Any, targets: Any) -> float:
        return hits_at_ten(output, targets)


class KnowledgeConvolution(nn.Module):
    """Entities and relations updated together, along the gradient of a translation score."""

    def __init__(self, width: int):
        super().__init__()
        self.entities, self.relations = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, e: Tensor, r: Tensor, triples: Tensor) -> tuple[Tensor, Tensor]:
        head, relation, tail = triples.unbind(1)
        gap = e.index_select(0, head) + r.index_select(0, relation) - e.index_select(0, tail)
        at_entities = torch.zeros_like(e).index_add(0, tail, gap).index_add(0, head, gap, alpha=-1)
        at_relations = torch.zeros_like(r).index_add(0, relation, gap, alpha=-1)
        ones = e.new_ones(len(head))
        degree = e.new_ones(len(e)).index_add(0, tail, ones).index_add(0, head, ones)
        uses = e.new_ones(len(r)).index_add(0, relation, ones)
        e = e + self.entities(at_entities / degree[:, None]).tanh()
        return e, r + self.relations(at_relations / uses[:, None]).tanh()


class KnowledgeGraph(nn.Module):
    """Tables of entities and relations, convolved over known triples; a query is answered by distances."""

    def __init__(self, width: int = 24, layers: int = 2):
        super().__init__()
        self.entities, self.relations = nn.Embedding(ENTITIES, width), nn.Embedding(RELATIONS, width)
        self.layers = nn.ModuleList(KnowledgeConvolution(width) for _ in range(layers))
        for table in (self.entities, self.relations):
            nn.init.normal_(table.weight, std=0.4)

    def forward(self, queries: Tensor, triples: Tensor) -> Tensor:
        """Queries [n, 2] (head, relation), known triples [m, 3] -> scores [n, entities]."""
        e, r = self.entities.weight, self.relations.weight
        for layer in self.layers:
            e, r = layer(e, r, triples)
        wanted = e[queries[:, 0]] + r[queries[:, 1]]
        return 2 * wanted @ e.T - e.square().sum(-1)


@workload(
    "ke-gcn",
    field="knowledge graphs",
    source="Knowledge embedding based graph convolutional network",
    preserves="the order of the triples does not matter",
)
class KeGcn(Completion):
    """Joint embeddings of entities and relations; their width is cut in both tables at once."""

    budget = "bytes"
    warm_up = 1

    def network(self) -> nn.Module:
        return KnowledgeGraph()

    def examples(self) -> Sequence[Example]:
        known, asked = facts(0)
        return [(asked[:8, :2], known), (asked[:5, :2], known[:90]), (asked[:1, :2], known[:31])]

    def data(self) -> Data:
        known, asked = facts(self.seed)
        train = [((part[:, :2], known), part[:, 2]) for part in known.split(120)]
        return Data(train=train, val=[((asked[:, :2], known), asked[:, 2])])

    def violation(self, model: nn.Module) -> float:
        queries, triples = self.examples()[0]
        with torch.no_grad():
            return difference(model(queries, triples.flip(0)), model(queries, triples))


class Interaction(nn.Module):
    """Features of head and relation laid out as a chequered picture, convolved circularly, compared with all tails."""

    order: Tensor

    def __init__(
        self, width: int = 24, filters: int = 12, rows: int = 6, permutations: int = 2,
        sizes: tuple[int, int] = (ENTITIES, RELATIONS),
    ):  # fmt: skip
        super().__init__()
        self.rows, self.permutations = rows, permutations
        self.entities, self.relations = nn.Embedding(sizes[0], width), nn.Embedding(sizes[1], width)
        orders = []
        for _ in range(permutations):
            pair = torch.stack([torch.randperm(width), torch.randperm(width) + width], 1)
            orders.append(pair.flatten())  # head and relation take turns
        self.register_buffer("order", torch.stack(orders))
        self.norm = nn.BatchNorm2d(permutations)
        self.filters = nn.Conv2d(permutations, filters * permutations, 3, groups=permutations)
        self.norm2 = nn.BatchNorm2d(filters * permutations)
        self.fold, self.norm3 = nn.Linear(filters * permutations * 2 * width, width), nn.BatchNorm1d(width)
        for table in (self.entities, self.relations):
            nn.init.xavier_normal_(table.weight)
        self.bias = nn.Parameter(torch.zeros(sizes[0]))

    def forward(self, queries: Tensor) -> Tensor:
        """Queries [n, 2] (head, relation) -> scores [n, entities]."""
        pair = torch.cat([self.entities(queries[:, 0]), self.relations(queries[:, 1])], 1)
        grid = pair[:, self.order].view(len(pair), self.permutations, self.rows, -1)
        seen = self.filters(F.pad(self.norm(grid), (1, 1, 1, 1), mode="circular"))
        y = self.norm3(self.fold(self.norm2(seen).relu().flatten(1))).relu()
        return y @ self.entities.weight.T + self.bias


@workload(
    "interacte",
    field="knowledge graphs",
    source="arXiv:1911.00219",
    preserves="queries of a batch do not see each other",
)
class InteractE(Completion):
    """Permuted features in a picture with circular convolution; filters are cut, the picture keeps its places."""

    warm_up = 3
    lr = 1e-2

    def network(self) -> nn.Module:
        return Interaction()

    def examples(self) -> Sequence[Example]:
        _, asked = facts(0)
        return [asked[:8, :2], asked[:3, :2], asked[:20, :2]]

    def data(self) -> Data:
        known, asked = facts(self.seed)
        train, val = (batched(t[:, :2], t[:, 2], 120) for t in (known, asked))
        return Data(train=train, val=val)

    def violation(self, model: nn.Module) -> float:
        queries = self.examples()[0]
        with torch.no_grad():
            return difference(model(queries[2:4]), model(queries)[2:4])


class CommonNeighbours(nn.Module):
    """A pair of nodes is judged by their product and by the sum over the neighbours that they share.

    With `complete`, neighbours of one of the two count as much as the network believes in their link to the other.
    """

    def __init__(self, width: int = 12, hidden: int = 24, complete: bool = True):
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.pair = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.shared = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.believe = nn.Linear(hidden, hidden, bias=False) if complete else None
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
        """[nodes, width], [2, edges], pairs [2, n] -> logits [n]."""
        nodes = features.shape[0]
        h = self.first(features)
        h = (h + mean_of_neighbours(h, edges)).relu()
        h = self.second(h) + mean_of_neighbours(h, edges)
        linked = h.new_zeros(nodes, nodes).index_put((edges[0], edges[1]), h.new_ones(edges.shape[1]))
        a, b = pairs[0], pairs[1]
        of_a, of_b = linked[a], linked[b]  # [n, nodes]
        common = of_a * of_b
        if self.believe is not None:
            probable = (self.believe(h) @ h.T / h.shape[-1] ** 0.5).sigmoid()
            common = common + of_a * (1 - of_b) * probable[b] + of_b * (1 - of_a) * probable[a]
        return self.out(self.pair(h[a] * h[b]) + self.shared(common @ h))[:, 0]


def links(nodes: int, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A graph without a part of its links, pairs that are linked or not, and which ones are (1 or 0)."""
    (features, edges), _ = communities(nodes, seed)
    generator = torch.Generator().manual_seed(seed)
    once = edges[:, edges[0] < edges[1]]
    hidden = torch.rand(once.shape[1], generator=generator) < 0.3
    seen, asked = once[:, ~hidden], once[:, hidden]
    other = torch.randint(nodes, (2, 2 * asked.shape[1]), generator=generator)
    pairs = torch.cat([asked, other], 1)
    truth = torch.cat([torch.ones(asked.shape[1]), torch.zeros(other.shape[1])])
    return (features, torch.cat([seen, seen.flip(0)], 1), pairs), truth


def hits(scores: Tensor, truth: Tensor, among: int) -> float:
    """The share of true pairs that score higher than all but `among` false ones, in percent."""
    false = scores[truth < 0.5].sort(descending=True).values
    return 100 * float((scores[truth > 0.5] > false[min(among, len(false)) - 1]).double().mean())


@workload("ncn", field="graphs", source="arXiv:2302.00890", preserves="the two nodes of a pair may be exchanged")
class Ncn(Workload):
    """Neural common neighbours with completion: links from shared neighbours' representations."""

    quality_name = "HR@20 (%)"
    warm_up = 3
    lr = 1e-2

    def network(self) -> nn.Module:
        return CommonNeighbours()

    def examples(self) -> Sequence[Example]:
        return [links(n, i)[0] for i, n in enumerate((24, 40, 31))]

    def data(self) -> Data:
        train, val = ([links(n, self.seed + i) for i in r] for n, r in ((90, range(8)), (130, range(8, 11))))
        return Data(train=train, val=val)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return F.binary_cross_entropy_with_logits

    def score(self, output: Any, targets: Any) -> float:
        return hits(output, targets, 20)

    def violation(self, model: nn.Module) -> float:
        features, edges, pairs = self.examples()[0]
        with torch.no_grad():
            return difference(model(features, edges, pairs.flip(0)), model(features, edges, pairs))


class EquivariantMap(nn.Module):
    """A linear map between matrices over nodes that does not depend on the order of the nodes."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.mix = nn.Linear(6 * cin, cout)

    def forward(self, x: Tensor) -> Tensor:
        """[subgraphs, nodes, nodes, channels], likewise with other channels."""
        nodes = x.shape[1]
        own = torch.diagonal(x, dim1=1, dim2=2)  # [subgraphs, channels, nodes]
        rows, columns = x.mean(2, keepdim=True), x.mean(1, keepdim=True)
        parts = [
            x, x.transpose(1, 2), torch.diag_embed(own, dim1=1, dim2=2), rows.expand(-1, -1, nodes, -1),
            columns.expand(-1, nodes, -1, -1), x.mean((1, 2), keepdim=True).expand(-1, nodes, nodes, -1),
        ]  # fmt: skip
        return self.mix(torch.cat(parts, -1))


class Subgraphs(nn.Module):
    """Equivariant maps over the neighbourhood of every node; the neighbourhoods of a graph are averaged."""

    def __init__(self, width: int = 12, classes: int = 3):
        super().__init__()
        self.first, self.second = EquivariantMap(1, width), EquivariantMap(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, subgraphs: Tensor) -> Tensor:
        """Adjacencies [graphs, subgraphs, nodes, nodes] -> [graphs, classes]."""
        n, each = subgraphs.shape[:2]
        x = self.second(self.first(subgraphs.flatten(0, 1)[..., None]).relu()).relu()
        return self.head(x.mean((1, 2)).unflatten(0, (n, each)).mean(1))


def neighbourhoods(n: int, seed: int, nodes: int = 6, each: int = 4) -> tuple[Tensor, Tensor]:
    """Neighbourhoods of graphs that hold few, many or no triangles: adjacencies and kinds."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (n,), generator=generator)
    side = torch.arange(nodes) % 2
    across = (side[:, None] != side[None]).float()
    density = torch.stack([0.7 * across, torch.full_like(across, 0.35), 0.6 * (1 - across) + 0.1 * across])[kind]
    draw = torch.rand(n, each, nodes, nodes, generator=generator)
    linked = torch.triu(draw < density[:, None], 1)
    return (linked | linked.transpose(-1, -2)).float(), kind


@workload("spen", field="graphs", source="arXiv:2111.11840", preserves="renumbered nodes give the same answer")
class Spen(Workload):
    """Subgraph permutation equivariant maps over the neighbourhoods of nodes."""

    lr = 1e-2
    warm_up = 6

    def network(self) -> nn.Module:
        return Subgraphs()

    def examples(self) -> Sequence[Example]:
        return [neighbourhoods(2, 0)[0], neighbourhoods(3, 1, 9)[0], neighbourhoods(1, 2, 6, 7)[0]]

    def data(self) -> Data:
        return two_parts(neighbourhoods, (128, 96), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        x = self.examples()[1]
        order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return difference(model(x[..., order, :][..., order]), model(x))


class CoRepresentation(nn.Module):
    """Each membership of a node in a hyperedge keeps its own state and sees the means of its node and its hyperedge."""

    def __init__(self, width: int):
        super().__init__()
        self.own, self.node, self.edge = (nn.Linear(width, width) for _ in range(3))

    def forward(self, h: Tensor, node: Tensor, edge: Tensor, sizes: tuple[int, int]) -> Tensor:
        y = self.own(h)
        for index, size, mix in ((node, sizes[0], self.node), (edge, sizes[1], self.edge)):
            whole = h.new_zeros(size, h.shape[-1]).index_add(0, index, h)
            members = h.new_zeros(size).index_add(0, index, h.new_ones(len(index)))
            y = y + mix(whole / members.clamp(min=1)[:, None])[index]
        return h + y.relu()


class Hypergraph(nn.Module):
    """Memberships classified: which role a node plays in a hyperedge."""

    def __init__(self, width: int = 8, hidden: int = 24, classes: int = 3, layers: int = 2):
        super().__init__()
        self.nodes, self.edges = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.layers = nn.ModuleList(CoRepresentation(hidden) for _ in range(layers))
        self.head = nn.Linear(hidden, classes)

    def forward(self, nodes: Tensor, edges: Tensor, members: Tensor) -> Tensor:
        """[nodes, width], [hyperedges, width], members [2, pairs] (node, hyperedge) -> [pairs, classes]."""
        node, edge = members[0], members[1]
        h = self.nodes(nodes)[node] + self.edges(edges)[edge]
        for layer in self.layers:
            h = layer(h, node, edge, (nodes.shape[0], edges.shape[0]))
        return self.head(h)


def memberships(nodes: int, seed: int, each: int = 4) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A hypergraph; the role of a member is whether its value is the least, the largest or another of its hyperedge."""
    generator = torch.Generator().manual_seed(seed)
    count = nodes
    member = torch.stack([torch.randperm(nodes, generator=generator)[:each] for _ in range(count)])
    x = torch.randn(nodes, 8, generator=generator)
    values = x[member, 0]
    roles = torch.ones_like(member).scatter(1, values.argmin(1, True), 0).scatter(1, values.argmax(1, True), 2)
    pairs = torch.stack([member.flatten(), torch.arange(count).repeat_interleave(each)])
    return (x, torch.randn(count, 8, generator=generator), pairs), roles.flatten()


@workload(
    "conhd", field="graphs", source="arXiv:2405.14286", preserves="memberships in another order get the same answers"
)
class CoNhd(Workload):
    """Co-representations of nodes in hyperedges, diffused over both."""

    lr = 1e-2
    warm_up = 4

    def network(self) -> nn.Module:
        return Hypergraph()

    def examples(self) -> Sequence[Example]:
        return [memberships(n, i)[0] for i, n in enumerate((12, 20, 9))]

    def data(self) -> Data:
        train, val = ([memberships(n, self.seed + i) for i in r] for n, r in ((50, range(8)), (80, range(8, 11))))
        return Data(train=train, val=val)

    def violation(self, model: nn.Module) -> float:
        nodes, edges, members = self.examples()[0]
        order = torch.randperm(members.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return difference(model(nodes, edges, members[:, order]), model(nodes, edges, members)[order])
