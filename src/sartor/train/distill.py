"""Knowledge distillation: learning from the outputs of a teacher network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sartor.errors import BadInput


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over samples.

    The factor T^2 keeps the magnitude of the gradient about equal for all temperatures.

    Args:
        student: logits [n, classes] or [n, classes, ...].
        teacher: logits of the same shape.
        temperature: T > 0; a larger T gives softer probabilities.

    Returns:
        A scalar >= 0 in float32; 0 exactly when both softmaxes agree.

    Raises:
        BadInput: the shapes differ.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, equation 1 and section 2.1. There the soft term is a cross
    entropy, which differs from the divergence by a constant.

    >>> import torch
    >>> distillation(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), 2.0)
    tensor(0.4438)
    """
    if student.shape != teacher.shape or student.dim() < 2:
        raise BadInput(
            "distillation: expected logits [n, classes] of one shape from both networks; "
            f"got {list(student.shape)} and {list(teacher.shape)}. Set distill=0 to train without the teacher"
        )
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    positions = student.numel() // student.shape[1]
    return temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True) / positions
