"""Explanations of why units are tied."""

import pytest
from tests.zoo_graphs import understood

import sartor
from sartor.errors import UnknownName
from sartor.structure import explain
from sartor.testing.zoo import ZOO, cases


def graph_of(name):
    return understood(name)[2]


def texts(explanation):
    return [s.text for chain in explanation.chains for s in chain.steps]


def test_two_writers_of_a_stream_are_tied_by_the_sum():
    assert texts(sartor.explain(graph_of("resnet"), "0.0", "1.conv2")) == [
        "0.0 (conv2d) writes them",
        "0.1 normalises them",
        "add in 1 adds them, unit by unit, to what 1.bn2 gives",
        "1.bn2 normalises them",
        "1.conv2 (conv2d) writes them",
    ]


def test_a_writer_and_its_reader():
    found = explain(graph_of("resnet"), "1.conv1.weight", "1.conv2.weight:1")
    assert texts(found) == ["1.conv1 (conv2d) writes them", "1.bn1 normalises them", "1.conv2 (conv2d) reads them"]
    assert str(found).splitlines()[0] == (
        "1.conv1.weight and 1.conv2.weight:1 share 8 units of the group 1.conv1 (channels):"
    )


def test_layers_may_share_several_groups():
    graph = graph_of("transformer-encoder")
    found = explain(graph, "layer.self_attn.in_proj_weight", "layer.self_attn.out_proj")
    assert [c.kind for c in found.chains] == ["embedding width", "heads", "head dimension"]
    heads = found.chains[1]
    assert heads.steps[0].text == "layer.self_attn (linear) writes them"
    assert any("uses them in attention" in s.text for s in heads.steps)
    assert heads.steps[-1].text.endswith("reads them")


def test_layers_that_share_nothing_are_told_so():
    assert "share no group" in str(explain(graph_of("resnet"), "1.conv1", "3.conv2"))


def test_the_axes_of_a_layer_are_told_frozen_ones_with_their_reason():
    said = str(explain(graph_of("resnet"), "0.0.weight"))
    assert "0.0.weight:0 holds 8 channels of 0.0" in said
    assert "0.0.weight:1 stays whole: an input of the model" in said


def test_equal_counts_are_told():
    graph = graph_of("cifar-resnet-pad")
    assert "equally many units" in str(explain(graph, graph.ties[0][0]))


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(UnknownName, match=r"Did you mean '1.conv1'\?"):
        explain(graph_of("resnet"), "1.convv1")


@pytest.mark.parametrize("name", [c.name for c in cases()])
def test_every_member_is_reached_from_every_other(name):
    graph = graph_of(name)
    for group in graph.groups.values():
        chain = explain(graph, group.name).chains[0]
        assert (chain.steps or len(group.members) == 1) and all(s.operator for s in chain.steps)
        first, last = (f"{m.tensor}:{m.dim}" for m in (group.members[0], group.members[-1]))
        assert group.name in {c.group for c in explain(graph, first, last).chains}
        assert all(s.operator for c in explain(graph, first, last).chains for s in c.steps), (first, last)


def test_explaining_leaves_the_graph_as_it_was():
    case = ZOO["transformer-encoder"].value
    graph = sartor.trace(case.build(), case.example())
    before = [(repr(v.axes), dict(v.roles)) for op in graph.ops for v in op.inputs]
    for name in graph.groups:
        explain(graph, name)
    assert before == [(repr(v.axes), dict(v.roles)) for op in graph.ops for v in op.inputs]
