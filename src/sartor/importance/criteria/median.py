"""Distance to the geometric median itself."""

import torch
from torch import Tensor

from sartor.importance.registry import criterion


@criterion(
    "median",
    source="He et al. 2019, arXiv:1811.00250; Vardi and Zhang 2000, doi:10.1073/pnas.97.4.1423",
    reads=("out",),
    compares=True,
)
def median(weight: Tensor) -> Tensor:
    """Distance of each filter to the geometric median of all: a filter near it is redundant.

    Args:
        weight: [filters, rest], the filters of one layer.

    Returns:
        [filters], float64, >= 0: ||w_j - m||, m the point whose distances to all filters have the least sum. Adding one
        vector to all filters changes nothing.

    Source: He et al. 2019, arXiv:1811.00250; they continue with the sum of distances to all filters, which
    is `fpgm`. The median by the iteration of Vardi and Zhang 2000.

    >>> import torch
    >>> median(torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]))
    tensor([1., 0., 4.], dtype=torch.float64)
    """
    w = weight.double()
    return (w - geometric_median(w)).norm(dim=1)


def geometric_median(points: Tensor, *, tolerance: float = 1e-12, steps: int = 2000) -> Tensor:
    """The point with the least sum of distances to all rows.

    Args:
        points: [n, d], float64.
        tolerance: the iteration ends when a step is shorter, relative to the largest distance from the mean.
        steps: and after so many at the latest.

    Returns:
        [d]. On a line with an even number of points, one of the medians.

    >>> geometric_median(torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64))
    tensor([1.], dtype=torch.float64)
    """
    middle = points.mean(0)
    size = (points - middle).norm(dim=1).max()
    if size == 0:
        return middle
    x = (points - middle) / size
    y = x.new_zeros(x.shape[1])
    for row in _medoid(x):  # one of the points is often the median: then exactly
        return row * size + middle
    for _ in range(steps):
        d = (x - y).norm(dim=1)
        here = d == 0
        pull = torch.where(here, 0.0, 1 / torch.where(here, 1.0, d))
        target = pull @ x / pull.sum()
        force = (pull[:, None] * (x - y)).sum(0).norm()
        stay = min(1.0, float(here.sum() / force)) if force > 0 else 1.0
        step = (1 - stay) * (target - y)
        y = y + step
        if step.norm() <= tolerance:
            break
    return y * size + middle


def _medoid(x: Tensor) -> Tensor:
    """[0 or 1, d]: the row that is the median, if one is: the others' unit vectors pull at it with less than its own
    multiplicity."""
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    pull = torch.where(d > 0, 1 / torch.where(d > 0, d, 1.0), 0.0)
    force = (pull @ x - pull.sum(1, keepdim=True) * x).norm(dim=1)
    return x[force < (d == 0).sum(1) - 1e-9][:1]
