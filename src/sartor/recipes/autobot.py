"""Gates trained on the frozen network under the budget (Castells and Yeom 2023).

Where it starts: from the whole network, every gate at 0.9 (psi = 2.2 for every unit alike), 200 steps of Adam at 0.6 on
batches of 64, as in the authors' CIFAR-10 runs; of the last 80 steps the one with the lowest loss gives the gates.

What is left out of the paper and its code:

- Residual branches have no gates at their outputs (`streams=False`). The paper's CIFAR networks cut these outputs too
  and add what is left to the full stream at stored positions.
- The budget counts multiply-adds of convolutions and linear layers. The code counts batch norms and pooling as well,
  and bisects the threshold until the count is within 50,000 of the target; here units are added back while they fit.
- Groups that lie in several layers have one gate a unit, where the paper wires each network by hand.
- Nothing is repaired after the cut, as in the paper: the gates were trained on the network without repair. Its training
  of the cut network takes 200 epochs in batches of 256 at a cosine rate; here it takes the epochs that the run names.
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
