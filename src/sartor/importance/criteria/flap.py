"""How much of what its readers compute fluctuates with the unit (An et al. 2023)."""

from torch import Tensor

from sartor.activations.moments import Moments
from sartor.importance.registry import criterion


@criterion("flap", source="An et al. 2023, arXiv:2312.11983", reads=("in",))
def flap(moments: Moments, reader: Tensor) -> Tensor:
    """Variance of what each column carries times the squared weights that read it: the energy its readers would lose.

    The constant part of an activation is not counted: folding means into biases, or batch norm, gives it back.

    Args:
        moments: of every column of the units, over all samples and positions where an operator reads them.
        reader: [units, columns, rest], the weights of that operator, scaled by the batch norm behind it.

    Returns:
        [units], float64, >= 0: the sum over a unit's columns. A unit whose columns never change scores 0, whatever
        constant each of them emits.

    Source: An et al. 2023, arXiv:2312.11983, eq. 4. There the sum of squares is divided by n - 1, here by n, and scores
    are standardised by layer (the recipe divides by the largest of a group). Here readers of every kind count, added up
    over all of them, in units of what the batch norm behind them gives. All taps of a convolution share the variance of
    their channel: padding is not counted.

    >>> import torch
    >>> flap(Moments.of(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]])), torch.tensor([[[1.0, 2.0]], [[1.0, 1.0]]]))
    tensor([5., 0.], dtype=torch.float64)
    """
    return (moments.variance * reader.double().square().sum(2).to(moments.variance.device)).sum(1)
