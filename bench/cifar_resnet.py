"""The CIFAR ResNets of He et al. 2015, section 4.2 (arXiv:1512.03385): 6n + 2 layers, shortcuts without parameters.

    sartor fit --model bench/cifar_resnet.py:resnet56 ...
    SARTOR_DATA=... python bench/cifar_resnet.py        # loads the published weights and scores them

Names of parameters are those of the checkpoints described in bench/README.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (20, 32, 44, 56)


class PadShortcut(nn.Module):
    """Option A: every second position, and zero channels before and behind.

    The two numbers are attributes, so that a cut can change them: channels of the shortcut that are zero anyway may go
    independently of those that carry the earlier stage.
    """

    def __init__(self, before: int, behind: int):
        super().__init__()
        self.before, self.behind = before, behind

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, before + c + behind, ceil(h / 2), ceil(w / 2)]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))

    def extra_repr(self) -> str:
        """As printed by the module."""
        return f"before={self.before}, behind={self.behind}"


class Block(nn.Module):
    """conv3x3, norm, ReLU, conv3x3, norm; plus shortcut; ReLU."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        stride = 1 if cin == cout else 2
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        more = cout - cin
        self.shortcut = PadShortcut(more // 2, more - more // 2) if more else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[n, cin, h, w] -> [n, cout, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of n blocks with 16, 32 and 64 channels, global mean, linear classifier."""

    def __init__(self, depth: int, classes: int = 10):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth of a CIFAR ResNet: expected 6n + 2 with n >= 1; got {depth}")
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16) for _ in range(n)])
        self.layer2 = nn.Sequential(Block(16, 32), *[Block(32, 32) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(Block(32, 64), *[Block(64, 64) for _ in range(n - 1)])
        self.linear = nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet20(classes: int = 10) -> CifarResNet:
    """0.27 M parameters, 40.55 M multiply-accumulates of convolutions and classifier at 32 x 32."""
    return CifarResNet(20, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """0.46 M parameters."""
    return CifarResNet(32, classes)


def resnet44(classes: int = 10) -> CifarResNet:
    """0.66 M parameters."""
    return CifarResNet(44, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """0.85 M parameters, 125.49 M multiply-accumulates of convolutions and classifier at 32 x 32."""
    return CifarResNet(56, classes)


def data_folder() -> Path:
    """The folder named by SARTOR_DATA; see bench/README.md."""
    folder = os.environ.get("SARTOR_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit(f"SARTOR_DATA: expected the folder described in bench/README.md; got {folder!r}")
    return Path(folder)


def trained(depth: int) -> CifarResNet:
    """The network with the published weights, in eval mode."""
    from safetensors.torch import load_file

    model = CifarResNet(depth)
    model.load_state_dict(load_file(data_folder() / "weights" / f"resnet{depth}-cifar10.safetensors"), strict=True)
    return model.eval()


def main() -> None:
    """Print parameters and test accuracy of every published network."""
    from sartor.sources import load_data
    from sartor.train.evaluate import accuracy

    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    test = load_data(f"cifar10:{data_folder()}", batch=500).test
    batches = []
    for batch in test or ():
        if len(batches) * 500 >= samples:
            break
        batches.append(batch)
    for depth in DEPTHS:
        model = trained(depth)
        params = sum(p.numel() for p in model.parameters())
        with torch.no_grad():
            score = accuracy(model, batches)
        print(f"resnet{depth}: {params:,} parameters, top-1 {score:.2f} % on {500 * len(batches):,} test images")


if __name__ == "__main__":
    main()
