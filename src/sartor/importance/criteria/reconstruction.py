"""What the readers of a unit lose when it goes and they are refitted on the others."""

import torch
from torch import Tensor

from sartor.activations.readers import Read
from sartor.importance.elimination import elimination
from sartor.importance.registry import Sampling, criterion


@criterion(
    "reconstruction",
    source="He et al. 2017, arXiv:1707.06168; Hassibi and Stork 1993, Optimal Brain Surgeon",
    sampling=Sampling(per_batch=True),
)
def reconstruction(reads: list[Read]) -> Tensor:
    """Error the unit's readers are left with when it goes and they are refitted: what repair cannot give back.

    Units are given up one after another, always the one that costs least now; the score of a unit is what its going
    adds, times what an error there moves the network's output (see `grams.py`). Costs of different groups compare, so
    no normalisation is needed: `normalise="macs"` spends the MACs where they buy most.

    Args:
        reads: convolutions and linear layers that read the group, with the Gram matrix of what they take in.

    Returns:
        [units], float64, >= 0, never falling along the order in which units go.

    Source: He et al. 2017, arXiv:1707.06168, select channels for the least reconstruction error of the next layer (by
    the lasso); elimination on the inverse Gram matrix is Hassibi and Stork's, in blocks. The sensitivity is ours.
    """
    order, costs = elimination(reads)
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[torch.tensor(order)] = torch.tensor(costs, dtype=torch.float64).cummax(0).values
    return scores
