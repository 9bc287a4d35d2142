"""What makes a network slow beside its MACs, layer by layer: the guidelines of ShuffleNetV2 with exact formulas.

Source: Ma et al. 2018, arXiv:1807.11164, G1 to G4; utilisation of an array of multipliers after Jha et al. 2020
(DRACO).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import Field

from sartor.cost.access import LayerShape, layer_shape
from sartor.structure import Graph
from sartor.structure.axes import find, leaves
from sartor.structure.calls import Op, Value
from sartor.types.rows import Answer, Row


@dataclass(frozen=True)
class Limits:
    """From which values on something is said."""

    unequal: float = 1.25  # access of a pointwise layer, beside the least for its MACs (G1)
    grouped: float = 1.25  # access of a grouped layer, beside one without groups of the same MACs (G2)
    branches: int = 4  # layers that read one value (G3)
    pointwise: float = 0.3  # share of elementwise operators in all memory access (G4)
    busy: float = 0.5  # utilisation of the array
    rows: int = 32  # of the array of multipliers
    columns: int = 32


class LayerRow(Row):
    """One convolution or linear layer."""

    layer: str
    inputs: int
    outputs: int
    taps: int
    groups: int
    macs: int
    access: int
    intensity: float  # MACs for each access
    utilisation: float


class AdviceRow(Row):
    """One thing that costs more than it has to."""

    layer: str  # "": the whole network
    guideline: str
    value: float
    limit: float
    text: str  # what is so, and what to change
    command: str  # of Sartor, which changes it; "": none


class Advice(Answer):
    """The layers of a network with their memory accesses, and what to change."""

    model: str
    layers: list[LayerRow] = Field(default_factory=list)
    advice: list[AdviceRow] = Field(default_factory=list)


def advise(graph: Graph, name: str, limits: Limits = Limits()) -> Advice:
    """The layers of a traced network, and which of them violate a guideline.

    Args:
        graph: traced with one sample.
        name: of the model, for commands.
        limits: from which values on something is said.
    """
    shapes = {op.index: shape for op in graph.ops if op.live and (shape := layer_shape(op)) is not None}
    rows = [_row(graph.ops[i], shape, limits) for i, shape in shapes.items()]
    found = [a for i, shape in shapes.items() for a in _of_layer(graph, graph.ops[i], shape, name, limits)]
    found += _fragments(graph, shapes, limits)
    found += _elementwise(graph, shapes, limits)
    return Advice(model=name, layers=rows, advice=found)


def _row(op: Op, shape: LayerShape, limits: Limits) -> LayerRow:
    return LayerRow(
        layer=op.path, inputs=shape.inputs, outputs=shape.outputs, taps=shape.taps, groups=shape.groups,
        macs=shape.macs, access=shape.access, intensity=shape.intensity,
        utilisation=shape.utilisation(limits.rows, limits.columns),
    )  # fmt: skip


def _of_layer(graph: Graph, op: Op, shape: LayerShape, name: str, limits: Limits) -> Iterator[AdviceRow]:
    if op.kind == "conv" and shape.taps == 1 and shape.groups == 1:
        ratio = shape.access / shape.least_access
        if ratio > limits.unequal:
            wide = 0 if shape.outputs > shape.inputs else 1
            group = _group(graph, op.args[1], wide)
            yield AdviceRow(
                layer=op.path, guideline="G1 equal widths", value=ratio, limit=limits.unequal,
                text=f"{shape.inputs} inputs and {shape.outputs} outputs: {ratio:.2f} times the least memory "
                "access for its MACs; make the wider side narrower",
                command=f'sartor fit --model {name} --budget "macs<=80%" --cut {group}' if group else "",
            )  # fmt: skip
    if shape.groups > 1 and not shape.depthwise:
        ratio = shape.access / whole_access(shape)
        if ratio > limits.grouped:
            yield AdviceRow(
                layer=op.path, guideline="G2 few groups", value=ratio, limit=limits.grouped,
                text=f"{shape.groups} groups: {ratio:.2f} times the memory access of one without groups that has as "
                "many MACs; use fewer groups and fewer channels",
                command="",
            )  # fmt: skip
    used = shape.utilisation(limits.rows, limits.columns)
    if used < limits.busy and shape.macs:
        kind = "depthwise" if shape.depthwise else f"{shape.inputs // shape.groups} inputs a group"
        yield AdviceRow(
            layer=op.path, guideline="array utilisation", value=used, limit=limits.busy,
            text=f"{kind}: {100 * used:.0f} % of an array of {limits.rows} x {limits.columns} multipliers has work; "
            "use multiples of its sides, and more channels a group",
            command="",
        )  # fmt: skip


def whole_access(shape: LayerShape) -> float:
    """Access of a layer without groups with the same MACs: both widths are smaller by the root of the groups."""
    return shape.activations / shape.groups**0.5 + shape.params


def _group(graph: Graph, weight: Value, dim: int) -> str:
    """The group whose units a dimension of a weight carries; "": none that can be cut."""
    of_axis = {find(a) for a in leaves(weight.axes[dim])}
    return next((name for name, leaf in graph.leaves.items() if find(leaf) in of_axis), "")


def _fragments(graph: Graph, shapes: Mapping[int, LayerShape], limits: Limits) -> Iterator[AdviceRow]:
    readers: dict[int, list[Op]] = {}
    for i in shapes:
        readers.setdefault(id(graph.ops[i].args[0]), []).append(graph.ops[i])
    for ops in readers.values():
        if len(ops) >= limits.branches:
            names = ", ".join(op.path for op in ops)
            yield AdviceRow(
                layer=ops[0].path, guideline="G3 few branches", value=float(len(ops)), limit=float(limits.branches),
                text=f"{len(ops)} layers read one value ({names}); one layer with all their outputs would run faster",
                command="",
            )  # fmt: skip


def _elementwise(graph: Graph, shapes: Mapping[int, LayerShape], limits: Limits) -> Iterator[AdviceRow]:
    moved = 0
    for op in graph.ops:
        if op.live and op.kind in ("pointwise", "batch_norm"):
            values = [v for v in (*op.inputs, *op.outputs) if v.name is None]
            moved += sum(v.numel({}) for v in values)
    whole = moved + sum(shape.access for shape in shapes.values())
    share = moved / whole if whole else 0.0
    if share > limits.pointwise:
        yield AdviceRow(
            layer="", guideline="G4 few elementwise operators", value=share, limit=limits.pointwise,
            text=f"{100 * share:.0f} % of all memory access is that of elementwise operators and batch norms, which "
            "runtimes fuse and eager PyTorch does not; deliver a file instead of the module",
            command="sartor export RUN --format onnx",
        )  # fmt: skip
