"""Images in folders that are named after their class."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sartor.errors import BadInput, CorruptFile, MissingExtra
from sartor.sources.cifar import IMAGENET_MEAN, IMAGENET_STD
from sartor.sources.registry import Parts
from sartor.sources.spec import Spec, choice, numbers, whole

FOLDER_OPTIONS = ("size", "resize", "mean", "std", "augment")


def read_folder(spec: Spec) -> Parts:
    """'imagefolder:DIR': DIR/train/CLASS/*.jpg, or DIR/CLASS/*.jpg; DIR/val (or valid) and DIR/test if they exist.

    Images are read when a batch is taken. Options: size, side of the square input in pixels (default 224); resize, the
    shorter side before the centre crop (default size / 0.875); mean and std after scaling to [0, 1] (default: those of
    ImageNet); augment=crop-flip (default: random resized crop and horizontal flip) or none.

    Raises:
        MissingExtra: torchvision is not installed.
        BadInput: no images, or parts whose classes differ.
    """
    root = Path(spec.rest)
    if not root.is_dir():
        raise BadInput(f"imagefolder: no folder {str(root)!r}")
    size = whole(spec, "size", 224)
    resize = whole(spec, "resize", round(size / 0.875))
    if resize < size:
        raise BadInput(f"imagefolder: expected resize >= size; got resize={resize} and size={size}")
    mean, std = numbers(spec, "mean", IMAGENET_MEAN), numbers(spec, "std", IMAGENET_STD)
    assert mean is not None and std is not None
    augmented = choice(spec, "augment", ("crop-flip", "none"), "crop-flip") != "none"
    parts: dict[str, FolderSamples] = {}
    classes: list[str] = []
    for part, names in (("train", ("train", "")), ("val", ("val", "valid")), ("test", ("test",))):
        place = next((root / name for name in names if (root / name).is_dir()), None)
        if place is None or (part != "train" and not (root / "train").is_dir()):
            continue
        listing, own_classes = _listing(place)
        if part == "train":
            classes = own_classes
        elif own_classes != classes:
            differ = sorted(set(own_classes) ^ set(classes))
            raise BadInput(f"imagefolder: {place} and the train part differ in classes: {', '.join(differ[:5])}")
        parts[part] = FolderSamples(
            listing, size=size, resize=resize, mean=mean, std=std, augment=augmented and part == "train"
        )
    return Parts(
        train=parts["train"],
        labels=parts["train"].targets,
        val=parts.get("val"),
        test=parts.get("test"),
        classes=tuple(classes),
        name=str(root),
    )


class FolderSamples:
    """Images on disk, decoded by several threads when they are taken.

    Args:
        listing: (path, class number) of every image.
        size: side of the square input, in pixels.
        resize: shorter side before the centre crop, in pixels.
        mean, std: one number for each of red, green and blue.
        augment: whether `take` crops and flips at random.
    """

    def __init__(
        self,
        listing: Sequence[tuple[str, int]],
        *,
        size: int,
        resize: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
    ):
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise BadInput(f"imagefolder: expected three means and three std > 0; got {list(mean)} and {list(std)}")
        self.paths = [path for path, _ in listing]
        self.targets = torch.tensor([label for _, label in listing], dtype=torch.int64)
        self.size, self.resize, self.augment = size, resize, augment
        self._shift = torch.tensor(mean).reshape(3, 1, 1) * 255
        self._factor = 1 / (torch.tensor(std).reshape(3, 1, 1) * 255)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(images float32 [n, 3, size, size], targets [n]); augmentation draws five random numbers per image."""
        draws: list[Any] = [None] * len(indices)
        if generator is not None and self.augment:
            draws = torch.rand(len(indices), 5, generator=generator).tolist()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            images = list(threads.map(self._one, indices.tolist(), draws))
        return torch.stack(images), self.targets[indices]

    def _one(self, index: int, draw: list[float] | None) -> Tensor:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as e:
            raise CorruptFile(f"imagefolder: {path} is no readable image ({e})") from e
        box = (
            centre_box(image.width, image.height, self.size / self.resize)
            if draw is None
            else random_box(image.width, image.height, draw)
        )
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if draw is not None and draw[4] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32)
        return pixels.sub_(self._shift).mul_(self._factor).contiguous()


def centre_box(width: int, height: int, share: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the centred square whose side is `share` of the shorter side.

    >>> centre_box(200, 100, 0.5)
    (75.0, 25.0, 125.0, 75.0)
    """
    half = min(width, height) * share / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def random_box(width: int, height: int, draw: Sequence[float]) -> tuple[float, float, float, float]:
    """A random box in the image: 8 % to 100 % of its area, aspect ratio 3:4 to 4:3.

    Args:
        width, height: of the image, in pixels.
        draw: random numbers in [0, 1) for area, aspect ratio, left, top; further numbers are ignored.

    Returns:
        (left, top, right, bottom) inside the image.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6. A box larger than the image is clipped to it; torchvision
    draws another one.
    """
    area = width * height * (0.08 + 0.92 * draw[0])
    ratio = math.exp((2 * draw[1] - 1) * math.log(4 / 3))
    w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = draw[2] * (width - w), draw[3] * (height - h)
    return left, top, min(width, left + w), min(height, top + h)


def _listing(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """((path, class number) of every image in a fixed order, class names)."""
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        raise MissingExtra("torchvision", "images", "the data source 'imagefolder:'") from None
    try:
        images = ImageFolder(str(folder))
    except (FileNotFoundError, RuntimeError) as e:
        raise BadInput(f"imagefolder: expected {folder}/CLASS/*.jpg (or another image type); {e}") from None
    return list(images.samples), list(images.classes)
