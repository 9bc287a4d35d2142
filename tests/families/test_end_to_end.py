"""Ten published families from code or configuration, from end to end: fitted, proved, saved, loaded, trained a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sartor
from sartor.structure.example import call, tensors
from sartor.testing.families import settled_

Build = Callable[[], nn.Module]
FAMILIES: dict[str, tuple[Build, Callable[[], Any]]] = {}


def family(name: str, example: Callable[[], Any]) -> Callable[[Build], Build]:
    """Add one network: a function that builds it, and one that makes its example inputs."""

    def add(build: Build) -> Build:
        FAMILIES[name] = build, example
        return build

    return add


def images(size: int, batch: int = 2) -> Callable[[], Tensor]:
    return lambda: torch.randn(batch, 3, size, size)


def words(**lengths: int) -> Callable[[], dict[str, Tensor]]:
    """Token numbers by the name of the argument."""
    return lambda: {name: torch.randint(3, 60, (2, n)) for name, n in lengths.items()}


def timm_model(name: str, **options: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=10, **options)


def language_model(config: str, head: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, head)(getattr(transformers, config)(vocab_size=64, **options))


@family("resnet18", images(64))
def resnet18() -> nn.Module:
    return pytest.importorskip("torchvision").models.resnet18(num_classes=10)


@family("mobilenetv3", images(64))
def mobilenetv3() -> nn.Module:
    return timm_model("mobilenetv3_small_050")


@family("efficientnet", images(64))
def efficientnet() -> nn.Module:
    models = pytest.importorskip("torchvision").models.efficientnet
    blocks = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 1), (6, 3, 2, 40, 80, 1)]
    return models.EfficientNet([models.MBConvConfig(*block) for block in blocks], dropout=0.2, num_classes=10)


@family("convnext", images(64))
def convnext() -> nn.Module:
    return timm_model("convnext_atto", depths=(1, 1, 2, 1))


@family("vit", images(64))
def vit() -> nn.Module:
    return timm_model("vit_tiny_patch16_224", img_size=64, depth=3)


@family("swin", images(64))
def swin() -> nn.Module:
    return timm_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=32, depths=(1, 1, 2), num_heads=(1, 2, 4)
    )


@family("densenet", images(64))
def densenet() -> nn.Module:
    models = pytest.importorskip("torchvision").models
    return models.DenseNet(growth_rate=16, block_config=(3, 4, 4, 3), num_init_features=32, num_classes=10)


@family("lraspp", images(64))
def lraspp() -> nn.Module:
    segmentation = pytest.importorskip("torchvision").models.segmentation
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)


@family("bert", words(input_ids=16))
def bert() -> nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return language_model("BertConfig", "BertForSequenceClassification", **sizes)


@family("t5", words(input_ids=16, decoder_input_ids=8))
def t5() -> nn.Module:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
    return language_model("T5Config", "T5ForConditionalGeneration", **sizes)


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Every floating-point tensor of one forward, in order."""
    return [t for t in tensors(call(model, example)) if t.is_floating_point()]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_fitted_from_end_to_end(name: str, tmp_path: Path) -> None:
    build, inputs = FAMILIES[name]
    torch.manual_seed(0)
    original, example = settled_(build().eval()), inputs()
    before = {n: t.clone() for n, t in original.state_dict().items()}
    fitted = sartor.fit(original, example=example, budget="macs<=60%", recipe="l1")
    assert all(torch.equal(t, before[n]) for n, t in original.state_dict().items())

    # The proof passed, and the budget is met by the network itself, not only by its plan.
    assert fitted.met and fitted.proof.passed
    whole, rest = (sartor.count(sartor.trace(m, example)).macs for m in (original, fitted.model))
    assert 0.5 * whole < rest <= 0.6 * whole

    # It is saved, and loads into a fresh network bit for bit.
    with torch.no_grad():
        expected = outputs(fitted.model.eval(), example)
        assert [t.shape for t in expected] == [t.shape for t in outputs(original, example)]
        loaded = sartor.load(fitted.save(tmp_path / "run"), build)
        state = fitted.model.state_dict()
        assert state.keys() == loaded.state_dict().keys()
        assert all(torch.equal(t, state[n]) for n, t in loaded.state_dict().items())
        assert all(map(torch.equal, outputs(loaded, example), expected))

    # A training step reaches every parameter that the original trains, and changes the network.
    loss = sum((t.square().mean() for t in outputs(fitted.model.train(), example)), torch.zeros(()))
    loss.backward()
    trained = {n for n, p in fitted.model.named_parameters() if p.grad is not None}
    sum((t.square().mean() for t in outputs(original.train(), example)), torch.zeros(())).backward()
    assert trained == {n for n, p in original.named_parameters() if p.grad is not None}
    assert all(p.grad.isfinite().all() for p in fitted.model.parameters() if p.grad is not None)
    torch.optim.SGD(fitted.model.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert not all(map(torch.equal, outputs(fitted.model.eval(), example), expected))


def test_ten_families() -> None:
    assert len(FAMILIES) == 10
