"""The kind of the units of each group, derived from the solved graph; names of modules are never used.

Every operator that sums over units, or holds a table of them, sets marks on its leaves. The marks decide the kind:

    heads                a batch axis of softmax(a b) c between activations, or of any product of two activations
    query groups         the outer factor of such an axis (kv * each): a key-value head and all that query it
    queries per group    its inner factor
    head dimension       what such a product sums over, and what its values carry
    state size           summed over between activations, and the last dimension of a matrix used element by element
    recurrent units      the hidden size of an LSTM, GRU or plain recurrent layer
    embedding width      columns of a table, or a residual stream that attention reads or that no convolution reads
    groups               the outer factor of written units, as in grouped convolutions; blocks of a block product
    experts              the batch axis of a product with stacked weights that a linear layer (the router) also writes
    channels             what convolutions write or read
    hidden units         what a linear map writes and another one reads
    tokens               positions that attention runs over and no weight writes
    features             everything else

The first kind that applies wins. A residual stream consists of the units of a sum of two activations of which one is
also used elsewhere. The operators are read once, and no axis is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sartor.structure.axes import Axes, Axis, find
from sartor.structure.calls import Op, Value
from sartor.structure.factors import Factors, factors_of

KINDS: Mapping[str, str] = {
    "channels": "what convolutions write and read",
    "heads": "attention heads",
    "head dimension": "the width of one attention head",
    "query groups": "heads of keys and values, each with the query heads it serves",
    "queries per group": "query heads that share a head of keys and values",
    "hidden units": "what a linear layer writes and another one reads",
    "embedding width": "the residual stream of a transformer, and columns of embedding tables",
    "experts": "networks side by side that a router chooses from",
    "recurrent units": "the hidden state of a recurrent layer",
    "groups": "groups of a grouped convolution or of a block-diagonal product",
    "state size": "the state of a selective scan",
    "tokens": "positions that the network adds to a sequence: class and register tokens, learned queries",
    "features": "any other units",
}

_WIDTHS = {"head dimension", "embedding width", "state size", "queries per group"}
_HEADS, _SERVED, _SERVING, _WITHIN, _SUMMED, _MATRIX, _RECURRENT, _TABLE = (1 << i for i in range(8))
_RESIDUAL, _ATTENDED, _SEEN, _STACKED, _ROUTED, _DENSE, _READ, _WRITTEN = (1 << i for i in range(8, 16))
_OUTER, _ALONE, _POSITION = 1 << 16, 1 << 17, 1 << 18
_OF_POSITIONS = _POSITION | _SUMMED | _WITHIN | _SEEN | _RESIDUAL  # marks that positions of a sequence may have
_CARRIES = {
    "pointwise", "identity", "view", "move", "expand", "linear", "slice", "index", "normalize", "concat", "pack",
}  # fmt: skip
_MADE = ("op", "input")
_OF_ONE = {  # what they give follows from their first argument
    "view", "move", "slice", "select", "expand", "identity", "spatial", "layer_norm", "batch_norm",
}  # fmt: skip
_BACK = 40  # operators between the two products of attention, at most

Marks = dict[Axis, int]


def kinds(ops: Iterable[Op]) -> dict[Axis, str]:
    """The kind of every leaf that a live operator marks; a leaf without a mark is of kind "features"."""
    reading = _Reading(list(ops))
    for op in reading.ops:
        if op.live:
            reading.see(op)
    for out, read in reading.projections:
        if any(reading.marks.get(leaf, 0) & (_HEADS | _SERVED | _SERVING | _WITHIN) for leaf in out):
            reading.mark(read, _ATTENDED)
    return {leaf: _word(m) for leaf, m in reading.marks.items()}


def counted(units: int, kind: str) -> str:
    """Number and kind of units, as text.

    >>> counted(64, "channels"), counted(64, "embedding width")
    ('64 channels', 'embedding width 64')
    """
    return f"{kind} {units}" if kind in _WIDTHS else f"{units} {kind}"


def _word(m: int) -> str:
    """The first kind that applies; see the docstring of this file."""
    stream = m & _RESIDUAL
    if m & _POSITION and not m & ~_OF_POSITIONS:
        return "tokens"
    if m & _SERVING:
        return "query groups"
    if m & _SERVED:
        return "queries per group"
    if m & _HEADS:
        return "heads"
    if m & _SUMMED and m & _MATRIX and not m & _WITHIN:
        return "state size"
    if m & _RECURRENT:
        return "recurrent units"
    if m & _TABLE or (stream and m & _ATTENDED):
        return "embedding width"
    if m & _WITHIN:
        return "head dimension"
    if stream and not m & _SEEN:
        return "embedding width"
    if m & _STACKED:
        return "experts" if m & _ROUTED else "groups"
    if m & _OUTER and not m & _ALONE:
        return "groups"
    if m & _DENSE:
        return "channels"
    if m & _WRITTEN and m & _READ:
        return "hidden units"
    return "channels" if m & _SEEN else "features"


class _Reading:
    """The marks set so far, and which values are constant, already used, or carry softmax weights."""

    def __init__(self, ops: list[Op]) -> None:
        self.ops = ops
        self.marks: Marks = {}
        self.projections: list[tuple[tuple[Axis, ...], tuple[Axis, ...]]] = []  # what weights write, what they read
        self._fixed: set[int] = set()  # values computed from weights alone
        self._used: set[int] = set()
        self._roots: dict[int, int] = {}  # value -> the value that its chain of elementwise operators started from
        self._soft: set[int] = set()  # values that carry softmax weights
        self._leaves: dict[Axis, tuple[Axis, ...]] = {}
        self._makers: dict[int, Op] | None = None

    def see(self, op: Op) -> None:
        """Set the marks of one operator."""
        kind = op.kind
        if kind in _OF_ONE and type(op.out) is Value and op.args and type(op.args[0]) is Value:
            self.pass_on(op.args[0], op.out, same=kind == "identity")
            return
        inputs = op.inputs
        moving = [v for v in inputs if not self.is_fixed(v)]
        act = _ACTS.get(kind)
        if act is not None:
            act(self, op, inputs)
        if not moving:
            self._fixed.update(map(id, op.outputs))
            return
        if kind == "pointwise" and len(roots := {self.root(v) for v in moving}) == 1:
            self._roots.update(dict.fromkeys(map(id, op.outputs), roots.pop()))
        if self._soft and kind in _CARRIES and any(id(v) in self._soft for v in moving):
            self._soft.update(map(id, op.outputs))
        self._used.update(map(id, moving))

    def pass_on(self, x: Value, out: Value, *, same: bool) -> None:
        """An operator that only moves or normalises its first argument."""
        if self.is_fixed(x):
            self._fixed.add(id(out))
            return
        self._used.add(id(x))
        if id(x) in self._soft:
            self._soft.add(id(out))
        if same:
            self._roots[id(out)] = self.root(x)

    def is_fixed(self, v: Value) -> bool:
        """Whether it is a weight, or computed from weights alone."""
        return id(v) in self._fixed or v.origin not in _MADE

    def leaves(self, a: Axis) -> tuple[Axis, ...]:
        """Leaves of an axis that can be cut."""
        a = find(a)
        if a.frozen:
            return ()
        if a.kind is None:
            return (a,)
        known = self._leaves.get(a)
        if known is None:
            known = self._leaves[a] = tuple(dict.fromkeys(leaf for k in a.kids for leaf in self.leaves(k)))
        return known

    def all_leaves(self, axes: Axes) -> tuple[Axis, ...]:
        """Leaves of several axes."""
        return tuple(leaf for a in axes for leaf in self.leaves(a))

    def mark(self, leaves: Iterable[Axis], bits: int) -> None:
        """Add marks."""
        for leaf in leaves:
            self.marks[leaf] = self.marks.get(leaf, 0) | bits

    # one method for each kind of operator

    def convolution(self, op: Op, inputs: list[Value]) -> None:
        """A dense convolution reads and writes channels; a depthwise one only scales them."""
        x, w = op.args[0], op.args[1]
        swapped = op.arg("transposed", "transpose" in op.name)
        read, written = (w.axes[0], w.axes[1]) if swapped else (w.axes[1], w.axes[0])
        seen = self.leaves(x.axes[x.ndim - w.ndim + 1])
        self.mark(seen, _SEEN)
        if w.shape[1] == 1 and int(op.arg("groups", 1)) > 1:
            self.mark(self.leaves(written), _SEEN)
            return
        self.mark((*seen, *self.leaves(written), *self.leaves(read)), _DENSE)
        self.place(written)
        self.projections.append((self.leaves(written), seen))

    def linear(self, op: Op, inputs: list[Value]) -> None:
        """x w': rows of w are written, columns are read."""
        w = op.args[1]
        self.project(w, [w.axes[-1]], w.axes[:-1], [])

    def product(self, op: Op, inputs: list[Value]) -> None:
        """A product of two tensors: a linear map if one is a weight; if both are activations, it may be attention."""
        factors = factors_of(op)
        if factors is None:
            return
        a, b, batch, summed, left, right = factors
        if self.is_fixed(a) and self.is_fixed(b):
            return
        if self.is_fixed(b) or self.is_fixed(a):
            w, out = (b, right) if self.is_fixed(b) else (a, left)
            self.project(w, summed, out, batch)
            return
        self.mark(self.all_leaves(summed), _SUMMED)
        self.heads(batch)
        if self.all_leaves(batch):
            self.mark(self.all_leaves([*summed, *left, *right]), _WITHIN)
        soft, values = (a, right) if id(a) in self._soft else (b, left)
        scores = self.scores_before(soft) if id(soft) in self._soft else None
        if scores is not None:
            _, _, batch, over, one, other = scores
            self.heads(batch)
            self.mark(self.all_leaves(summed), _POSITION)
            self.mark(self.all_leaves(over) or self.all_leaves([*one, *other]), _WITHIN)
            self.mark(self.all_leaves(values), _WITHIN)

    def attention(self, op: Op, inputs: list[Value]) -> None:
        """q [..., H, L, D], k [..., H, S, D], v [..., H, S, E]."""
        q, k, v = (op.arg(n) for n in ("query", "key", "value"))
        self.heads(q.axes[:-2])
        self.mark(self.all_leaves([q.axes[-1], k.axes[-1], v.axes[-1]]), _WITHIN)
        self.mark(self.all_leaves([q.axes[-2], k.axes[-2]]), _POSITION)

    def recurrent(self, op: Op, inputs: list[Value]) -> None:
        """The hidden size."""
        hidden = op.sizes.get("hidden_size")
        if isinstance(hidden, Axis):
            self.mark(self.leaves(hidden), _RECURRENT)

    def table(self, op: Op, inputs: list[Value]) -> None:
        """The columns of an embedding table."""
        self.mark(self.leaves(op.args[0].axes[1]), _TABLE)

    def softmax(self, op: Op, inputs: list[Value]) -> None:
        """Its output carries softmax weights."""
        self._soft.update(map(id, op.outputs))

    def pointwise(self, op: Op, inputs: list[Value]) -> None:
        """A sum with an activation that is also used elsewhere is residual; an elementwise matrix may hold a state."""
        if op.name in ("add", "sub") and len(inputs) == 2:
            a, b = inputs
            if self.is_residual(a, b):
                self.mark(set(self.all_leaves(a.axes)) & set(self.all_leaves(b.axes)), _RESIDUAL)
        elif inputs and inputs[0].ndim > 1 and self.is_fixed(inputs[0]):
            last = self.leaves(inputs[0].axes[-1])
            if last and self.all_leaves(inputs[0].axes[:-1]):
                self.mark(last, _MATRIX)

    def reduced(self, op: Op, inputs: list[Value]) -> None:
        """A sum over units, which counts like the sum inside a product."""
        if op.name == "sum" and inputs and op.outputs:
            left = set(self.all_leaves(op.outputs[0].axes))
            self.mark((leaf for leaf in self.all_leaves(inputs[0].axes) if leaf not in left), _SUMMED)

    # used by several of them

    def root(self, v: Value) -> int:
        """The value it is an elementwise function of; usually itself."""
        return self._roots.get(id(v), id(v))

    def is_residual(self, a: Value, b: Value) -> bool:
        """Whether a + b is x + f(x) with an f that is more than an activation function."""
        if a.ndim != b.ndim or self.is_fixed(a) or self.is_fixed(b):
            return False
        return (id(a) in self._used or id(b) in self._used) and self.root(a) != self.root(b)

    def project(self, w: Value, read: Axes, written: Axes, batch: Axes) -> None:
        """Marks of a linear map with weight w."""
        into, out = self.all_leaves(read), self.all_leaves(written)
        self.mark(into, _READ)
        self.mark(out, _WRITTEN | (_ROUTED if w.ndim == 2 else 0))
        self.mark(self.all_leaves(batch), _STACKED)
        self.projections.append((out, into))
        for a in written:
            self.place(a)

    def place(self, a: Axis) -> None:
        """Mark leaves that are written alone, and those that are the outer factor of a written product."""
        a = find(a)
        if a.frozen:
            return
        factors = self.factors(a)
        if len(factors) > 1:
            self.mark(factors[0], _OUTER)
        elif a.kind == "s":
            for k in a.kids:
                self.place(k)
        else:
            self.mark(self.leaves(a), _ALONE)

    def factors(self, a: Axis) -> list[tuple[Axis, ...]]:
        """Leaves of each factor of a product, factors without leaves left out; for another axis, its own leaves."""
        a = find(a)
        kids = a.kids if a.kind == "p" and not a.frozen else [a]
        return [found for k in kids if (found := self.leaves(k))]

    def heads(self, batch: Axes) -> None:
        """Batch axes of attention: one factor means heads; several mean query groups and the queries of each group."""
        factors = [f for a in batch for f in self.factors(a)]
        for i, found in enumerate(factors):
            self.mark(found, _HEADS if len(factors) == 1 else _SERVED if i else _SERVING)

    def scores_before(self, soft: Value) -> Factors | None:
        """The product of two activations that a softmax normalised; linear maps in between act on heads."""
        if self._makers is None:
            live = (
                op for op in reversed(self.ops) if op.live
            )  # of several makers the first one is kept: the others write to its result
            self._makers = {id(v): op for op in live for v in op.outputs}
        todo: list[Value] = [soft]
        over_heads: list[Op] = []
        for _ in range(_BACK):
            if not todo:
                break
            maker = self._makers.get(id(todo.pop(0)))
            if maker is None:
                continue
            factors = factors_of(maker) if maker.kind == "matmul" else None
            if factors is not None and not (self.is_fixed(factors[0]) or self.is_fixed(factors[1])):
                for op in over_heads:
                    self.mark(self.all_leaves(op.args[1].axes), _HEADS)
                return factors
            if maker.kind in _CARRIES or maker.kind == "softmax":
                todo += [v for v in maker.inputs if not self.is_fixed(v)]
                over_heads += [maker] if maker.kind == "linear" else []
        return None


_ACTS: dict[str, Callable[[_Reading, Op, list[Value]], Any]] = {
    "conv": _Reading.convolution,
    "linear": _Reading.linear,
    "matmul": _Reading.product,
    "attention": _Reading.attention,
    "rnn": _Reading.recurrent,
    "embedding": _Reading.table,
    "softmax": _Reading.softmax,
    "pointwise": _Reading.pointwise,
    "reduce": _Reading.reduced,
}
