"""Random crop and horizontal flip of whole batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.errors import BadInput


def crop_flip(images: Tensor, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Shift every image by up to `pad` pixels, filling with zeros, and flip it horizontally with probability 1/2.

    Args:
        images: [n, channels, height, width], any data type; not modified. Zero is black before normalisation.
        generator: of random numbers, on the CPU.
        pad: pixels, >= 0.

    Returns:
        [n, channels, height, width] of the same data type. Every value is one of the same image, or zero.

    Raises:
        BadInput: not four-dimensional.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2 (there from Lee et al. 2015).
    """
    if images.dim() != 4:
        raise BadInput(f"crop and flip: expected images [n, channels, height, width]; got {list(images.shape)}")
    n, _, height, width = images.shape
    windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
    mirror = torch.randint(0, 2, (n, 1, 1, 1), generator=generator, dtype=torch.bool)
    shifted = windows[torch.arange(n), :, top, left]
    return torch.where(mirror, shifted.flip(3), shifted)
