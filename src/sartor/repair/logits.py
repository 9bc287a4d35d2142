"""Queries and keys refitted so that their products match the original's where the width of heads is cut.

A head with fewer inner units need not keep the original's numbers: any queries and keys of the smaller width will do
whose products are right. From the inputs that the cut network reads now, the queries and keys of the whole width are
predicted by ridge least squares. Their products, seen as one matrix over all calibration tokens, are then replaced by
the nearest matrix of the smaller rank: the leading part of a singular value decomposition, which needs no more than
the second moments of queries and of keys. Keys count relative to their mean, since softmax ignores what is added to
all keys of a query. Heads that share keys are solved together.

Sources: CORP, arXiv:2602.05243 (closed-form recovery of attention logits; there the kept columns are refitted); Eckart
and Young 1936 (nearest matrix of a rank); Izenman 1975 (reduced-rank regression: ridge, then the leading part).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sartor.activations.attention_logits import Logits, Projection
from sartor.activations.patches import Reading
from sartor.repair.least_squares import LeastSquares, column_means
from sartor.repair.networks import Networks, shrunk
from sartor.structure.axes import keep_mask
from sartor.structure.calls import Value
from sartor.structure.graph import Graph

_JUDGED = 8  # samples of the last batch on which products are compared before and after
_SMALLEST = 1e-10  # of an eigenvalue relative to the largest; directions below are left out


class LogitOptions(Protocol):
    """What a refit of products reads of the options of a refit."""

    @property
    def rows(self) -> int:
        """Positions read for one layer."""

    @property
    def strength(self) -> float:
        """Of the pull towards the weights as they are."""


class LogitRefit:
    """The refit of one product of queries and keys."""

    def __init__(
        self, site: Logits, networks: Networks, graph: Graph, options: LogitOptions, generator: torch.Generator
    ):
        self.site, self.graph, self.options, self.generator = site, graph, options, generator
        self.before, self.after = networks.before, networks.after
        self.masks, self.tensors = networks.masks, networks.tensors

    def apply(self) -> bool:
        """Refit and run the layers again; whether products on a batch held out came closer to the original's."""
        query, key = self.site.query, self.site.key
        width = self._kept(query).shape[1]
        if width in (0, query.features.shape[1]) or self._kept(key).shape[1] != width:
            return False
        with torch.inference_mode(False), torch.no_grad():
            error = self._error()
            layers = {p.op: p for p in (query, key)}
            saved = [(t, t.clone()) for op in layers for t in self._written(op)]
            self._solve()
            self._again()
            if self._error() < error:
                return True
            for t, before in saved:
                t.copy_(before)
            self._again()
            return False

    def _again(self) -> None:
        for index in sorted({i for p in (self.site.query, self.site.key) for i in (p.op, *p.chain)}):
            self.after.again(index)

    def _written(self, op: int) -> list[Tensor]:
        weight, bias = self.graph.ops[op].args[1], self.graph.ops[op].arg("bias")
        return [self.tensors[v.name] for v in (weight, bias) if isinstance(v, Value) and v.name is not None]

    def _kept(self, projection: Projection) -> Tensor:
        """[heads that stay, numbers of a head that stay]: places among the outputs of the cut network's layer."""
        stays = keep_mask(self.graph.ops[projection.op].out.axes[-1], self.masks)
        place = torch.where(stays, stays.cumsum(0) - 1, -1)[projection.features]
        rows = [row[row >= 0] for row in place]
        rows = [row for row in rows if len(row)]
        if not rows or len({len(row) for row in rows}) > 1:
            return place.new_empty(0, 0)
        return torch.stack(rows)

    def _heads(self, projection: Projection) -> Tensor:
        """Heads of the original that stay, int64."""
        stays = keep_mask(self.graph.ops[projection.op].out.axes[-1], self.masks)
        return stays[projection.features].any(1).nonzero()[:, 0]

    def _error(self) -> float:
        """Squared distance of the products from the original's, keys relative to their mean, on the last batch."""
        batch = self.after.batches - 1
        (q, k), (p, j) = (self.site.values(s, batch) for s in (self.before, self.after))
        few = max(1, _JUDGED * len(q) // self.before.get(self.before.ops[self.site.query.op].out, batch).shape[0])
        q, k = self._at_kept_positions(q[:few], k[:few])
        wanted = self._products(q, k, self.site.scale(self.before.ops))
        given = self._products(p[:few], j[:few], self.site.scale(self.after.ops))
        stays = self._heads(self.site.query).to(wanted.device)
        whole = wanted.reshape(-1, len(self.site.query.features), *wanted.shape[-2:])[:, stays]
        return float((given.reshape(whole.shape) - whole).square().sum() / whole.square().sum())

    def _at_kept_positions(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of the original without positions that were cut."""
        values = self.graph.ops[self.site.op].args[:2]
        axes = values[0].axes[-2], values[1].axes[-1 if self.site.transposed else -2]
        kept = (keep_mask(a, self.masks).nonzero()[:, 0].to(query.device) for a in axes)
        return query.index_select(-2, next(kept)), key.index_select(-2, next(kept))

    @staticmethod
    def _products(query: Tensor, key: Tensor, scale: float) -> Tensor:
        query, key = query.double(), key.double()
        if query.dim() == 4 and query.shape[1] != key.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        products = scale * query @ key.transpose(-2, -1)
        return products - products.mean(-1, keepdim=True)

    def _solve(self) -> None:
        site = self.site
        systems = {p.op: self._predicted(p.op) for p in (site.query, site.key)}
        kept = {"query": self._kept(site.query), "key": self._kept(site.key)}
        order = {"query": self._heads(site.query).tolist(), "key": self._heads(site.key).tolist()}
        ratio = site.scale(self.before.ops) / site.scale(self.after.ops)
        for queries, which in site.heads:
            queries = tuple(h for h in queries if h in order["query"])
            if not queries or which not in order["key"]:
                continue
            reads = [systems[site.query.op].rows(site.query.features[h]) for h in queries]
            key = systems[site.key.op].rows(site.key.features[which])
            width = kept["query"].shape[1]
            second = sum((r.second for r in reads), torch.zeros_like(key.second))
            to_query, to_key = _factors(second, key.covariance, width)
            for head, read in zip(queries, reads):
                self._write(site.query.op, kept["query"][order["query"].index(head)], ratio * to_query, read)
            self._write(site.key.op, kept["key"][order["key"].index(which)], to_key, key)

    def _write(self, op: int, places: Tensor, mixed: Tensor, head: _Head) -> None:
        """Rows of the layer: the predicted outputs of a head, mixed by [width, whole width]."""
        written = self._written(op)
        places = places.to(written[0].device)
        written[0][places] = (mixed @ head.weight).to(written[0])
        if len(written) > 1:
            written[1][places] = (mixed @ head.shift).to(written[1])

    def _predicted(self, index: int) -> _Predicted:
        """All outputs of the original's layer, predicted from what the cut network's layer reads."""
        op, now = self.graph.ops[index], self.after.ops[index]
        reading = Reading.of(now)
        assert reading is not None
        last = self.after.batches - 1  # judges, unless it is the only one
        used = range(max(1, last))
        each = -(-self.options.rows // len(used))
        xs, ts = [], []
        for i in used:
            picked = reading.pick(self.after.get(now.out, i), each, self.generator)
            xs.append(reading.rows(self.after.get(now.args[0], i), picked).clone())
            given = shrunk(op.out, self.before.get(self.before.ops[index].out, i), self.masks, -1)  # positions too
            ts.append(reading.targets(given, picked).clone())
        x, t = torch.cat(xs, 1).float(), torch.cat(ts).float()
        weight, bias = (self.before.get(v, 0) if isinstance(v, Value) else None for v in (op.args[1], op.arg("bias")))
        assert weight is not None
        weight = weight.double()[:, keep_mask(op.args[1].axes[1], self.masks).to(weight.device)]
        shift = weight.new_zeros(len(weight)) if bias is None else bias.double()
        system = LeastSquares(
            x, weight[None], shift[None], self.options.strength, free=bias is not None, where=op.where
        )
        system.fit(t[None])
        return _Predicted(system)


class _Predicted:
    """Outputs of a layer as an affine function of what it reads, and the moments of what it reads."""

    def __init__(self, system: LeastSquares):
        self.weight, self.shift = system.weight[0], system.shift[0]
        rest = column_means(system.centred)[0]  # zero where the rows were centred
        self.mean = system.mean[0] + rest
        self.covariance = system.gram[0] - rest[:, None] * rest[None, :]

    def rows(self, features: Tensor) -> _Head:
        """Some of the outputs."""
        features = features.to(self.weight.device)
        weight, shift = self.weight[features], self.shift[features]
        covariance = weight @ self.covariance @ weight.T
        mean = weight @ self.mean + shift
        return _Head(weight, shift, covariance, covariance + mean[:, None] * mean[None, :])


class _Head:
    """The outputs of a layer that are one head."""

    def __init__(self, weight: Tensor, shift: Tensor, covariance: Tensor, second: Tensor):
        self.weight, self.shift = weight, shift  # [whole width, inputs], [whole width]
        self.covariance, self.second = covariance, second  # [whole width, whole width]: about the mean, and about zero


def _factors(query: Tensor, key: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Maps [width, whole width] of queries and of keys whose products are the nearest of this rank.

    Args:
        query: second moments of queries, [whole width, whole width].
        key: covariance of keys, [whole width, whole width].
        width: of the cut head.

    >>> a, b = _factors(torch.eye(2).double(), torch.diag(torch.tensor([4.0, 0.01])).double(), 1)
    >>> (a.T @ b).abs().round(decimals=6).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    (root_q, back_q), (root_k, back_k) = _roots(query), _roots(key)
    u, s, vh = torch.linalg.svd(root_q @ root_k)
    half = s[:width].sqrt()[:, None]
    return half * (u.T[:width] @ back_q), half * (vh[:width] @ back_k)


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(moments)
    there = values > _SMALLEST * values[-1].clamp(min=1e-30)
    root = torch.where(there, values, 0.0).clamp(min=0).sqrt()
    back = torch.where(there, 1 / root.clamp(min=1e-150), 0.0)
    return (vectors * root) @ vectors.T, (vectors * back) @ vectors.T


__all__ = ["LogitOptions", "LogitRefit"]
