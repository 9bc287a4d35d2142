"""Weight patterns, one file each: which weights of a matrix may be live together."""

from sartor.sparse.patterns.blocks import BlockPattern
from sartor.sparse.patterns.elements import ElementPattern
from sartor.sparse.patterns.gather_scatter import GatherScatterPattern
from sartor.sparse.patterns.kernels import KernelPattern
from sartor.sparse.patterns.modular import ModularPattern
from sartor.sparse.patterns.nm import NMPattern
from sartor.sparse.patterns.projection import PATTERNS, Projection, Sizes, project, projection_of

__all__ = [
    "BlockPattern", "ElementPattern", "GatherScatterPattern", "KernelPattern", "ModularPattern", "NMPattern",
    "PATTERNS", "Projection", "Sizes", "project", "projection_of",
]  # fmt: skip
