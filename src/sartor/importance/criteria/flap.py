"""How much of what its readers compute fluctuates with the unit (An et al. 2023)."""

from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion("flap", source="An et al. 2023, arXiv:2312.11983", reads=("in",), sampling=Sampling(per_batch=True))
def flap(activation: Tensor, reader: Tensor) -> Tensor:
    """Variance of the unit's activations times the squared weights that read it: the energy its readers would lose.

    The constant part of an activation is not counted: folding means into biases, or batch norm, gives it back.

    Args:
        activation: [units, samples, rest], what the units carry where an operator reads them.
        reader: [units, rest], the weights of that operator, scaled by the batch norm behind it.

    Returns:
        [units], >= 0. A unit that never changes scores 0.

    Source: An et al. 2023, arXiv:2312.11983, eq. 4. There a unit is an input column of a linear map and scores are
    standardised by layer (the recipe divides by the largest of a group); here readers of every kind count, added up
    over all of them, in units of what the batch norm behind them gives.

    >>> import torch
    >>> flap(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]]), torch.tensor([[1.0, 2.0], [1.0, 1.0]]))
    tensor([5., 0.], dtype=torch.float64)
    """
    x = activation.flatten(1)
    spread = (x.float() if x.itemsize < 4 else x).var(1, unbiased=False).double()
    return spread * reader.double().square().sum(1).to(x.device)
