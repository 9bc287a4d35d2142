"""Attention and recurrent layers, each recorded as one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sartor.structure.axes import Axes, Axis, find, fixed, freeze, mixing, split_product, total, unify
from sartor.structure.calls import Op, Value
from sartor.structure.rules.registry import MetaRule, Terms, freeze_all, rule
from sartor.structure.rules.shapes import alike, new


def _sdpa_macs(op: Op) -> Terms:
    q, k, v = (op.arg(n) for n in ("query", "key", "value"))
    return [[*q.axes, k.axes[-2]], [*q.axes[:-1], k.axes[-2], v.axes[-1]]]


def _sdpa_meta(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *flags: Any, **options: Any
) -> Any:
    """`flags` are dropout and is_causal, `options` scale and enable_gqa, each left out where it has its default."""
    causal = len(flags) > 1 and flags[1]
    q, k, v = query.shape, key.shape, value.shape
    if (
        options.get("enable_gqa")
        or len(q) != 4
        or q[:2] != k[:2]
        or k[:3] != v[:3]
        or q[3] != k[3]
        or not alike(query, key, value)
    ):
        return NotImplemented
    if mask is not None:
        full = (*q[:3], k[2])
        fits = mask.ndim == 4 and all(a in (1, b) for a, b in zip(mask.shape, full))
        if causal or not fits or mask.dtype not in (torch.bool, query.dtype):
            return NotImplemented
    return new(query, [*q[:3], v[3]])


@rule("attention", "scaled_dot_product_attention", macs=_sdpa_macs, meta=_sdpa_meta)
def sdpa(op: Op) -> Axes:
    """softmax(q k' * scale + mask) v: q [..., H, L, D], k [..., H, S, D], v [..., H, S, E]; grouped heads allowed."""
    q, k, v = (op.arg(n) for n in ("query", "key", "value"))
    unify(q.axes[-1], k.axes[-1], op.where)
    unify(k.axes[-2], v.axes[-2], op.where)
    mixing(k.axes[-2], op.reason("attention"))
    if op.arg("scale") is None:
        mixing(q.axes[-1], op.reason("attention scale"))
    lead: Axes = list(q.axes[:-2])
    for i, a in enumerate(lead):
        for other in (k, v):
            b = other.axes[i]
            if a.size == b.size:
                a = unify(a, b, op.where)
            elif a.size == 1 or b.size == 1:
                a = b if a.size == 1 else a
            elif a.size % b.size == 0:  # grouped queries: heads (kv * each)
                unify(split_product(a, b.size)[0], b, op.where)
        lead[i] = find(a)
    mask = op.arg("attn_mask")
    if isinstance(mask, Value):
        full = [*lead, q.axes[-2], k.axes[-2]]
        for j in range(1, min(mask.ndim, len(full)) + 1):
            if mask.shape[-j] != 1:
                unify(mask.axes[-j], full[-j], op.where)
    return [*map(find, lead), q.axes[-2], v.axes[-1]]


def _recurrent_meta(gates: int) -> MetaRule:
    """The outputs of a recurrent layer in one step: PyTorch's meta kernel runs every time step in Python."""

    def meta(x: Tensor, hx: Any, params: Any, *numbers: Any) -> Any:
        """`hx` is the hidden state, or a list of it and the cell state; `numbers` are biases to batch_first."""
        states = list(hx) if isinstance(hx, list | tuple) else [hx]
        if len(states) != (2 if gates == 4 else 1) or not isinstance(params, list | tuple) or x.ndim != 3:
            return NotImplemented
        biases, layers, _dropout, _train, both, batch_first = numbers
        directions, each = (2 if both else 1), (4 if biases else 2)
        if not params or len(params) != layers * directions * each or not alike(x, *states, *params):
            return NotImplemented
        steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
        hidden = params[1].shape[-1]
        for i, t in enumerate(params):
            reads = x.shape[2] if i < directions * each else hidden * directions
            shapes = ((gates * hidden, reads), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,))
            if tuple(t.shape) != shapes[i % each]:
                return NotImplemented
        if 0 in x.shape or any(tuple(s.shape) != (layers * directions, batch, hidden) for s in states):
            return NotImplemented
        out = new(x, [steps, batch, hidden * directions])
        return (out.transpose(0, 1) if batch_first else out, *(new(x, s.shape) for s in states))

    return meta


@rule("rnn", "lstm", macs=lambda op: _rnn_macs(op), meta=_recurrent_meta(4))
@rule("rnn", "gru", macs=lambda op: _rnn_macs(op), meta=_recurrent_meta(3))
@rule("rnn", "rnn_tanh rnn_relu", macs=lambda op: _rnn_macs(op), meta=_recurrent_meta(1))
def recurrent(op: Op) -> Any:
    """Weights hold 4, 3 or 1 gates times the hidden units; all layers share them, since their states are stacked."""
    spec = _recurrent_spec(op)
    if spec is None:
        return freeze_all(op, op.reason("form", "projected hidden states"))
    x, state, layers, gates = spec
    reads = x.axes[-1]
    hidden: Axis | None = None
    for layer in layers:
        writes: Axes = []
        for tensors in layer:
            unify(tensors[0].axes[1], reads, op.where)
            h = tensors[1].axes[1]
            for t in tensors:
                t.roles.setdefault(0, "out")
                outer, inner = split_product(t.axes[0], gates)
                freeze(outer, op.reason("gates"))
                h = unify(h, inner, op.where)
            for t in tensors[:2]:
                t.roles.setdefault(1, "in")
            writes.append(h)
            hidden = h if hidden is None else unify(hidden, h, f"the stacked state of {op.where}")
        reads = total(map(find, writes))
    assert hidden is not None
    op.sizes.update(hidden_size=hidden, input_size=layers[0][0][0].axes[1])
    for s in state:
        unify(s.axes[-1], hidden, op.where)
    rest: list[Axes] = [[*(fixed(n, op.reason("state")) for n in o.shape[:-1]), find(hidden)] for o in op.out[1:]]
    return [[*x.axes[:-1], find(reads)], *rest]


@rule("pack", "_pack_padded_sequence")
def pack(op: Op) -> Any:
    """[batch, steps, ...] or [steps, batch, ...] to [all steps, ...] and how many sequences have each step."""
    x, lengths = op.args[:2]
    why = op.reason("sequences")
    for a in (*x.axes[:2], *lengths.axes):
        freeze(a, why)
    return [[fixed(op.out[0].shape[0], why), *x.axes[2:]], [fixed(op.out[1].shape[0], why)]]


@rule("pack", "_pad_packed_sequence")
def unpack(op: Op) -> Any:
    """The inverse: [all steps, ...] to [batch, steps, ...] or [steps, batch, ...] and the lengths."""
    data, counts = op.args[:2]
    why = op.reason("sequences")
    for a in (data.axes[0], *counts.axes):
        freeze(a, why)
    padded, lengths = op.out
    return [[*(fixed(n, why) for n in padded.shape[:2]), *data.axes[1:]], [fixed(lengths.shape[0], why)]]


def _recurrent_spec(op: Op) -> tuple[Value, list[Value], list[list[list[Value]]], int] | None:
    """(input, initial states, weights [layer][direction][tensor], gates); None for forms not covered.

    The input is [..., features]: padded sequences, or the rows of packed ones.
    """
    gates = {"lstm": 4, "gru": 3}.get(op.name, 1)
    x, hx, params, layers = op.args[0], op.arg("hx"), op.arg("params"), op.arg("num_layers")
    directions = 2 if op.arg("bidirectional") else 1
    each = 4 if op.arg("has_biases") else 2
    if len(params) != each * layers * directions:
        return None
    state = list(hx) if isinstance(hx, list | tuple) else [hx]
    tensors = [list(params[i : i + each]) for i in range(0, len(params), each)]
    return x, state, [tensors[i : i + directions] for i in range(0, len(tensors), directions)], gates


def _rnn_macs(op: Op) -> Terms:
    spec = _recurrent_spec(op)
    if spec is None:
        return []
    x, _, layers, _ = spec
    steps = x.axes[:-1]
    return [[*steps, *t.axes] for layer in layers for tensors in layer for t in tensors[:2]]
