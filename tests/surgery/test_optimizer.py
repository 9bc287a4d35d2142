"""The state of an optimiser is sliced with its parameters."""

import pytest
import torch
from tests.zoo_graphs import understood

from sartor.errors import BadInput
from sartor.structure.example import call, tensors
from sartor.surgery import apply_edits, carry_optimizer, edits_for, silence
from sartor.testing.plans import halves


def trained_a_little(model, example, make):
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        sum(t.square().mean() for t in tensors(call(model, example))).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.001, weight_decay=0.01),
        lambda p: torch.optim.RMSprop(p, 0.001),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
@pytest.mark.parametrize("name", ["resnet", "tied-linear", "grouped"])
def test_state_is_sliced_like_its_parameter_and_options_stay(name, make):
    model, example, graph = understood(name)
    model = silence(model, graph, halves(graph))  # any copy would do
    optimizer = trained_a_little(model, example, make)
    before = optimizer.state_dict()
    edits = edits_for(model, graph, halves(graph))
    smaller = apply_edits(model, edits)
    carried = carry_optimizer(optimizer, model, smaller, edits)
    assert type(carried) is type(optimizer)
    for old, new in zip(optimizer.param_groups, carried.param_groups):
        assert {k: v for k, v in old.items() if k != "params"} == {k: v for k, v in new.items() if k != "params"}
        assert {id(p) for p in new["params"]} == {id(p) for p in smaller.parameters()}
    names = {id(p): n for n, p in smaller.named_parameters()}
    olds = dict(model.named_parameters())
    for p, state in carried.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim():
                want = optimizer.state[olds[names[id(p)]]][key]
                for d, kept in edits.slices.get(names[id(p)], {}).items():
                    want = want.index_select(d, torch.tensor(kept))
                assert torch.equal(value, want) and value.shape == p.shape
    assert str(optimizer.state_dict()) == str(before)
    carried.zero_grad()
    sum(t.square().mean() for t in tensors(call(smaller, example))).backward()
    carried.step()


def test_a_foreign_optimiser_is_refused():
    model, _, graph = understood("resnet")
    edits = edits_for(model, graph, halves(graph))
    smaller = apply_edits(model, edits)
    foreign = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], 0.1)
    with pytest.raises(BadInput, match="not the model's"):
        carry_optimizer(foreign, model, smaller, edits)
