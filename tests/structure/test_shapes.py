"""Meta rules give the outputs of PyTorch's meta kernels: on random calls, valid or not, and for the whole zoo."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sartor.structure import record, trace
from sartor.structure.rules import RULES, registry
from sartor.testing.zoo import ZOO

A = torch.ops.aten
DTYPES = [torch.float32] * 12 + [torch.float16, torch.float64, torch.int64, torch.bool]
CALLS = 400


def sizes(r: random.Random, n: int) -> list[int]:
    return [r.choice((1, 1, 2, 3, 4, 6)) for _ in range(n)]


def meta(r: random.Random, shape, dtype=None) -> Tensor:
    """Usually contiguous; otherwise permuted, channels last, strided, or expanded."""
    dtype = dtype or r.choice(DTYPES)
    n = len(shape)
    layout = r.choice(("plain",) * 5 + ("permuted", "last", "sliced", "expanded", "empty"))
    if layout == "permuted":
        order = r.sample(range(n), n)
        return torch.empty([shape[d] for d in order], dtype=dtype, device="meta").permute(
            [order.index(d) for d in range(n)]
        )
    if layout == "last" and n == 4:
        return torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
    if layout == "sliced" and n:
        return torch.empty([2 * k for k in shape], dtype=dtype, device="meta")[(slice(None, None, 2),) * n]
    if layout == "expanded" and n:
        return torch.empty([1, *shape[1:]], dtype=dtype, device="meta").expand(shape)
    if layout == "empty" and n and r.random() < 0.3:
        return torch.empty([0, *shape[1:]], dtype=dtype, device="meta")
    return torch.empty(shape, dtype=dtype, device="meta")


def off(r: random.Random, n: int) -> int:
    """The number, or sometimes a wrong one."""
    return n if r.random() < 0.93 else n + 1


def maybe(r: random.Random, t: Tensor) -> Tensor | None:
    return t if r.random() < 0.7 else None


def kin(r: random.Random, x: Tensor):
    """A dtype, usually that of x."""
    return x.dtype if r.random() < 0.9 else torch.float32


def one(func, *more) -> Callable:
    return lambda r: (func, (meta(r, sizes(r, r.randrange(5))), *more), {})


def two(func) -> Callable:
    def call(r):
        x = meta(r, sizes(r, r.randrange(5)))
        shape = list(x.shape)
        if r.random() < 0.6:  # broadcast, either way
            shape = [n if r.random() < 0.5 else r.choice((1, 3)) for n in shape][r.randrange(2) :]
        return func, (x, meta(r, shape, kin(r, x)))[:: r.choice((1, -1))], {}

    return call


def number(func, *values) -> Callable:
    return lambda r: (func, (meta(r, sizes(r, r.randrange(5))), *(r.choice(v) for v in values)), {})


def conv(n: int) -> Callable:
    def call(r):
        g = r.choice((1, 1, 2, 3))
        c, out = g * r.choice((1, 2)), g * r.choice((1, 2, 3))
        x = meta(r, [r.choice((1, 2)), off(r, c), *(r.choice((1, 5, 8)) for _ in range(n))])
        w = meta(r, [off(r, out), c // g, *(r.choice((1, 2, 3)) for _ in range(n))], kin(r, x))
        b = maybe(r, meta(r, [off(r, out)], kin(r, x)))
        numbers = [[v] * r.choice((1, n)) for v in (r.choice((1, 2, 0)), r.choice((0, 1, 2)), r.choice((1, 1, 2)))]
        if r.random() < 0.05 and x.shape[0]:
            x = x[0]
        return getattr(A, f"conv{n}d").default, (x, w, b, *numbers, g), {}

    return call


def linear(r):
    x = meta(r, [*sizes(r, r.randrange(4)), 6])
    w = meta(r, [5, off(r, 6)][-r.choice((1, 2, 2, 2)) :], kin(r, x))
    return A.linear.default, (x, w, maybe(r, meta(r, [off(r, 5)], kin(r, x)))), {}


def batch_norm(r):
    x = meta(r, sizes(r, r.choice((1, 2, 3, 4, 5))))
    c = x.shape[1] if x.ndim > 1 else 2
    w, b, mean, var = (maybe(r, meta(r, [off(r, c)], kin(r, x))) for _ in range(4))
    return A.batch_norm.default, (x, w, b, mean, var, r.random() < 0.1, 0.1, 1e-5, False), {}


def layer_norm(func) -> Callable:
    def call(r):
        x = meta(r, sizes(r, r.choice((1, 2, 3, 4))))
        shape = [off(r, n) for n in x.shape[-r.choice((1, 1, 2)) :]]
        wb = [maybe(r, meta(r, shape if r.random() < 0.9 else shape[:1], kin(r, x))) for _ in range(2)]
        return func, (x, shape, *(wb if func is A.layer_norm.default else wb[:1])), {}

    return call


def group_norm(r):
    x = meta(r, [2, r.choice((4, 6)), *sizes(r, r.randrange(3))])
    w, b = (maybe(r, meta(r, [off(r, x.shape[1])], kin(r, x))) for _ in range(2))
    return A.group_norm.default, (x, r.choice((1, 2, 3)), w, b), {}


def sdpa(r):
    b, h, n, s, d, e = (r.choice((1, 2, 4)) for _ in range(6))
    q = meta(r, [b, off(r, h), n, d])
    k, v = meta(r, [b, h, s, off(r, d)], kin(r, q)), meta(r, [b, h, off(r, s), e], kin(r, q))
    mask = None
    if r.random() < 0.3:
        mask = meta(r, [r.choice((1, b)), 1, off(r, n), s][r.choice((0, 2)) :], r.choice((torch.bool, q.dtype)))
    if r.random() < 0.1 and all(t.shape[0] for t in (q, k, v)):
        q, k, v = q[0], k[0], v[0]
    return A.scaled_dot_product_attention.default, (q, k, v, mask, 0.0, r.random() < 0.2), {}


def recurrent(func, gates: int) -> Callable:
    def call(r):
        steps, batch, n, h, layers = (r.choice((1, 2, 3)) for _ in range(5))
        both, biases, first = (r.random() < 0.5 for _ in range(3))
        x = meta(r, [batch, steps, off(r, n)] if first else [steps, batch, off(r, n)], torch.float32)
        states = [meta(r, [layers * (1 + both), batch, h], kin(r, x)) for _ in range(2 if gates == 4 else 1)]
        params = []
        for layer in range(layers):
            for _ in range(1 + both):
                reads = h * (1 + both) if layer else n
                shapes = [[gates * h, reads], [gates * h, off(r, h)], [gates * h], [gates * h]][: 4 if biases else 2]
                params += [torch.empty(shape, dtype=kin(r, x), device="meta") for shape in shapes]
        hx = states if gates == 4 else states[0]
        return func, (x, hx, params, biases, layers, 0.0, False, both, first), {}

    return call


def reduced(func) -> Callable:
    def call(r):
        x = meta(r, sizes(r, r.choice((1, 2, 3, 4))))
        over = r.sample(range(-x.ndim, x.ndim), 1 if r.random() < 0.5 else min(2, x.ndim))
        over = r.choice((over, over, over, None, [], [x.ndim]))
        return func, (x, over, r.random() < 0.5), {"dtype": torch.float64} if r.random() < 0.1 else {}

    return call


def along(func) -> Callable:
    def call(r):
        x = meta(r, sizes(r, r.choice((1, 2, 3, 4))))
        return func, (x, r.randrange(-x.ndim - 1, x.ndim + 1), r.choice((None, None, torch.float64))), {}

    return call


def roll(r):
    x = meta(r, sizes(r, r.choice((1, 2, 3))))
    over = r.sample(range(x.ndim), r.randrange(x.ndim + 1))
    return A.roll.default, (x, [r.choice((-1, 0, 2)) for _ in range(off(r, len(over)))], over), {}


def pooled(r):
    x = meta(r, [2, 3, r.choice((1, 5, 8)), r.choice((1, 5, 8))][r.choice((0, 0, 0, 1)) :])
    numbers = [r.choice((1, 2, 3)) for _ in range(2)], r.choice(([], [2], [1, 2])), [r.choice((0, 1, 2))] * 2
    return A.max_pool2d.default, (x, *numbers, [r.choice((1, 1, 2))], r.random() < 0.1), {}


def adapted(r):
    x = meta(r, sizes(r, r.choice((3, 4, 4, 4))))
    return A.adaptive_avg_pool2d.default, (x, r.choice(([1, 1], [2, 3], [0, 1]))), {}


def cat(r):
    x = meta(r, sizes(r, r.choice((1, 2, 3, 4))))
    d = r.randrange(-x.ndim, x.ndim + 1)
    parts = [x]
    for _ in range(r.randrange(3)):
        shape = [r.choice((1, 2)) if k == d % x.ndim else off(r, n) for k, n in enumerate(x.shape)]
        parts.append(meta(r, shape, kin(r, x)))
    return A.cat.default, (parts, d), {}


def reshaped(r):
    x = meta(r, sizes(r, r.choice((1, 2, 3, 4))))
    shape = sizes(r, 3) if r.random() < 0.1 else list(x.shape)
    r.shuffle(shape)
    if len(shape) > 1 and r.random() < 0.6:
        shape[:2] = [shape[0] * shape[1]]
    if r.random() < 0.3:
        shape[r.randrange(len(shape))] = -1
    return A.reshape.default, (x, shape), {}


def contiguous(r):
    x = meta(r, sizes(r, 4))
    return A.contiguous.default, (x,), {"memory_format": torch.channels_last} if r.random() < 0.1 else {}


def index(r):
    x = meta(r, sizes(r, r.choice((1, 2, 3))))
    i = meta(r, sizes(r, r.randrange(3)), r.choice((torch.int64, torch.int64, torch.int32, torch.bool)))
    return A.index.Tensor, (x, [i] if r.random() < 0.9 else [None, i]), {}


UNARY = """relu relu6 gelu silu mish hardswish hardsigmoid sigmoid tanh celu selu exp sqrt rsqrt neg abs square sin cos
elu softplus hardtanh leaky_relu"""
RANDOM = {
    **{f"aten::{n}": one(getattr(A, n).default) for n in UNARY.split()},
    **{f"aten::{n}": two(getattr(A, n).Tensor) for n in ("add", "sub", "mul", "div")},
    **{f"aten::{n}": two(getattr(A, n).default) for n in ("maximum", "minimum")},
    "aten::clamp": number(A.clamp.default, (0, 0.5, None), (1, 2.5)),
    "aten::pow": number(A.pow.Tensor_Scalar, (2, 0.5, 2j)),
    **{f"aten::conv{n}d": conv(n) for n in (1, 2, 3)},
    "aten::linear": linear,
    "aten::batch_norm": batch_norm,
    "aten::layer_norm": layer_norm(A.layer_norm.default),
    "aten::rms_norm": layer_norm(A.rms_norm.default),
    "aten::group_norm": group_norm,
    "aten::scaled_dot_product_attention": sdpa,
    "aten::lstm": recurrent(A.lstm.input, 4),
    "aten::gru": recurrent(A.gru.input, 3),
    "aten::rnn_tanh": recurrent(A.rnn_tanh.input, 1),
    "aten::rnn_relu": recurrent(A.rnn_relu.input, 1),
    "aten::sum": reduced(A.sum.dim_IntList),
    "aten::mean": reduced(A.mean.dim),
    "aten::softmax": along(A.softmax.int),
    "aten::log_softmax": along(A.log_softmax.int),
    "aten::roll": roll,
    "aten::reshape": reshaped,
    "aten::contiguous": contiguous,
    "aten::alias": one(A.alias.default),
    "aten::dropout": number(A.dropout.default, (0.0, 0.5, 1.0), (False, False, True)),
    "aten::max_pool2d": pooled,
    "aten::adaptive_avg_pool2d": adapted,
    **dict.fromkeys(("aten::cat", "aten::concat", "aten::concatenate"), cat),
    **dict.fromkeys(("aten::index", "aten::_unsafe_index"), index),
}
MORE = {  # other overloads
    "add.Scalar": number(A.add.Scalar, (1, 0.5, 1j)),
    "mul.Scalar": number(A.mul.Scalar, (2, 1j)),
    "mean.default": one(A.mean.default),
    "sum.default": one(A.sum.default),
    "clamp.Tensor": two(A.clamp.Tensor),
    "pow.Tensor_Tensor": two(A.pow.Tensor_Tensor),
    "pow.Scalar": lambda r: (A.pow.Scalar, (2.0, meta(r, [2, 3])), {}),
}


def layout(t: Tensor) -> tuple:
    """Shape, dtype and strides."""
    steps = [s for s, n in zip(t.stride(), t.shape) if n > 1] if t.numel() else []
    return tuple(t.shape), t.dtype, steps, t.device.type


def several(out) -> tuple:
    return out if isinstance(out, tuple) else (out,)


def shared(t: Tensor, args) -> list[bool]:
    """Which arguments share memory with the result."""
    memory = t.untyped_storage()._cdata
    return [a.untyped_storage()._cdata == memory for a in args if isinstance(a, Tensor)]


@torch.inference_mode()
@pytest.mark.parametrize("name", [*RANDOM, *MORE])
def test_what_a_meta_rule_gives_pytorch_gives(name: str) -> None:
    r, spoke = random.Random(name), 0
    for _ in range(CALLS):
        func, args, kwargs = {**RANDOM, **MORE}[name](r)
        known = registry.facts(func)
        assert known.meta is not None
        mine = known.meta(*args, **kwargs)
        if mine is NotImplemented:
            continue
        spoke += 1
        said = f"{func} of {[(a.dtype, a.shape, a.stride()) if isinstance(a, Tensor) else a for a in args]} {kwargs}"
        try:
            theirs = func(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError, NotImplementedError) as e:
            raise AssertionError(f"PyTorch refuses {said}: {e}") from e
        for my, their in zip(several(mine), several(theirs), strict=True):
            assert layout(my) == layout(their), said
            assert shared(my, args) == shared(their, args), said
    assert spoke > CALLS // 12 or name == "pow.Scalar"  # its first argument is a number: PyTorch's kernel runs


def test_every_meta_rule_is_tried() -> None:
    assert {name for name, rule in RULES.items() if rule.meta is not None} == set(RANDOM)


def plain(graph) -> list:
    """Everything in a graph, as text."""
    values = [v for op in graph.ops for v in op.outputs]
    return [
        graph.fingerprint,
        [(str(op.func), op.path, op.live) for op in graph.ops],
        [(v.shape, v.dtype, v.died, list(map(repr, v.axes))) for v in [*values, *graph.tensors.values()]],
        list(graph.groups.items()),
        graph.frozen,
        graph.ties,
    ]


@pytest.mark.parametrize("name", list(ZOO))
def test_a_trace_is_the_same_without_the_meta_rules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = ZOO[name].value
    model, example = case.build(), case.example()
    quick = plain(trace(model, example))
    monkeypatch.setattr(registry, "_takes", lambda *_: False)
    monkeypatch.setattr(registry, "_FACTS", {})
    assert plain(trace(model, example)) == quick
    assert all(f.meta is None for f in registry._FACTS.values())


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(torch.ones(4, 3))


def test_what_does_not_fit_in_place_is_still_refused() -> None:
    with pytest.raises(Exception, match="shape"):
        record(Grows(), torch.ones(1, 3))
