"""Gates trained on the frozen network under the budget (Castells and Yeom 2023).

Nothing is repaired after the cut: the gates were trained on the network without repair. Training of the cut network is
the paper's for CIFAR-10, where it takes 200 epochs in batches of 256.
"""

from sartor.recipes.registry import enter
from sartor.types import Axes, FineTune, Gates, Global, Recipe

recipe = enter(
    Recipe(
        name="autobot",
        source="Castells and Yeom 2023, arXiv:2111.09635",
        score=Gates(),
        cut=Axes(streams=False),
        allocate=Global(floor=0.0),
        heal=(FineTune(lr=0.02, weight_decay=2e-3, distill=0.0),),
        calibration=12_800,
    ),
    summary="One trained gate a unit on the frozen network, pressed to the budget; cut at one threshold; needs labels",
)
