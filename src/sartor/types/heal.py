"""Steps that repair a cut network, in the order in which a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Ridge:
    """Every layer that reads other inputs than before is refitted to the original's outputs by ridge regression."""

    kind: ClassVar[str] = "ridge"


@dataclass(frozen=True)
class FoldMeans:
    """The mean contribution of removed units goes into the biases of the layers that read them.

    Skipped where a `Ridge` step before it was kept: that one has refitted the same layers.
    """

    kind: ClassVar[str] = "fold-means"


@dataclass(frozen=True)
class RefreshNorms:
    """Batch-norm statistics are estimated anew; kept only if that brings held-out outputs closer to the original's."""

    kind: ClassVar[str] = "refresh-norms"
