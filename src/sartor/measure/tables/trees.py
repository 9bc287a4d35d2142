"""Boosted regression trees over properties of operators, for segments that were never timed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

import numpy as np

from sartor.errors import MissingExtra, SartorError
from sartor.measure.tables.segment_module import shape_of
from sartor.measure.tables.segments import Kind, Point

FAMILIES = (
    "conv", "linear", "mm", "attention", "norm", "relu", "gelu", "add", "mul", "cat", "pool", "hardtanh", "sigmoid",
    "silu", "softmax",
)  # fmt: skip


def features(kind: Kind, point: Point) -> list[float]:
    """Work, memory traffic and alignment of a segment, and the families of its operators.

    Order: logarithms of multiply-accumulates, of elements read from outside, of weights, of elements in the outputs,
    and of elements made in between; number of operators; largest power of two (up to 32) that divides all widths read,
    and all widths of the outputs; number of operators of every family.
    """
    spec = kind.spec
    sizes = [math.prod(shape_of(kind, i, point)) for i in range(len(spec["tensors"]))]
    origin = [row[2] for row in spec["tensors"]]
    read, left = sum(sizes[i] for i in spec["given"]), sum(sizes[i] for i in spec["left"])
    weights = sum(n for n, o in zip(sizes, origin) if o in ("parameter", "buffer", "held"))
    made = sum(n for n, o in zip(sizes, origin) if o == "made")
    names = [step[0].split("::")[-1] for step in spec["steps"]]
    return [
        *(math.log(1 + n) for n in (multiplies(kind, point), read, weights, left, made)),
        float(len(names)),
        float(_alignment(shape_of(kind, i, point) for i in spec["given"])),
        float(_alignment(shape_of(kind, i, point) for i in spec["left"])),
        *(float(sum(f in n for n in names)) for f in FAMILIES),
    ]


def multiplies(kind: Kind, point: Point) -> float:
    """Multiply-accumulates of convolutions, linear maps, matrix products and attention, from shapes alone."""
    total = 0.0
    for name, args, _, outs in kind.spec["steps"]:
        short = name.split("::")[-1]
        slots = [a["slot"] for a in args if isinstance(a, dict) and "slot" in a]
        if not outs or len(slots) < 2:
            continue
        out = math.prod(shape_of(kind, outs[0], point))
        second = shape_of(kind, slots[1], point)
        if "conv" in short:
            total += out * math.prod(second[1:])
        elif "linear" in short:
            total += out * second[-1]
        elif "attention" in short:
            total += 2 * out * (second[-2] if len(second) > 1 else 1)
        elif "mm" in short or "matmul" in short:
            total += out * shape_of(kind, slots[0], point)[-1]
    return total


def _alignment(shapes: object) -> int:
    n = 0
    for shape in shapes:  # type: ignore[attr-defined]
        n = math.gcd(n, shape[1] if len(shape) == 4 else shape[-1] if shape else 1)
    return math.gcd(n, 32)


class Trees:
    """Seconds of any segment from those timed on one target.

    Args:
        rows: segments, points and seconds, at least eight.
        name: of the target, for messages.

    Raises:
        MissingExtra: scikit-learn is not installed.
        SartorError: too little was timed.
    """

    def __init__(self, rows: Sequence[tuple[Kind, Point, float]], name: str = ""):
        if importlib.util.find_spec("sklearn") is None:
            raise MissingExtra("scikit-learn", "search", "latency of operators that were never timed")
        if len(rows) < 8:
            raise SartorError(
                f"target {name!r}: {len(rows)} operators were timed, too few to predict one that was not; "
                "run `sartor tables build MODEL --target ...` first"
            )
        from sklearn.ensemble import HistGradientBoostingRegressor

        x = np.array([features(k, p) for k, p, _ in rows])
        y = np.log([s for _, _, s in rows])
        # time relative to the work, which varies little: trees cannot extrapolate to more work than they have seen
        self._model = HistGradientBoostingRegressor(
            max_iter=300, learning_rate=0.06, min_samples_leaf=5, random_state=0
        ).fit(x, y - _work(x))

    def seconds(self, kind: Kind, point: Point) -> float:
        """Predicted seconds of one segment at one point."""
        x = np.array([features(kind, point)])
        return float(np.exp(self._model.predict(x)[0] + _work(x)[0]))


def _work(x: np.ndarray) -> np.ndarray:
    """Logarithm of the multiply-accumulates plus ten times the elements moved."""
    work: np.ndarray = np.log(np.exp(x[:, 0]) + 10 * np.exp(x[:, 1:5]).sum(1))
    return work
