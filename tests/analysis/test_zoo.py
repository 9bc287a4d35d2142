"""Every network of the zoo can be looked at, and its bounds hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sartor.analysis.analyse import analysis_of, subject_of
from sartor.analysis.layers import layers
from sartor.analysis.probes.lipschitz import upper_bound
from sartor.structure.example import call, first_tensor
from sartor.structure.model_copy import named_tensors
from sartor.testing.zoo import Case, cases

CASES = cases(without=("hard",))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activations_and_weights_of_every_network_are_read(case: Case) -> None:
    """Rows come from layers of the graph; a layer that gives none is named in a note."""
    model, example = case.build(), case.example()
    subject = subject_of(model, [(example, None)])
    found = analysis_of(subject, ["dead-units", "conditioning", "information-plane"], case.name)
    shown = {row.layer for row in found.rows if row.probe in ("dead-units", "information-plane") and row.layer}
    lost = " ".join(found.notes)
    names = [x.name for x in layers(subject.graph)]
    assert len(set(names)) == len(names)
    assert shown <= set(names) and all(name in lost for name in set(names) - shown)
    for row in found.rows:
        if row.quantity in ("dead rate", "dynamic dead rate", "active positions"):
            assert row.value is not None and 0 <= row.value <= 100


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_change_of_the_input_is_steeper_than_the_bound(case: Case) -> None:
    model, example = case.build(), case.example()
    if not isinstance(example, Tensor) or not example.is_floating_point():
        pytest.skip("its input is not one tensor of floating point")
    subject = subject_of(model, [(example, None)])
    bound, unbounded = upper_bound(subject.graph, {name: t.detach() for *_, name, t in named_tensors(model)})
    if bound is None:
        assert unbounded
        return
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = first_tensor(call(model, example)).double()
        for size in (1e-2, 1.0):
            step = size * torch.randn(example.shape, generator=generator)
            after = first_tensor(call(model, example + step)).double()
            assert float((after - before).norm()) <= bound * float(step.norm()) * (1 + 1e-4)
