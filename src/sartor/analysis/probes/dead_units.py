"""Units that never change, and units that are silent for a sample."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sartor.analysis.data_pass import UnitActivity
from sartor.analysis.intervals import mean_interval
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading

_STILL = 1e-6  # of the largest activation of the layer: a unit that varies by less does not change


@probe(
    "dead-units",
    source="Lu et al. 2019, arXiv:1903.06733 (dead); Hu et al. 2016, arXiv:1607.03250 (dynamic rate of a sample)",
    bias="the dead rate is biased upwards for few samples: a unit that is active for other inputs counts as dead",
)
def dead_units(units: Mapping[str, UnitActivity]) -> Iterator[Reading]:
    """Dead rate and dynamic dead rate of every layer behind a nonlinear function, and of all units together.

    A unit is dead if it gives one value for all samples and positions. Behind a rectifier, the dynamic dead rate is the
    share of units that are zero at every position of a sample, on average over samples, and "active positions" the
    share of all values that are positive.
    """
    dead_of_all, units_of_all = 0, 0
    silent: list[Tensor] = []  # [n] each: silent units of each sample
    rectified = 0
    for name, seen in units.items():
        size = max(float(seen.highest.abs().max()), float(seen.lowest.abs().max()), 1e-30)
        dead = int(((seen.highest - seen.lowest) <= _STILL * size).sum())
        n = len(seen.highest)
        dead_of_all, units_of_all = dead_of_all + dead, units_of_all + n
        yield Reading("dead rate", 100 * dead / n, name, unit="%")
        if not seen.rectifies:
            continue
        share = torch.cat(seen.silent)
        silent.append(share * n)
        rectified += n
        yield Reading("dynamic dead rate", 100 * float(share.mean()), name, _percent(share), "%")
        positive = float(torch.as_tensor(seen.positive).double().mean()) / seen.values
        yield Reading("active positions", 100 * positive, name, unit="%")
    if units_of_all:
        yield Reading("dead rate", 100 * dead_of_all / units_of_all, unit="%")
    if rectified and len({len(s) for s in silent}) == 1:
        share = torch.stack(silent).sum(0) / rectified
        yield Reading("dynamic dead rate", 100 * float(share.mean()), "", _percent(share), "%")


def _percent(values: Tensor) -> tuple[float, float] | None:
    return mean_interval((100 * values).tolist())
