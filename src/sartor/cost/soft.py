"""Costs as differentiable functions of soft widths: the same polynomials as the counted costs.

Every size is a polynomial in the sizes of the groups (a leaf, a product or a sum of them), and so are MACs and
parameters. They are multiplied out once per graph, into a table of monomials: a coefficient, and the groups whose
widths multiply it. A width may then be any real number, such as the sum of a group's gates.

Source: FLOPs as a function of sums of gates, Castells and Yeom 2023 (AutoBot), arXiv:2111.09635. There the formula is
written by hand for every architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from sartor.cost.macs import Convention, Term, term, terms
from sartor.errors import BadInput
from sartor.structure.axes import Axis, find
from sartor.structure.graph import Graph

SoftCost = Callable[[Mapping[str, Tensor]], Tensor]
Monomials = Counter[tuple[int, ...]]  # sorted numbers of the groups that are multiplied -> coefficient


def soft_macs(graph: Graph, *, convention: Convention = "macs") -> SoftCost:
    """Multiply-accumulates of one forward of the traced example as a function of soft widths.

    Args:
        graph: of the network.
        convention: as for `sartor.cost.macs`.

    Returns:
        widths -> cost. Widths are scalars by group, in units kept (0 to the group's size, fractions allowed); a group
        not named is whole. The cost is a scalar in float64 on the widths' device, differentiable, and equal to
        `macs(graph, counts)` at whole numbers (exact below 2 ** 53). It raises BadInput for a width that is not one
        number, and UnknownName for a group the graph does not have.
    """
    return _soft(graph, terms(graph, convention))


def soft_params(graph: Graph) -> SoftCost:
    """Elements of all parameters, tied ones once, as a function of soft widths; see `soft_macs`."""
    tied_once = {id(v): v for v in graph.tensors.values()}.values()
    return _soft(graph, [term(v.axes) for v in tied_once if v.origin == "parameter"])


def _soft(graph: Graph, products: Iterable[Term]) -> SoftCost:
    number = {find(leaf): i for i, leaf in enumerate(graph.leaves.values())}
    table: Monomials = Counter()
    for n, axes in products:
        product: Monomials = Counter({(): n})
        for a in axes:
            product = _times(product, _polynomial(a, number))
        table.update(product)
    degree = max((len(m) for m in table), default=0)
    whole = [float(graph.groups[name].units) for name in graph.leaves]
    one = len(whole)  # index of a factor 1, which fills up short monomials
    factors = torch.tensor([[*m, *[one] * (degree - len(m))] for m in table], dtype=torch.int64)
    factors = factors.reshape(len(table), degree)
    coefficients = torch.tensor(list(table.values()), dtype=torch.float64)
    place = {name: i for i, name in enumerate(graph.leaves)}

    def cost(widths: Mapping[str, Tensor]) -> Tensor:
        given = {place[graph.group(n).name]: _scalar(n, w) for n, w in widths.items()}
        device = next((w.device for w in given.values()), torch.device("cpu"))
        fixed = torch.tensor([*whole, 1.0], dtype=torch.float64, device=device)
        sizes = torch.stack([given.get(i, fixed[i]) for i in range(one + 1)])
        return (coefficients.to(device) * sizes[factors.to(device)].prod(1)).sum()

    return cost


def _polynomial(a: Axis, number: Mapping[Axis, int]) -> Monomials:
    """The size of an axis as a polynomial in the sizes of the groups; must agree with `new_size`."""
    a = find(a)
    if a.frozen:
        return Counter({(): a.size})
    if a.kind is None:
        return Counter({(number[a],): 1}) if a in number else Counter({(): a.size})
    parts = [_polynomial(k, number) for k in a.kids]
    if a.kind == "s":
        total: Monomials = Counter()
        for p in parts:
            total.update(p)
        return total
    whole: Monomials = Counter({(): 1})
    for p in parts:
        whole = _times(whole, p)
    return whole


def _times(left: Monomials, right: Monomials) -> Monomials:
    out: Monomials = Counter()
    for a, x in left.items():
        for b, y in right.items():
            out[tuple(sorted(a + b))] += x * y
    return out


def _scalar(name: str, width: Tensor) -> Tensor:
    if not isinstance(width, Tensor) or width.numel() != 1:
        got = tuple(width.shape) if isinstance(width, Tensor) else type(width).__name__
        raise BadInput(f"soft width of group {name!r}: expected one number as a tensor; got {got}")
    return width.reshape(()).double()
