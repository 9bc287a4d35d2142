"""Distance to the geometric median."""

import torch
from torch import Tensor

from sartor.importance.registry import criterion


@criterion("fpgm", source="He et al. 2019, arXiv:1811.00250", reads=("out",), compares=True)
def fpgm(weight: Tensor) -> Tensor:
    """Sum of distances to all other filters: small where the others can replace the filter.

    Args:
        weight: [filters, rest], the filters of one layer; biases are not read.

    Returns:
        [filters], >= 0: sum over j of ||w_i - w_j||. Adding one vector to all filters changes nothing.

    Source: He et al. 2019, arXiv:1811.00250, eq. 5. A unit that several filters of a layer write (a head) is the vector
    of all of them, and is compared with the other units that as many write.

    >>> import torch
    >>> fpgm(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
    tensor([ 5., 10.,  5.])
    """
    w = weight - weight.mean(0)  # the same distances, fewer digits lost
    return torch.cdist(w, w).sum(1)
