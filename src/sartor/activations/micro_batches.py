"""Batches in parts, so that a pass over data stays within a stated amount of memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import torch

from sartor.structure import Graph
from sartor.structure.calls import Op
from sartor.structure.example import Example, batch_of, map_tensors

_SHARE = 0.25  # of the machine's memory
_MOST = 3 << 29
_REUSED = 16 << 20  # bytes of one tensor; for larger ones the C library maps and clears new pages at each allocation


def working_memory() -> int:
    """Bytes a pass may use beside model and data: a quarter of what the machine has, at most 1.5 GiB."""
    return int(min(_MOST, _SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))


def alive_bytes(ops: Sequence[Op], held: Mapping[int, int] | None = None) -> list[int]:
    """Bytes of activations that are kept after each operator, at the sizes recorded; parameters and inputs not counted.

    Args:
        ops: in execution order.
        held: id of a Value -> the operator until which it is kept beyond its last reader.
    """
    made: dict[int, int] = {}
    size: dict[int, int] = {}
    last: dict[int, int] = {}
    for op in ops:
        for v in op.inputs:
            if v.storage in made:
                last[v.storage] = max(last[v.storage], op.index)
        for v in op.outputs:
            if v.name is None and (v.storage in made or all(v.storage != u.storage for u in op.inputs)):
                made.setdefault(v.storage, op.index)
                size[v.storage] = max(size.get(v.storage, 0), _bytes(v.shape) * v.dtype.itemsize)
                last[v.storage] = max(last.get(v.storage, 0), op.index, (held or {}).get(id(v), 0))
    change = [0] * (len(ops) + 1)
    for storage, start in made.items():
        change[start] += size[storage]
        change[last[storage] + 1] -= size[storage]
    alive, now = [], 0
    for c in change[:-1]:
        now += c
        alive.append(now)
    return alive


def samples_reused(ops: Sequence[Op], samples: int, device: torch.device) -> int:
    """How many samples one forward should take, at least 1, so that its largest activation reuses memory on a CPU.

    A forward of many large pictures takes about twice as long a picture as one of few: for large tensors new pages are
    mapped and cleared.

    Args:
        ops: recorded with this many samples.
        samples: of the recording.
        device: elsewhere than on a CPU there is no such bound.
    """
    if device.type != "cpu":
        return sys.maxsize
    sizes = (_bytes(v.shape) * v.dtype.itemsize for op in ops for v in op.outputs if v.name is None)
    return max(1, _REUSED * samples // max(1, *sizes, 1))


def samples_within(graph: Graph, device: torch.device, memory: int, *, gradients: bool = False) -> int:
    """How many samples one forward may take, at least 1; on a CPU at most `samples_reused`.

    Args:
        graph: of the model.
        device: where the model lies.
        memory: bytes.
        gradients: whether everything is kept for a backward.
    """
    ops = graph.ops
    if gradients:
        end = len(ops) - 1
        whole = 3 * max(alive_bytes(ops, {id(v): end for op in ops for v in op.outputs}), default=0)
        # kept once by autograd, once as what is differentiated at, once as gradients
    else:
        whole = 2 * max(alive_bytes(ops), default=0)  # an operator may need as much again while it runs
    traced = next((v.shape[0] for v in graph.inputs if v.ndim), 1)
    return max(1, min(int(memory * traced // max(1, whole)), samples_reused(ops, traced, device)))


def parts(example: Example, most: int) -> list[Example]:
    """A batch in equal parts of at most `most` samples; the batch itself where it is small enough.

    >>> import torch
    >>> [len(p) for p in parts(torch.zeros(12, 2), 5)], [len(p) for p in parts(torch.zeros(7, 2), 5)]
    ([4, 4, 4], [1, 1, 1, 1, 1, 1, 1])
    """
    n = batch_of(example)
    if n <= most:
        return [example]
    size = next(k for k in range(most, 0, -1) if n % k == 0)

    def part(low: int) -> Example:
        return map_tensors(lambda t: t[low : low + size] if t.dim() and t.shape[0] == n else t, example)

    return [part(low) for low in range(0, n, size)]


def _bytes(shape: Sequence[int]) -> int:
    n = 1
    for s in shape:
        n *= int(s)
    return n
