"""Every registered criterion against the plain definition of its paper, on maps of three kinds of networks.

Where ours differs from the paper on purpose, `STATED` says in what; the definition in `paper_definitions` then has the
same difference, and the docstring of the criterion states it.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.importance import paper_definitions
from tests.importance.paper_definitions import Units, seen
from torch import nn

from sartor.importance import CRITERIA, scores
from sartor.structure import trace
from sartor.testing.families import settled_
from sartor.testing.zoo import ZOO
from sartor.types import SILENT, Calibration, Scaling

N = 12
TOLERANCE = 1e-6  # relative to the largest score of the group
STATED = {  # criterion -> what differs from its paper, as its docstring says it
    "ablation": "the oracle is the (absolute) change of",
    "activation": "there the variance and the mean",
    "bn-scale": "trained with an L1 penalty first",
    "chex-leverage": "There k is the count that stays",
    "chex-residual": "each filter is measured against all others",
    "chip": "theirs takes a decomposition a channel, after rounding",
    "fisher": "this is the sum over single weights",
    "flap": "divided by n - 1, here by n",
    "group-fisher": "divide by the memory that a unit frees",
    "hesso": "each tensor is scored by itself and the",
    "hrank": "folded to the rectangle nearest to a square",
    "hrel": "here each mini-batch takes its own",
    "l1": "where only the filters that write a unit are read",
    "l2": "where only the filters that write a unit are read",
    "lamp": "unit is a single weight",
    "median": "they continue with the sum of distances",
    "movement": "there over the steps of a fine-tuning",
    "oto": "scored by itself, once, and N runs over its layer",
    "random": "the baseline that a criterion has to beat",
    "reconstruction": "The sensitivity is ours",
    "taylor": "with the gradient averaged over a mini-batch",
    "taylor2": "losses are means over samples here, sums there",
    "wanda": "is divided by the square root of the number of values",
}
EXACT = {"apoz", "fpgm"}  # nothing differs
ONE_READER = {"reconstruction"}  # compared where one operator reads, up to the sensitivity of that operator
ROUNDED = {"reconstruction": 1e-5}  # reads rows in single precision
NORMED = {"bn-scale"}  # compared where batch norms scale the units


def each(first, count):
    """[[first], [first + 1], ...]: one channel a unit."""
    return [[first + i] for i in range(count)]


def resnet20():
    """Trained weights and CIFAR images if SARTOR_DATA is set; half the image size, to be quick."""
    file = Path(__file__).parents[2] / "bench" / "cifar_resnet.py"
    spec = importlib.util.spec_from_file_location("cifar_resnet_of_definitions", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, x = settled_(module.resnet20()), torch.randn(N, 3, 16, 16)
    if folder := os.environ.get("SARTOR_DATA"):
        from safetensors.torch import load_file

        from sartor.sources import load_data

        model.load_state_dict(load_file(Path(folder) / "weights" / "resnet20-cifar10.safetensors"))
        images = next(iter(load_data(f"cifar10:{folder}", batch=N).val))[0]
        x = nn.functional.avg_pool2d(images[:N], 2)
    inner = Units(
        writers={"layer1.0.conv1.weight": each(0, 16)}, readers={"layer1.0.conv2": each(0, 16)},
        norms={"layer1.0.bn1.weight": range(16)}, behind={"layer1.0.conv2": "layer1.0.bn2"},
    )  # fmt: skip
    second, third = [f"layer2.{i}" for i in range(3)], [f"layer3.{i}" for i in range(3)]
    stream = Units(  # the channels that stage 2 puts before those of stage 1; stage 3 puts 16 channels before them
        writers={f"{b}.conv2.weight": each(0, 8) for b in second} | {f"{b}.conv2.weight": each(16, 8) for b in third},
        readers={f"{b}.conv1": each(0, 8) for b in (*second[1:], third[0])}
        | {f"{b}.conv1": each(16, 8) for b in third[1:]}
        | {"linear": each(16, 8)},
        norms={f"{b}.bn2.weight": range(8) for b in second} | {f"{b}.bn2.weight": range(16, 24) for b in third},
        behind={f"{b}.conv1": f"{b}.bn1" for b in (*second[1:], *third)},
    )
    return model, x, {"layer1.0.conv1": inner, "layer2.0.conv2": stream}


def inverted_residuals():
    hidden = Units(
        writers={"1.body.0.0.weight": each(0, 16), "1.body.1.0.weight": each(0, 16)},
        readers={"1.body.3.0": each(0, 16)}, passes={"1.body.1.0": each(0, 16)},
        norms={"1.body.0.1.weight": range(16), "1.body.1.1.weight": range(16)},
        behind={"1.body.1.0": "1.body.1.1", "1.body.3.0": "1.body.3.1"},
    )  # fmt: skip
    stream = Units(
        writers={"0.0.weight": each(0, 8), "1.body.3.0.weight": each(0, 8)},
        readers={"1.body.0.0": each(0, 8), "2.body.0.0": each(0, 8)},
        norms={"0.1.weight": range(8), "1.body.3.1.weight": range(8)},
        behind={"1.body.0.0": "1.body.0.1", "2.body.0.0": "2.body.0.1"},
    )
    model = settled_(ZOO["mobilenet-v2"].value.build())
    return model, torch.randn(N, *ZOO["mobilenet-v2"].value.example().shape[1:]), {"1.body.0.0": hidden, "0.0": stream}


def vision_transformer():
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=12, patch_size=4, embed_dim=24, depth=1, num_heads=3, mlp_ratio=1.0, num_classes=10
    )
    heads = Units(
        writers={
            "blocks.0.attn.qkv.weight": [[24 * p + 8 * h + d for p in range(3) for d in range(8)] for h in range(3)]
        },
        readers={"blocks.0.attn.proj": [[8 * h + d for d in range(8)] for h in range(3)]},
    )  # fmt: skip
    hidden = Units(writers={"blocks.0.mlp.fc1.weight": each(0, 24)}, readers={"blocks.0.mlp.fc2": each(0, 24)})
    return settled_(model), torch.randn(N, 3, 12, 12), {"blocks.0.attn.qkv": heads, "blocks.0.mlp.fc1": hidden}


NETWORKS = {"resnet20": resnet20, "inverted-residuals": inverted_residuals, "vit": vision_transformer}


@cache
def shown(network):
    """The network, its graph, the groups by hand, and what it showed."""
    torch.manual_seed(0)
    model, x, groups = NETWORKS[network]()
    model, x = model.double().eval(), x.double()
    labels = torch.tensor([0, 1, 2] * (N // 3))
    return trace(model, x[:2]).only(groups), groups, seen(model, x, labels, groups.values())


@cache
def computed(network):
    """criterion -> group -> scores, in batches of 1, 4 and 7 samples."""
    graph, _, s = shown(network)
    batches = [(s.x[low:high], s.labels[low:high]) for low, high in ((0, 1), (1, 5), (5, 12))]
    scaling = Scaling(reduce="producer", normalise="none")
    names = [n for n in CRITERIA if n not in NORMED or network != "vit"]
    return scores(graph, s.model, names, calibration=Calibration(batches), scaling=scaling, listener=SILENT)


def compared(name, network):
    """group -> (ours, the definition) of the groups where the definition applies."""
    _, groups, s = shown(network)
    define = getattr(paper_definitions, name.replace("-", "_"))
    pairs = {}
    for group, units in groups.items():
        if (name in ONE_READER and len(units.readers) > 1) or (name in NORMED and not units.norms):
            continue
        got = computed(network)[name][group]
        pairs[group] = (got / got.max() if name in ONE_READER else got, define(s, units).detach())
    return pairs


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_criterion_is_what_its_paper_defines(name, network):
    if name == "random":
        values = computed(network)[name].values()
        assert all(((v >= 0) & (v < 1)).all() and v.unique().numel() == v.numel() for v in values)
        return
    if name in NORMED and network == "vit":
        pytest.skip("layer norms alone")
    pairs = compared(name, network)
    assert pairs
    for group, (got, want) in pairs.items():
        error = float((got - want).abs().max() / want.abs().max())
        assert error <= ROUNDED.get(name, TOLERANCE), (group, error, got, want)


@pytest.mark.parametrize("name", list(CRITERIA))
def test_what_differs_from_the_paper_is_stated_in_the_docstring(name):
    assert (name in STATED) != (name in EXACT), f"{name}: enter it in STATED or in EXACT"
    words = " ".join(CRITERIA[name].value.function.__doc__.split())
    assert STATED.get(name, "Source:") in words
    assert not (STATED.keys() | EXACT) - set(CRITERIA)
