"""Sparse weights as files: exact to the bit, bytes as counted."""

import json
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sartor
from sartor.errors import BadInput, CorruptFile
from sartor.sparse.patterns import project, projection_of
from sartor.sparse.sparse_file import load_sparse_, save_sparse
from sartor.sparse.storage import Packed, pack, smallest, unpack
from sartor.sparse.weight_layers import WeightLayer, weight_layers
from sartor.types.weights import NM, Elements, GatherScatter

LAYERS = {
    "conv": WeightLayer("conv", (8, 16, 3, 3), 0, 1, 0),
    "transposed": WeightLayer("transposed", (16, 8, 2, 2), 1, 0, 0),
    "linear": WeightLayer("linear", (4, 400), 0, 1, 0),
}
FORMS = {"bitmap": (Elements(), None), "csr": (Elements(), None), "n:m": (NM(2, 4), NM(2, 4)),
         "packs": (GatherScatter(16, 4), GatherScatter(16, 4))}  # fmt: skip


def example(layer, how, share=0.2, dtype=torch.float32, seed=0):
    """A masked weight whose mask has a pattern; one live weight is 0 and one is -0."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(layer.shape, generator=g)
    pattern, scores = projection_of(how), layer.view(weight.abs())
    live = pattern.sizes(tuple(scores.shape)).at_most(int(share * layer.size))
    mask = layer.unview(project(pattern, scores, live)).contiguous()
    places = mask.nonzero()
    weight[tuple(places[0])], weight[tuple(places[1])] = 0.0, -0.0
    return weight.masked_fill(~mask, 0).to(dtype), mask


def bits(t):
    return t.contiguous().flatten().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_packing_is_exact_to_the_bit_and_takes_the_bytes_of_its_formula(form, name, dtype):
    layer, (how, pattern) = LAYERS[name], FORMS[form]
    weight, mask = example(layer, how, dtype=dtype)
    packed = pack(layer, weight, mask, form, pattern)
    again, live = unpack(layer, packed)
    assert torch.equal(bits(again), bits(weight)) and torch.equal(live, mask)
    rows, columns, count, b = packed.rows, packed.columns, int(mask.sum()), weight.element_size()
    column = 1 if columns <= 256 else 2
    places = {
        "bitmap": math.ceil(layer.size / 8),
        "csr": count * column + 4 * (rows + 1),
        "n:m": math.ceil(count * 2 / 8),
        "packs": count * column + 4 * (rows // 4 + 1),
    }
    assert packed.nbytes == count * b + places[form]


@given(st.integers(0, 10**6), st.floats(0.001, 1), st.sampled_from(list(LAYERS)))
@settings(max_examples=25, deadline=None)
def test_any_mask_survives_the_smaller_of_two_forms(seed, share, name):
    layer = LAYERS[name]
    weight = torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed))
    mask = weight.abs() < share * 3
    weight = weight.masked_fill(~mask, 0)
    packed = smallest(layer, weight, mask)
    again, live = unpack(layer, packed)
    assert torch.equal(bits(again), bits(weight)) and torch.equal(live, mask)
    assert packed.nbytes <= min(pack(layer, weight, mask, f).nbytes for f in ("bitmap", "csr"))


def test_a_dead_weight_that_is_not_zero_and_a_mask_without_the_pattern_are_refused():
    layer = LAYERS["linear"]
    weight, mask = example(layer, Elements())
    with pytest.raises(BadInput, match="a dead weight is not"):
        pack(layer, weight + 1, mask, "csr")
    with pytest.raises(BadInput, match="2 live of every 4"):
        pack(layer, weight, mask, "n:m", NM(2, 4))
    with pytest.raises(BadInput, match="expected the pattern"):
        pack(layer, weight, mask, "packs")
    with pytest.raises(BadInput, match="whole packs"):
        pack(layer, weight, mask, "packs", GatherScatter(16, 4))


@pytest.mark.parametrize("form", FORMS)
def test_damaged_parts_are_refused(form):
    layer, (how, pattern) = LAYERS["conv"], FORMS[form]
    packed = pack(layer, *example(layer, how), form, pattern)
    for name, t in packed.parts.items():
        others = {n: v for n, v in packed.parts.items() if n != name}
        shorter = {**others, name: t[:-1]}
        broken = [others, shorter]
        if name in ("columns", "starts"):
            broken += [
                {**others, name: torch.full_like(t, torch.iinfo(t.dtype).max)},
                {**others, name: torch.full_like(t, 127)},
            ]
        for parts in broken:
            with pytest.raises(CorruptFile):
                unpack(layer, Packed(form, parts, packed.rows, packed.columns, packed.pattern))
    with pytest.raises(CorruptFile, match="does not fit"):
        unpack(layer, Packed(form, packed.parts, packed.rows + 1, packed.columns, packed.pattern))


def network(pattern):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16)).eval()
    layers = {x.name: x for x in weight_layers(sartor.trace(model, torch.randn(1, 16, 4, 4)))}
    masks = {}
    with torch.no_grad():
        for name, layer in layers.items():
            weight, masks[name] = example(layer, pattern, 0.1)
            model.get_parameter(name).copy_(weight)
    return model, layers, masks


@pytest.mark.parametrize("pattern", [Elements(), NM(1, 4), GatherScatter(16, 4)])
def test_a_file_gives_back_the_network_and_holds_the_bytes_that_are_counted(pattern, tmp_path):
    model, layers, masks = network(pattern)
    counted = save_sparse(model, masks, layers, tmp_path / "sparse.safetensors", pattern)
    content = (tmp_path / "sparse.safetensors").read_bytes()
    (head,) = struct.unpack("<Q", content[:8])
    dense = sum(t.numel() * t.element_size() for n, t in model.state_dict().items() if n not in masks)
    assert len(content) - 8 - head == sum(counted.values()) + dense
    held = {k: v["data_offsets"] for k, v in json.loads(content[8 : 8 + head]).items() if k != "__metadata__"}
    for name, size in counted.items():
        assert sum(b - a for k, (a, b) in held.items() if k.startswith(f"{name}:")) == size
        assert size < 4 * layers[name].size / 2
    other = network(Elements())[0]
    nn.init.ones_(other[0].bias)
    loaded = load_sparse_(other, tmp_path / "sparse.safetensors")
    assert all(torch.equal(loaded[n], m) for n, m in masks.items())
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values()))


def test_files_that_do_not_fit_or_are_not_of_this_kind_are_refused_and_change_nothing(tmp_path):
    model, layers, masks = network(Elements())
    path = tmp_path / "sparse.safetensors"
    save_sparse(model, masks, layers, path)
    other = nn.Sequential(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 15))
    before = [t.clone() for t in other.state_dict().values()]
    with pytest.raises((BadInput, CorruptFile), match="fit"):
        load_sparse_(other, path)
    assert all(torch.equal(a, b) for a, b in zip(before, other.state_dict().values()))
    with pytest.raises(BadInput, match="no such file"):
        load_sparse_(model, tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptFile):
        load_sparse_(model, path)
    torch.save(model.state_dict(), path)
    with pytest.raises(CorruptFile):
        load_sparse_(model, path)
    with pytest.raises(BadInput, match="no parameter"):
        save_sparse(nn.Linear(2, 2), masks, layers, path)
