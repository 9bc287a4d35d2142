"""Peak activation memory: the storages that are alive at the same time, operator by operator.

Every recorded value holds the storage that it is in (views share one) and the operator after which the forward dropped
its last reference. Sizes follow from the axes, so the peak of any plan is known without running it. Parameters, buffers
and the inputs are not counted; scratch memory inside kernels is counted if the rule of the operator states it.
"""

from __future__ import annotations

from sartor.cost.macs import Term, evaluate, term
from sartor.structure.calls import Value
from sartor.structure.graph import Graph
from sartor.structure.graph_cache import per_graph
from sartor.structure.rules import lookup
from sartor.types import Counts

Life = tuple[int, int, Value]  # of a storage: (first operator, first operator after its end, its largest value)


@per_graph
def lives(graph: Graph) -> list[Life]:
    """Every storage that an operator allocated; computed once per graph."""
    outside = {v.storage for v in (*graph.tensors.values(), *graph.inputs)}
    open_: dict[int, list[Value]] = {}
    born: dict[int, int] = {}
    done: list[Life] = []

    def close(storage: int) -> None:
        views = open_.pop(storage)
        ends = [v.died if v.died is not None else len(graph.ops) + 1 for v in views]
        done.append((born.pop(storage), max(ends), max(views, key=lambda v: v.numel({}))))

    for op in graph.ops:
        for v in op.outputs:
            if v.storage in outside or v.origin != "op":
                continue
            views = open_.get(v.storage)
            if views and all(w.died is not None and w.died <= op.index for w in views):
                close(v.storage)  # the allocator used the same address again
                views = None
            if views is None:
                open_[v.storage], born[v.storage] = [v], op.index
            elif v not in views:
                views.append(v)
    for storage in list(open_):
        close(storage)
    return done


def peak_memory(graph: Graph, counts: Counts | None = None) -> int:
    """Largest number of bytes of activations alive at the same time in one forward of the traced example."""
    kept = graph.leaf_counts(counts or {})
    change = [0] * (len(graph.ops) + 3)
    for first, end, v in lives(graph):
        size = v.numel(kept) * v.dtype.itemsize
        change[first] += size
        change[max(end, first + 1)] -= size
    scratch = _scratch(graph)
    peak = now = 0
    for i, delta in enumerate(change):
        now += delta
        peak = max(peak, now + evaluate(scratch[i], kept) if i in scratch else now)
    return peak


@per_graph
def _scratch(graph: Graph) -> dict[int, list[Term]]:
    """Bytes of scratch memory of an operator, by its index; computed once per graph."""
    scratch = {}
    for op in graph.ops:
        rule = lookup(op.func)
        needs = rule.scratch(op) if rule and rule.scratch and op.live else []
        if needs:
            scratch[op.index] = [term(axes) for axes in needs]
    return scratch
