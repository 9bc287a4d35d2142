"""Steps that repair or train a cut network, in the order in which a recipe names them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sartor.types.checked import Count, Flag, Positive, Share, Weight, checked


@checked
class Ridge:
    """Every layer that reads other inputs than before is refitted to the original's outputs by ridge regression.

    Other variants are repairs of others on the same cut: "grail" (arXiv:2602.23795) puts the regression from kept
    inputs to all into the layers, "folding" (arXiv:2502.10216) merges units by their weights. Each is kept only if
    outputs on calibration inputs held out come closer to the original's.
    """

    variant: Literal["refit", "grail", "folding"] = "refit"
    logits: Flag = True  # of a refit: products of queries and keys are matched where the width of heads is cut
    kind: Literal["ridge"] = "ridge"


@checked
class FoldMeans:
    """The mean contribution of removed units goes into the biases of the layers that read them.

    Skipped where a `Ridge` step before it was kept: that one has refitted the same layers.
    """

    kind: Literal["fold-means"] = "fold-means"


@checked
class RefreshNorms:
    """Batch-norm statistics are estimated anew; kept only if that brings held-out outputs closer to the original's."""

    kind: Literal["refresh-norms"] = "refresh-norms"


@checked
class Distil:
    """The cut network is trained towards the original's results on calibration inputs; no labels.

    Kept only if the outputs on calibration inputs held out come closer to the original's.
    """

    minutes: Annotated[float, Field(strict=True, gt=0)] = 5.0  # at most; the number of steps adapts to it
    passes: Positive = 40  # over the calibration inputs, at most
    steps: Count = 0  # exactly so many, whatever time they take; 0: as `passes` and `minutes` say
    batch: Positive = 100  # samples a step
    lr: Annotated[float, Field(strict=True, gt=0)] | None = None
    # of Adam; None: 0.003 in networks with batch norms, 0.0003 in others
    features: Weight = 1.0  # weight of the outputs of blocks beside those of the network; 0: these alone
    augment: Literal["pictures", "none"] = "pictures"  # whether inputs that are pictures are shifted and mirrored
    kind: Literal["distil"] = "distil"


@checked
class ClipActivations:
    """Rectifiers give zero above the largest value that calibration inputs reach: faults in weights do less harm."""

    margin: Annotated[float, Field(strict=True, ge=1)] = 1.01
    # the limit, in multiples of the largest value; more than 1 because other runtimes round otherwise
    kind: Literal["clip-activations"] = "clip-activations"


@checked
class FineTune:
    """The cut network is trained. Zero epochs: it is not, unless the run asks for epochs."""

    epochs: Count = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(strict=True, gt=0)] = 0.02
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(strict=True)] = 5e-4
    warmup: Share = 0.05  # share of all steps
    label_smoothing: Share = 0.0
    distill: Share = 0.7  # weight of the original's soft targets, 0: none
    temperature: Annotated[float, Field(strict=True, gt=0)] = 2.0
    ema: Share = 0.0  # decay of the averaged weights, 0: none
    clip: Annotated[float, Field(strict=True)] = 0.0  # largest gradient norm, 0: no limit
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: Flag = False
    kind: Literal["fine-tune"] = "fine-tune"


HealStep = Annotated[
    Ridge | FoldMeans | RefreshNorms | Distil | ClipActivations | FineTune, Field(discriminator="kind")
]
