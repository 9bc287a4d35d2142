"""Edits are a cut as data: they can be saved as JSON and applied to a new instance."""

import json

import pytest
import torch
from tests.zoo_graphs import understood

import sartor
from sartor.errors import BadInput, CorruptFile
from sartor.export.weights import load_weights_, save_weights
from sartor.run.folder import adopt
from sartor.structure.model_copy import named_tensors
from sartor.surgery import Edits, apply_edits, cut, edits_for
from sartor.testing.plans import halves
from sartor.testing.zoo import ZOO, cases
from sartor.types import Plan

NAMES = [c.name for c in cases() if understood(c.name)[2].groups]


@pytest.mark.parametrize("name", NAMES)
def test_plan_and_edits_survive_json_and_weights_load_bit_for_bit(name, tmp_path):
    model, _, graph = understood(name)
    plan = halves(graph)
    assert Plan.from_json(plan.to_json()) == plan
    edits = edits_for(model, graph, plan)
    again = Edits.from_json(edits.to_json())
    assert again == edits
    smaller = cut(model, graph, plan)
    save_weights(smaller, tmp_path / "w.safetensors")
    fresh = apply_edits(ZOO[name].value.build(), again)
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(1.0)
    load_weights_(fresh, tmp_path / "w.safetensors")
    for (*_, one, a), (*_, other, b) in zip(named_tensors(smaller), named_tensors(fresh)):
        assert one == other and torch.equal(a, b) and a.dtype == b.dtype
    save_weights(fresh, tmp_path / "again.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_nothing_is_shared_between_the_model_and_its_cut():
    model, _, graph = understood("resnet")
    smaller = cut(model, graph, halves(graph))
    ours = {t.untyped_storage().data_ptr() for *_, t in named_tensors(model)}
    assert not ours & {t.untyped_storage().data_ptr() for *_, t in named_tensors(smaller) if t.numel()}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"tensors": 3, "attributes": []}', '{"tensors": {"a": {}}, "attributes": []}']
)
def test_damaged_edits_are_refused(text):
    with pytest.raises(CorruptFile):
        Edits.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("3", "edits: expected a table; got 3"),
        ('{"tensors": {}}', "edits field 'attributes' is missing"),
        (
            '{"tensors": {"a": {"shape": [3], "keep": {"0": [1, "x"]}}}, "attributes": []}',
            r"'tensors\.a\.keep\.0\.1': .*'x'",
        ),
        ('{"tensors": {"a": {"shape": [3], "keep": {"0": "x"}}}, "attributes": []}', "expected a list or a table"),
        ('{"tensors": {}, "attributes": [["a", 3, 4]]}', r"'attributes\.0\.1': expected text; got 3"),
        ('{"tensors": {}, "attributes": [], "code": "x"}', "'code' does not exist"),
        ('{"format": 9, "tensors": {}, "attributes": []}', "A newer Sartor"),
        ('{"tensors": {}, "attributes": [], "forwards": {"m": {"format": 1}}}', r"forwards\.m\..*inputs.* is missing"),
    ],
)
def test_a_damaged_field_of_edits_is_named(text, message):
    with pytest.raises(CorruptFile, match=message):
        Edits.from_json(text)


def test_an_operator_that_does_not_exist_is_refused_with_its_step():
    steps = '[["aten::nothing.default", [], {}, [0], []]]'
    program = (
        f'{{"format": 1, "inputs": [], "same": [], "plain": [[], {{}}], "output": {{"slot": 0}}, "steps": {steps}}}'
    )
    with pytest.raises(CorruptFile, match=r"step 0: expected an operator such as .*; got 'aten::nothing\.default'"):
        Edits.from_json(f'{{"tensors": {{}}, "attributes": [], "forwards": {{"m": {program}}}}}')


@pytest.mark.parametrize("name", ["resnet", "transformer-encoder"])
def test_edits_of_format_1_did_not_say_it_and_still_load(name, tmp_path):
    model, _, graph = understood(name)
    plan = halves(graph)
    edits, smaller = edits_for(model, graph, plan), cut(model, graph, plan)
    raw = json.loads(edits.to_json())
    assert raw.pop("format") == 2 and raw.pop("sartor")
    (tmp_path / "edits.json").write_text(json.dumps(raw))
    save_weights(smaller, tmp_path / "model.safetensors")
    (tmp_path / "plan.json").write_text(plan.to_json())
    adopt(tmp_path)  # such folders had no manifest
    loaded = sartor.load(tmp_path, ZOO[name].value.build())
    assert Edits.from_json(json.dumps(raw)) == edits
    for (*_, one, a), (*_, other, b) in zip(named_tensors(smaller), named_tensors(loaded)):
        assert one == other and torch.equal(a, b)


def test_weights_of_another_network_are_refused_before_anything_is_copied(tmp_path):
    model, _, graph = understood("resnet")
    save_weights(cut(model, graph, halves(graph)), tmp_path / "w.safetensors")
    fresh = ZOO["resnet"].value.build()
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    with pytest.raises(BadInput, match="another shape"):
        load_weights_(fresh, tmp_path / "w.safetensors")
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())
    with pytest.raises(BadInput, match="no such file"):
        load_weights_(fresh, tmp_path / "none.safetensors")
