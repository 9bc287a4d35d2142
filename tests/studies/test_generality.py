"""A cut network takes the sizes, lengths and masks that the original takes, and computes the same on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sartor.structure import trace
from sartor.studies.generality import generality, situations
from sartor.surgery import probe
from sartor.testing.plans import unequal
from sartor.testing.zoo import ZOO


@pytest.mark.parametrize("name", ["lengths", "optional-mask", "grouped-query", "cifar-resnet-pad", "fused-qkv"])
def test_it_is_as_general_as_the_original(name: str) -> None:
    case = ZOO[name].value
    model, example = case.build(), case.example()
    graph = probe(model, trace(model, example))
    found = generality(model, graph, unequal(graph, 1), example)
    assert found["equal"] == found["taken"] - found["not_compared"] >= 2 and not found["failed"]


def test_lengths_of_samples_follow_the_length_of_the_batch() -> None:
    case = ZOO["lengths"].value
    model, example = case.build(), case.example()
    seen: dict[str, tuple[Tensor, Tensor]] = dict(situations(model, example))
    assert {name: (x.shape[1], lengths.tolist()) for name, (x, lengths) in seen.items() if "7" in name} == {
        "7 shorter": (5, [5, 5]),
        "7 longer": (10, [10, 5]),
    }
    with torch.no_grad():
        assert all(model(*inputs).shape == (2, 5) for inputs in seen.values() if inputs[0].shape[2] == 12)
