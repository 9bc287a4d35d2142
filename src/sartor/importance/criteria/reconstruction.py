"""What the readers of a unit lose when it is removed and they are refitted on the others."""

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
    """Error that remains at the unit's readers when it is removed and they are refitted.

    Units are removed one after another, always the one that costs least; the score of a unit is the error that its
    removal adds, weighted by how far an error there moves the network's output (see `sartor.activations.grams`). Scores
    of different groups compare, so no normalisation is needed: `normalise="macs"` spends the MACs where they buy most.

    Args:
        reads: convolutions and linear layers that read the group, with the Gram matrix of what they take in.

    Returns:
        [units], float64, >= 0, never falling along the order in which units are removed.

    Source: He et al. 2017, arXiv:1707.06168, select channels for the least reconstruction error of the next layer (by
    the lasso); elimination on the inverse Gram matrix is Hassibi and Stork's, in blocks. The sensitivity is ours.
    """
    order, costs = elimination(reads)
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[torch.tensor(order)] = torch.tensor(costs, dtype=torch.float64).cummax(0).values
    return scores
