"""One small network of every model family of common libraries, for the discovery study.

The networks are built from code or configuration with random weights; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from sartor.errors import MissingExtra
from sartor.structure.example import Example
from sartor.torch_internals import BatchNorm

Build = Callable[[], tuple[nn.Module, Example]]

TIMM = (  # a small variant of every module of timm that has models
    "beit_base_patch16_224", "halonet_h1", "mobileone_s1", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "convnext_atto_rms", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla34", "dpn48b",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "tinynet_d", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_s12",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0",
    "hiera_tiny_224", "hieradet_small", "hrnet_w18_small", "iformer_s", "inception_next_atto", "inception_resnet_v2",
    "inception_v3", "inception_v4", "lcnetv2_small", "levit_384_s8", "lowformer_b0", "mambaout_femto",
    "maxvit_pico_rw_256", "caformer_s18", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilenetv5_base",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_siglip", "nasnetalarge", "nest_tiny", "nextvit_small",
    "nf_regnet_b0", "pit_ti_224", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnety_040_sgn",
    "repghostnet_050", "repvit_m1", "res2net50_26w_4s", "resnest14d", "resnet18", "resnetv2_18", "rexnet_100",
    "selecsls42", "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny", "vit_tiny_patch16_224",
    "vit_tiny_r_s16_p8_224", "vit_srelpos_small_patch16_224", "samvit_base_patch16_224", "vitamin_small_224",
    "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p", "xcit_nano_12_p8_224",
)  # fmt: skip
CLASSIFIERS = (
    "alexnet", "vgg11_bn", "squeezenet1_1", "densenet121", "googlenet", "inception_v3", "mobilenet_v2",
    "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "resnet18", "resnet50",
    "resnext50_32x4d", "wide_resnet50_2", "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0", "efficientnet_v2_s",
    "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
SEGMENTATION = (
    "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large",
)  # fmt: skip
VIDEO = {"r3d_18": 112, "mc3_18": 112, "r2plus1d_18": 112, "s3d": 224, "mvit_v2_s": 224, "swin3d_t": 112}
DETECTION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
)  # fmt: skip
GRAPHS: dict[str, dict[str, Any]] = {"GCN": {}, "GraphSAGE": {}, "GAT": {"heads": 4}, "GIN": {}, "EdgeCNN": {}}


def family_sets() -> dict[str, Callable[[], Mapping[str, Build]]]:
    """Name of a set -> its networks by name; the library of a set is imported only if the set is used."""
    return {
        "small": small,
        "timm": timm,
        "torchvision": torchvision,
        "transformers": transformers,
        "graph": graph,
        "field": field,
    }


def small() -> dict[str, Build]:
    """The zoo of this package."""
    from sartor.testing.zoo import cases

    return {c.name: partial(_case, c) for c in cases()}


def _case(case: Any) -> tuple[nn.Module, Example]:
    return case.build(), case.example()


def timm() -> dict[str, Build]:
    """One small variant of every family of timm.

    Raises:
        MissingExtra: timm is not installed.
    """
    _needs("timm")
    return {name: partial(_timm, name) for name in TIMM}


def _timm(name: str) -> tuple[nn.Module, Example]:
    import timm

    model = timm.create_model(name)
    config: Any = getattr(model, "default_cfg", None) or {}
    channels, *size = config.get("input_size", (3, 224, 224))
    if name.startswith("deepseek"):  # 256 is not a multiple of its patch size
        size = [224, 224]
    elif size[-1] > 384 and not config.get("fixed_input_size"):
        size = [256, 256]
    return model, torch.randn(1, channels, *size)


def torchvision() -> dict[str, Build]:
    """Classifiers, segmentation, video, detection and optical flow of torchvision.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    _needs("torchvision")
    found: dict[str, Build] = {name: partial(_classifier, name) for name in CLASSIFIERS}
    found |= {name: partial(_segmentation, name) for name in SEGMENTATION}
    found |= {name: partial(_video, name, size) for name, size in VIDEO.items()}
    found |= {name: partial(_detection, name) for name in DETECTION}
    return {**found, "raft_small": _raft}


def _classifier(name: str) -> tuple[nn.Module, Example]:
    import torchvision.models as models

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    return getattr(models, name)(**options), torch.randn(1, 3, size, size)


def _segmentation(name: str) -> tuple[nn.Module, Example]:
    import torchvision.models as models

    return getattr(models.segmentation, name)(weights=None, weights_backbone=None), torch.randn(1, 3, 128, 128)


def _video(name: str, size: int) -> tuple[nn.Module, Example]:
    import torchvision.models as models

    return getattr(models.video, name)(weights=None), torch.randn(1, 3, 16, size, size)


def _detection(name: str) -> tuple[nn.Module, Example]:
    import torchvision.models as models

    options: dict[str, Any] = {} if "ssd" in name or "320" in name else {"min_size": 256, "max_size": 256}
    options["box_score_thresh" if "rcnn" in name else "score_thresh"] = (
        0.0  # an untrained network would find nothing above the default
    )
    if "rcnn" in name:
        options |= {"box_detections_per_img": 8, "rpn_post_nms_top_n_test": 100}
    model = getattr(models.detection, name)(weights=None, weights_backbone=None, **options)
    return model, ([torch.rand(3, 256, 256)], [_objects()])


def _objects() -> dict[str, torch.Tensor]:
    """Training targets of a detector; in evaluation mode they are ignored."""
    corners = torch.tensor([[20.0, 30.0, 120.0, 160.0], [90.0, 60.0, 200.0, 220.0]])
    masks = torch.zeros(2, 256, 256, dtype=torch.uint8)
    masks[0, 30:160, 20:120], masks[1, 60:220, 90:200] = 1, 1
    points = torch.cat([corners[:, None, :2] + 40 + torch.arange(17.0)[None, :, None], torch.ones(2, 17, 1)], 2)
    return {"boxes": corners, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": points}


def _raft() -> tuple[nn.Module, Example]:
    import torchvision.models as models

    frames = torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)
    return models.optical_flow.raft_small(), {"image1": frames[0], "image2": frames[1], "num_flow_updates": 2}


def transformers() -> dict[str, Build]:
    """Networks of transformers, from small configurations.

    Raises:
        MissingExtra: transformers is not installed.
    """
    from sartor.testing.transformer_set import transformer_set

    _needs("transformers")
    return dict(transformer_set())


def graph() -> dict[str, Build]:
    """Graph networks of torch_geometric.

    Raises:
        MissingExtra: torch_geometric is not installed.
    """
    _needs("torch_geometric")
    return {name: partial(_graph, name, options) for name, options in GRAPHS.items()}


def field() -> dict[str, Build]:
    """Sequence, speech, detection, segmentation and diffusion networks; one whose package is missing says so."""
    from sartor.testing.field_set import PACKAGES, field_set

    _needs("transformers")
    return {name: partial(_built, build, PACKAGES.get(name, "transformers")) for name, build in field_set().items()}


def _built(build: Build, package: str) -> tuple[nn.Module, Example]:
    _needs(package)
    return build()


def _graph(name: str, options: dict[str, Any]) -> tuple[nn.Module, Example]:
    import torch_geometric.nn as networks

    return getattr(networks.models, name)(16, 64, 3, 7, **options), (torch.randn(20, 16), torch.randint(0, 20, (2, 60)))


def _needs(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtra(package, "zoo", f"the {package} set")


def settled_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give fresh weights the look of trained ones: statistics, scales and biases that are neither 0 nor 1.

    Depthwise convolutions that start so small that their input's differences would drown are made larger.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm) and module.running_var is not None:
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                assert module.running_mean is not None
                module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            elif isinstance(module, nn.Conv2d) and module.groups > 1:
                spread, target_spread = float(module.weight.std()), module.weight[0].numel() ** -0.5
                if 0 < spread < target_spread / 2:
                    module.weight.mul_(target_spread / spread)
        for p in model.parameters():
            if p.dim() <= 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
            elif not bool(p.any()):
                p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model
