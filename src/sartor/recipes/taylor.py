"""First-order Taylor importance, compared across the network as it is (Molchanov et al. 2019)."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="taylor",
        source="Molchanov et al. 2019, arXiv:1906.10771",
        criterion="taylor",
        reduce="sum",
        normalise="none",
    ),
    summary="First-order change of the loss, comparable across the network without normalisation",
)
