"""Whether a cut network takes what the original takes: other sizes, padding, a cache.

Every situation is tried on the original first. The cut network must take those that it takes, and compute what the
zero-masked original computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.structure import Graph
from sartor.structure.example import Example, batch_of, call, map_tensors, tensors, with_batch
from sartor.structure.other_inputs import other_inputs
from sartor.surgery import cut
from sartor.surgery.outputs import gap
from sartor.surgery.silence import silence
from sartor.surgery.survivors import irreproducible, reference_output, rewritten_paths
from sartor.types import Plan

_LEAST = 4  # a shorter dimension is no length
_CHANGES: tuple[tuple[str, Callable[[int, bool], int]], ...] = (
    ("shorter", lambda n, image: n // 2 if image else n - n // 3),
    ("longer", lambda n, image: n + 32 if image else n + n // 2),
)


def situations(model: nn.Module, example: Example) -> Iterator[tuple[str, Example]]:
    """Inputs of the kinds that a network is used with: name -> inputs. They are proposals.

    Three samples at the example's size, each length shorter and longer; each of these padded, and with a cache.
    """
    if not any(t.dim() for t in tensors(example)):
        return
    images = any(t.dim() >= 4 for t in tensors(example))
    base = with_batch(example, 3) if batch_of(example) == 1 else example
    lengths = list(dict.fromkeys(n for t in tensors(example) for n in t.shape[1:] if n >= _LEAST))
    sized = [("as traced", base)]
    for n in lengths[:3]:
        for name, change in _CHANGES:
            sized.append((f"{n} {name}", map_tensors(partial(_with_length, old=n, new=change(n, images)), base)))
    for name, one in sized:
        yield name, one
        for label, padded in _padded(model, one):
            yield f"{name}, {label}", padded
        if isinstance(one, Mapping):
            yield f"{name}, with a cache", {**one, "use_cache": True}


def _with_length(t: Tensor, old: int, new: int) -> Tensor:
    """Every dimension of this length with another one; what is added repeats the beginning.

    A vector of whole numbers whose largest is this length holds the lengths of the samples: they follow.
    """
    if t.dim() == 1 and not t.is_floating_point() and t.numel() and int(t.max()) == old:
        return torch.where(t == old, new, t.clamp(max=new))
    for d in range(1, t.dim()):
        if t.shape[d] == old:
            t = t.narrow(d, 0, new) if new < old else torch.cat([t] * (-(-new // old)), d).narrow(d, 0, new)
    return t


def _padded(model: nn.Module, example: Example) -> Iterator[tuple[str, Example]]:
    """The example with a mask whose last quarter is zero."""
    if isinstance(example, Mapping) and "attention_mask" not in example:
        for key in ("input_ids", "input_values", "inputs_embeds"):
            if key in example:
                mask = torch.ones(example[key].shape[:2], dtype=torch.int64)
                mask[-1, -max(1, mask.shape[1] // 4) :] = 0
                yield "padded", {**example, "attention_mask": mask}
                return
    yield from (("padded", x) for x in other_inputs(model, example) if _same_shapes(x, example))


def _same_shapes(one: Example, other: Example) -> bool:
    return [t.shape for t in tensors(one)] == [t.shape for t in tensors(other)]


def generality(
    model: nn.Module, graph: Graph, plan: Plan, example: Example, *, tolerance: float = 1e-4
) -> dict[str, Any]:
    """Whether the network cut by a plan takes and computes what the original does.

    Args:
        model: the original, borrowed.
        graph: of it, probed.
        plan: of the cut. Groups without a reference are kept whole here.
        example: real inputs; other situations are made from them.
        tolerance: largest relative error.

    Returns:
        {"taken": situations that the original takes, "equal": those of them that the cut network takes with equal
        results, "not_compared": those that it takes but that have no reference, "failed": {situation: why}, "fixed":
        [what `inspect` says beforehand that rewritten forwards no longer take]}.
    """
    left_out = set(irreproducible(graph, list(plan.keep)))
    left_out |= {n for tied in graph.ties if left_out & set(tied) for n in tied}
    fewer = replace(plan, keep={n: k for n, k in plan.keep.items() if n not in left_out})
    fixed = [f"{path or 'the model'} {x}" for path, limits in graph.rewritten.items() for x in limits]
    result: dict[str, Any] = {"taken": 0, "equal": 0, "not_compared": 0, "failed": {}, "fixed": fixed}
    compared = bool(graph.resolve(fewer).masks)
    resolved = graph.resolve(fewer if compared else plan)
    smaller, silenced = cut(model, graph, resolved), silence(model, graph, resolved)
    with torch.no_grad(), borrowed(model), borrowed(smaller), borrowed(silenced):
        for name, inputs in situations(model, example):
            try:
                call(model, inputs)
            except Exception:  # the original does not take this
                continue
            result["taken"] += 1
            try:
                actual = call(smaller, inputs)
            except Exception as e:
                result["failed"][name] = f"{type(e).__name__}: {e}".split("\n")[0][:300]
                continue
            reference = reference_output(silenced, graph, resolved.masks, inputs, rewritten_paths(smaller))
            if not (compared and reference.complete):
                result["not_compared"] += 1
                continue
            found = gap(reference.output, actual)
            if found.error <= tolerance:
                result["equal"] += 1
            else:
                result["failed"][name] = f"relative error {found.error:.2e} at {found.where}"
    return result


__all__ = ["generality", "situations"]
