"""Weights times the norm of what they read."""

from torch import Tensor

from sartor.activations.moments import Moments
from sartor.importance.registry import criterion


@criterion("wanda", source="Sun et al. 2023, arXiv:2306.11695", reads=("in",))
def wanda(moments: Moments, reader: Tensor) -> Tensor:
    """Root mean square of what each column carries times the absolute weights that read it, summed.

    Args:
        moments: of every column of the units, over all samples and positions where an operator reads them.
        reader: [units, columns, rest], the weights of that operator, scaled by the batch norm behind it.

    Returns:
        [units], float64, >= 0. Doubling what a unit carries and halving what reads it changes nothing.

    Source: Sun et al. 2023, arXiv:2306.11695, eq. 1, |W_ij| * ||X_j||_2, added over the columns j of a unit and over
    the outputs i that read them. There weights are single and compared within one output. The norm, taken over all
    samples, is divided by the square root of the number of values, so that places compare. All taps of a convolution
    share the norm of their channel: padding is not counted.

    >>> import torch
    >>> wanda(Moments.of(torch.tensor([[[3.0, -3.0]], [[0.0, 0.0]]])), torch.tensor([[[1.0, -2.0]], [[1.0, 1.0]]]))
    tensor([9., 0.], dtype=torch.float64)
    """
    size = moments.mean_square.sqrt()
    return (size * reader.double().abs().sum(2).to(size.device)).sum(1)
