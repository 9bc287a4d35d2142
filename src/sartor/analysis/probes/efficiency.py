"""Parameter efficiency: correct samples for each parameter."""

from collections.abc import Iterator, Sequence

import torch

from sartor.analysis.data_pass import Outputs
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject
from sartor.cost import count
from sartor.errors import BadInput


@probe(
    "efficiency",
    source="Hoefler et al. 2021, arXiv:2102.00554, section on parameter efficiency",
    bias="the raw form favours tiny networks; the normalised one depends on the reference networks behind `hardness`",
)
def efficiency(outputs: Outputs, subject: ProbeSubject, hardness: Sequence[float] | None = None) -> Iterator[Reading]:
    """Share of correct samples for a million parameters and for a billion MACs, raw and weighted by hardness.

    Args:
        outputs: of all samples.
        subject: the network; parameters that are zero do not count as such.
        hardness: of each sample, in [0, 1]: the share of reference networks that are wrong about it. None: the weighted
            form is left out.

    Raises:
        BadInput: `hardness` is not one number for each sample.
    """
    right = (outputs.logits.argmax(1) == outputs.labels).double()
    nonzero = sum(int(p.detach().count_nonzero()) for p in subject.model.parameters())
    macs = count(subject.graph).macs
    share = float(right.mean())
    yield Reading("nonzero parameters", float(nonzero))
    yield Reading("macs", float(macs))
    yield Reading("parameter efficiency", share / (nonzero / 1e6) if nonzero else None, unit="per million")
    yield Reading("mac efficiency", share / (macs / 1e9) if macs else None, unit="per billion")
    if hardness is not None:
        if len(hardness) != len(right):
            raise BadInput(f"efficiency: expected {len(right)} numbers of hardness; got {len(hardness)}")
        weight = torch.as_tensor(hardness, dtype=torch.float64)
        weighted = float((weight * right).sum() / weight.sum()) if float(weight.sum()) else None
        value = None if weighted is None or not nonzero else weighted / (nonzero / 1e6)
        yield Reading("hardness-normalised parameter efficiency", value, unit="per million")
