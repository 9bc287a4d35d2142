"""Losses of a gated network that need no labels: its distance from the original network's outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sartor.errors import BadInput


def divergence(got: Tensor, want: Tensor) -> Tensor:
    """KL(softmax(want) || softmax(got)), mean over samples and positions; needs no labels.

    Args:
        got: logits [n, classes] or [n, classes, ...] of the gated network.
        want: the original's, of the same shape.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.1, at temperature 1.

    >>> import torch
    >>> divergence(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
    tensor(0.3278)
    """
    if got.dim() < 2:
        raise BadInput(f"gates, task 'distill': expected logits [n, classes]; got {list(got.shape)}. Use task 'gap'")
    log_q, log_p = F.log_softmax(got.float(), 1), F.log_softmax(want.float(), 1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / (got.numel() // got.shape[1])


def relative_gap(got: Tensor, want: Tensor) -> Tensor:
    """Squared distance of two outputs relative to the squared size of the second: 0 is equal, 1 is like zeros.

    >>> import torch
    >>> relative_gap(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor(0.2000, dtype=torch.float64)
    """
    near = want.double().square().sum()
    far = (got.double() - want.double()).square().sum()
    return far / near if near > 0 else far
