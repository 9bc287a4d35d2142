"""Weights times the norm of what they read."""

from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion("wanda", source="Sun et al. 2023, arXiv:2306.11695", reads=("in",), sampling=Sampling(per_batch=True))
def wanda(activation: Tensor, reader: Tensor) -> Tensor:
    """Root mean square of the activations times the absolute weights that read the unit, summed.

    Args:
        activation: [units, samples, rest], what the units carry where an operator reads them.
        reader: [units, rest], the weights of that operator.

    Returns:
        [units], float64, >= 0. Doubling what a unit carries and halving what reads it changes nothing.

    Source: Sun et al. 2023, arXiv:2306.11695, eq. 1, |W_ij| * ||X_j||_2, added over the outputs i that read unit j.
    There weights are compared within one output. The norm is divided by the square root of the number of values, so
    that places compare, and averaged over batches.

    >>> import torch
    >>> wanda(torch.tensor([[[3.0, -3.0]], [[0.0, 0.0]]]), torch.tensor([[1.0, -2.0], [1.0, 1.0]]))
    tensor([9., 0.], dtype=torch.float64)
    """
    x = activation.flatten(1)
    x = x.float() if x.itemsize < 4 else x
    size = x.square().mean(1).double().sqrt()
    return size * reader.double().abs().sum(1).to(x.device)
