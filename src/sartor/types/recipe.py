"""A recipe: one published method as five choices.

| choice | what it may be here |
|---|---|
| `score`: what matters | `Criterion`, `Gates`, `Sensitivity` |
| `cut`: what may go | `Axes`, or `Weights` in a pattern |
| `allocate`: how much where | `Global`, `Uniform`, `Knapsack`, `Custom`, `ErdosRenyi` (weights), or a `Search` |
| `when`: on what schedule | `OneShot`; while it trains `Gradual`, `PruneAndRegrow`; of units also `Projected`, \
`Decaying`; of weights also `Rewire`, `GrowAndPrune`, `Reweighted`, `Iterative` |
| `heal`: how it recovers | a tuple of `Ridge`, `FoldMeans`, `RefreshNorms`, `Distil`, `FineTune` |

Every choice is a frozen value with a `kind`, so a recipe survives TOML and JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from sartor.errors import BadInput
from sartor.types.checked import Flag, Positive, Share, Weight, checked
from sartor.types.heal import FineTune, FoldMeans, HealStep, RefreshNorms
from sartor.types.rewire import GrowAndPrune, Iterative, Reweighted, Rewire
from sartor.types.scaling import Among, Normalise, Reduce, Scaling
from sartor.types.weights import Weights
from sartor.types.when import Decaying, Gradual, OneShot, Projected, PruneAndRegrow

Function: TypeAlias = Callable[..., Any]
Rewrite: TypeAlias = Literal["free", "allow", "never"]


@checked
class Criterion:
    """Units are scored by a criterion: a registered name, names with "*" between them, or a function.

    `per_cost` is an exponent: scores are divided by (MACs that a unit frees) ** per_cost. `among`: criteria that
    compare units with each other compare those of a layer, or only those of a group; see `Scaling`.
    """

    criterion: str | Function = "l2"  # a function maps [units, rest] -> [units], larger = keep
    reduce: Reduce = "sum"
    normalise: Normalise = "max"
    per_cost: Annotated[float, Field(strict=True)] = 0.0
    among: Among = "layer"
    kind: Literal["criterion"] = "criterion"

    @property
    def scaling(self) -> Scaling:
        """How the scores of the criterion become comparable."""
        return Scaling(reduce=self.reduce, normalise=self.normalise, per_cost=self.per_cost, among=self.among)


@checked
class Sensitivity:
    """Units are ranked within a group by a criterion, and groups compared by measured loss against width.

    See `sartor.learn.sensitivity_scores`.
    """

    criterion: str | Function = "l1"
    reduce: Reduce = "sum"
    normalise: Normalise = "max"
    per_cost: Annotated[float, Field(strict=True)] = 0.0
    among: Among = "layer"
    kind: Literal["sensitivity"] = "sensitivity"

    @property
    def scaling(self) -> Scaling:
        """How the scores within a group are made; `per_cost` divides the measured losses, not these."""
        return Scaling(reduce=self.reduce, normalise=self.normalise, among=self.among)


@checked
class Gates:
    """One gate a unit is trained on the frozen network under the budget; see `sartor.learn.learn_gates`."""

    steps: Positive = 200
    batch: Positive = 64  # samples a step at most
    lr: Annotated[float, Field(strict=True, gt=0)] = 0.6  # of Adam, on the logits of the gates
    start: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.9  # every gate before the first step
    beta: Weight = 6.0  # weight of the distance from the budget
    gamma: Weight = 0.2  # weight of the distance of the gates from 0 and 1
    task: Literal["labels", "distill", "gap"] = "labels"  # the loss; the last two need no labels
    tail: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.4
    # share of the steps, at the end, of which the one with the lowest loss gives the gates
    kind: Literal["gates"] = "gates"


Score = Annotated[Criterion | Sensitivity | Gates, Field(discriminator="kind")]


@checked
class Axes:
    """Units of groups may go: channels, heads, hidden units."""

    only: tuple[str, ...] = ()  # kinds, names or modules of groups, see `sartor.allocate.select`; empty: all
    exclude: tuple[str, ...] = ()
    streams: Flag = True  # whether channels that residual connections carry may go
    fibres: Flag = False  # other inner units for every head or group, where possible; see `Graph.fibres`
    rewrite: Rewrite = "free"
    # forwards that state sizes which no attribute holds: "free" rewrites those that stay as general as they were,
    # "allow" also those that then take fewer sizes or arguments, "never" none
    kind: Literal["axes"] = "axes"


Cut = Annotated[Axes | Weights, Field(discriminator="kind")]


@checked
class Global:
    """One threshold on the scores of the whole network."""

    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1  # least share of every group that stays
    round_to: Positive | None = None
    # kept counts of groups that are cut are multiples of it; None: as `sartor.allocate.alignment` says
    kind: Literal["global"] = "global"


@checked
class Uniform:
    """The same share of every group."""

    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1
    round_to: Positive | None = None
    kind: Literal["uniform"] = "uniform"


@checked
class Knapsack:
    """The width of every group by integer programming; latency is read from tables of measured operators."""

    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1
    round_to: Positive | None = None
    kind: Literal["knapsack"] = "knapsack"


@checked
class ErdosRenyi:
    """Of weights: shares in proportion to the sum of a matrix's sizes over their product; small layers stay denser."""

    kernel: Flag = True  # whether the sizes of the kernel count among them
    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # least share of every matrix that stays live
    kind: Literal["erdos-renyi"] = "erdos-renyi"


@checked
class Custom:
    """An allocator of one's own: its registered name, or a function like `sartor.allocate.Allocator`."""

    allocator: str | Function
    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1
    round_to: Positive | None = None
    kind: Literal["custom"] = "custom"


Allocation = Annotated[Global | Uniform | Knapsack | Custom | ErdosRenyi, Field(discriminator="kind")]


@checked
class Search:
    """Allocations tried on calibration data, the one nearest to the original's outputs stays; see `run.search`."""

    tries: Positive = 60
    within: Allocation = field(default_factory=Global)
    kind: Literal["search"] = "search"


Allocate = Annotated[Global | Uniform | Knapsack | Custom | ErdosRenyi | Search, Field(discriminator="kind")]

When = Annotated[
    OneShot | Gradual | PruneAndRegrow | Projected | Decaying | Rewire | GrowAndPrune | Reweighted | Iterative,
    Field(discriminator="kind"),
]


@checked
class Recipe:
    """One method. The defaults: l2 norms, one global threshold, one cut, constants folded and batch norms refreshed."""

    name: str = "custom"
    source: str = ""
    score: Score = field(default_factory=Criterion)
    cut: Cut = field(default_factory=Axes)
    allocate: Allocate = field(default_factory=Global)
    when: When = field(default_factory=OneShot)
    heal: tuple[HealStep, ...] = (FoldMeans(), RefreshNorms())
    calibration: Positive = 2000  # samples for scores and repair
    seed: Annotated[int, Field(strict=True)] = 0

    def __post_init__(self) -> None:
        kinds = [step.kind for step in self.heal]
        twice = next((k for k in kinds if kinds.count(k) > 1), None)
        if twice:
            raise BadInput(f"recipe field 'heal': expected every step once; got {twice!r} {kinds.count(twice)} times")
        if isinstance(self.cut, Weights) and isinstance(self.when, OneShot):
            raise BadInput(
                "recipe field 'when': weights are masked while a network trains; expected a schedule such as "
                "'gradual' or 'rewire'; got 'one-shot'"
            )
        if isinstance(self.cut, Axes) and isinstance(self.allocation, ErdosRenyi):
            raise BadInput("recipe field 'allocate': 'erdos-renyi' allocates weights, and cut.kind is 'axes'")
        if "fine-tune" in kinds[:-1]:
            raise BadInput("recipe field 'heal': expected fine-tune as the last step: repair needs no training")

    @property
    def allocation(self) -> Global | Uniform | Knapsack | Custom | ErdosRenyi:
        """How much stays where, without the search around it."""
        return self.allocate.within if isinstance(self.allocate, Search) else self.allocate

    @property
    def rewrite(self) -> Rewrite:
        """Which forwards may be rewritten; none where weights are masked, because shapes stay."""
        return self.cut.rewrite if isinstance(self.cut, Axes) else "never"

    @property
    def repairs(self) -> tuple[Any, ...]:
        """The steps of `heal` that need no training."""
        return tuple(s for s in self.heal if not isinstance(s, FineTune))

    @property
    def training(self) -> FineTune:
        """How the cut network is trained; of a recipe that does not say it, the defaults with zero epochs."""
        return next((s for s in self.heal if isinstance(s, FineTune)), FineTune())

    def with_training(self, training: FineTune) -> Recipe:
        """The same recipe with this last step."""
        return replace(self, heal=(*self.repairs, training))


__all__ = [
    "Allocate", "Allocation", "Axes", "Criterion", "Custom", "Cut", "ErdosRenyi", "Function", "Gates", "Global",
    "Knapsack", "Normalise", "OneShot", "Recipe", "Reduce", "Rewrite", "Score", "Search", "Sensitivity", "Share",
    "Uniform", "When",
]  # fmt: skip
