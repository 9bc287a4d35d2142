"""The choice `cut` for weights: which weights of a matrix may be live together, which layers take part.

Weights are seen as [out, in, positions of the kernel]. What is said here is data; `sartor.sparse.patterns` holds what
it means.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sartor.errors import BadInput
from sartor.types.checked import Flag, Positive, checked


@checked
class Elements:
    """Single weights, in any place."""

    kind: Literal["elements"] = "elements"


@checked
class NM:
    """At most n of every m consecutive inputs, at every output and kernel position."""

    n: Positive = 2
    m: Positive = 4
    kind: Literal["n:m"] = "n:m"

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise BadInput(f"n:m pattern field 'n': expected less than m; got {self.n} of {self.m}")


@checked
class Blocks:
    """Blocks of consecutive outputs and inputs, at one kernel position, are live as a whole or not at all."""

    rows: Positive = 4  # consecutive outputs
    columns: Positive = 1  # consecutive inputs of one kernel position
    kind: Literal["blocks"] = "blocks"


@checked
class KernelPatterns:
    """Every 3 x 3 kernel that is live keeps four of nine weights, as one of eight shapes; equally many a filter."""

    kind: Literal["kernel-patterns"] = "kernel-patterns"


@checked
class GatherScatter:
    """Packs of `banks` weights with different columns modulo `banks`, `each` of one row; see GS(B, e)."""

    banks: Positive = 16
    each: Positive = 4  # weights of one row in a pack; divides `banks`, and banks / each rows share their packs
    support: Literal["optimal", "greedy"] = "optimal"  # largest sum of scores by a linear program, or pack by pack
    kind: Literal["gather-scatter"] = "gather-scatter"

    def __post_init__(self) -> None:
        if self.banks % self.each:
            raise BadInput(f"gather-scatter pattern field 'each': expected a divisor of {self.banks}; got {self.each}")


@checked
class Modular:
    """Inputs and outputs of a matrix form groups; all weights inside a group are live, and some across groups."""

    groups: Positive = 8
    grouping: Literal["index", "mixer", "random"] = "index"
    # consecutive units; consecutive inputs to interleaved outputs; or drawn at random
    seed: Annotated[int, Field(strict=True, ge=0)] = 0  # of a random grouping
    kind: Literal["modular"] = "modular"


Pattern = Annotated[Elements | NM | Blocks | KernelPatterns | GatherScatter | Modular, Field(discriminator="kind")]


@checked
class Weights:
    """Single weights may go, in a pattern; shapes stay, the network becomes sparse and not smaller.

    Matrices of convolutions and linear layers take part, vectors (biases, norms) and embeddings do not.
    """

    pattern: Pattern = field(default_factory=Elements)
    only: tuple[str, ...] = ()  # modules or parameters, with everything inside them; empty: all
    exclude: tuple[str, ...] = ()
    first: Flag = True  # whether the first layer of the forward takes part
    last: Flag = True  # whether the last layer of the forward takes part
    kind: Literal["weights"] = "weights"


__all__ = ["Blocks", "Elements", "GatherScatter", "KernelPatterns", "Modular", "NM", "Pattern", "Weights"]
