"""`sartor bench recipes`: recipes beside each other, each with the same epochs of training in all.

Recipes that prune while a network trains start from random weights. One-shot recipes train the dense network first, cut
it, and train on; so every row of a network has seen the data equally often.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.budget import parse_budget
from sartor.errors import BadInput, UnknownName
from sartor.recipes import changed, find_recipe
from sartor.run import run as fit
from sartor.run.outcome import Options, Outcome
from sartor.seed import seeded
from sartor.sources import DataSet
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import Network, open_data, open_network, read_networks, test_batches
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.toml_file import known_fields
from sartor.train import History, TrainingSetup, accuracy, fine_tune
from sartor.types import Data, FineTune, Judge, Listener, Recipe

FILE = Path("bench/recipes.toml")
DENSE = "dense"  # a row without any cut


@dataclass(frozen=True)
class Method:
    """One row of a comparison: a recipe, with changes."""

    recipe: str
    name: str = ""  # "": the recipe's
    changes: dict[str, Any] = field(default_factory=dict)  # fields such as {"when.end" = 0.5}

    @property
    def label(self) -> str:
        """The name of the row."""
        return self.name or self.recipe

    def made(self, seed: int, calibration: int) -> Recipe:
        """The recipe.

        Raises:
            UnknownName, BadInput: there is no such recipe or field.
        """
        return changed(find_recipe(self.recipe), {"seed": seed, "calibration": calibration, **self.changes})


@dataclass(frozen=True)
class Comparison:
    """Methods that meet one budget."""

    budget: str
    methods: tuple[Method, ...]


@study("recipes", marker="recipes", key=("network", "budget", "recipe", "seed"), source="the papers of the recipes")
@dataclass(frozen=True, kw_only=True)
class TrainedRecipes(Study):
    """Recipes with the same training in all: accuracy of the last epoch, budget, cost and time of the training."""

    file: Annotated[Path, Option("Networks, budgets and recipes.", metavar="FILE.toml", argument=True)] = FILE
    epochs: Annotated[int | None, Option("Epochs of every row in all, instead of the file's.", minimum=2)] = None
    seeds: Annotated[int, Option("Runs with seeds from --seed on.", minimum=1)] = 1

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network, budget, recipe and seed."""
        fields = ("epochs", "dense", "comparison")
        values, networks = read_networks(self.file, Network, ("name", "model", "data"), fields)
        comparisons = _comparisons(self.file, values.get("comparison"))
        epochs = self.epochs or values.get("epochs", 8)
        dense = values.get("dense", 0.5)
        if not isinstance(dense, float) or not 0 < dense < 1:
            raise BadInput(f"{self.file}, dense: expected a share of the epochs, in (0, 1); got {dense!r}")
        cases = []
        for n in networks:
            for seed in range(run.seed, run.seed + self.seeds):
                trainings = Trainings(n, epochs, max(1, round(dense * epochs)), seed, run.listener)
                cases.append(_case(n, "", DENSE, seed, trainings.dense_row))
                cases += [
                    _case(n, c.budget, m.label, seed, partial(trainings.row, c.budget, m))
                    for c in comparisons
                    for m in c.methods
                ]
        yield from run.rows_of(cases)

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """What the figures are, and a table for each network and budget."""
        parts: list[Part] = [
            "Top-1 accuracy in percent on the test part after the last epoch: mean over seeds, lowest and highest. In "
            "brackets, of rows without a cut and of one-shot recipes: after the epoch that is best on the validation "
            "part. Cost: MACs of the training over those of as many dense epochs. Time: of the training, here."
        ]
        rows = answer["rows"]
        for name in dict.fromkeys(r["network"] for r in rows):
            mine = [r for r in rows if r["network"] == name]
            whole = [r for r in mine if r["recipe"] == DENSE]
            parts.append(f"### {name}")
            for budget in dict.fromkeys(r["budget"] for r in mine if r["budget"]):
                chosen = [r for r in mine if r["budget"] == budget]
                parts += [f"`{budget}`, {chosen[0]['epochs']} epochs in all:", _table([*whole, *chosen])]
        return parts


@dataclass(frozen=True)
class Trainings:
    """The trainings of one network with one seed."""

    network: Network
    epochs: int  # of every row in all
    before: int  # of these, epochs of the dense network before a one-shot cut
    seed: int
    listener: Listener
    known: dict[str, Any] = field(default_factory=dict)  # what several rows share

    def dense_row(self) -> dict[str, Any]:
        """The network trained without a cut."""
        model = self._network()
        start = time.perf_counter()
        history = self._trained(model, self.epochs)
        seconds = time.perf_counter() - start
        chosen = None
        if history.best_state is not None:
            last = accuracy(model, self._test, device_of(model))
            model.load_state_dict(history.best_state)
            chosen = accuracy(model, self._test, device_of(model))
        else:
            last = accuracy(model, self._test, device_of(model))
        return {
            "epochs": self.epochs, "accuracy": last, "chosen": chosen, "macs": 1.0, "params": 1.0, "weights": None,
            "cost": 1.0, "train_s": seconds, "status": "", "verdict": "",
        }  # fmt: skip

    def row(self, budget: str, method: Method) -> dict[str, Any]:
        """The network trained and cut by one method."""
        recipe = method.made(self.seed, self.network.calibration)
        one_shot = recipe.when.kind == "one-shot"
        epochs = self.epochs - self.before if one_shot else self.epochs
        recipe = recipe.with_training(FineTune(**{**self.network.train, "epochs": epochs, "distill": 0.0}))
        model = self._partly_trained() if one_shot else self._network()
        data = self._data
        parts = Data(data.train, data.val, data.calibration, self._test)
        options = Options(example=data.example, seed=self.seed, listener=self.listener)
        outcome = fit(model, parts, parse_budget(budget), recipe, Judge(), options)
        return {"epochs": self.epochs, **_figures(outcome, self.before if one_shot else 0, self.known)}

    @cached_property
    def _data(self) -> DataSet:
        return open_data(self.network.data, self.network.batch, self.seed)

    @cached_property
    def _test(self) -> list[Any]:
        return test_batches(self._data, self.network.judge)

    def _network(self) -> nn.Module:
        with seeded(self.seed), torch.random.fork_rng(devices=[]):
            return open_network(self.network.model, None, self.network.options)

    def _trained(self, model: nn.Module, epochs: int) -> History:
        """Train a network in place for so many of the epochs that a whole training has."""
        training = FineTune(**{**self.network.train, "epochs": epochs, "distill": 0.0})
        setup = TrainingSetup(training, seed=self.seed)
        parts = Data(train=self._data.train, val=self._data.val)
        return fine_tune(model, parts, setup, listener=self.listener)

    def _partly_trained(self) -> nn.Module:
        """The dense network before a one-shot cut; trained once for all of them."""
        model = self._network()
        if "state" not in self.known:
            start = time.perf_counter()
            self._trained(model, self.before)
            self.known["seconds"] = time.perf_counter() - start
            self.known["state"] = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.known["state"])
        return model.eval()


def _case(network: Network, budget: str, recipe: str, seed: int, make: Any) -> Case:
    return Case({"network": network.name, "budget": budget, "recipe": recipe, "seed": seed}, make)


def _comparisons(file: Path, tables: Any) -> list[Comparison]:
    """The [[comparison]] tables of a file.

    Raises:
        BadInput: there is none, or one without a budget or recipes.
        UnknownName: a field or recipe that does not exist.
    """
    if not isinstance(tables, list) or not tables:
        raise BadInput(f"{file}: expected at least one [[comparison]] with a budget and recipes")
    found = []
    for table in tables:
        for name in table:
            if name not in ("budget", "recipes"):
                raise UnknownName(f"field of a comparison of {file}", name, ("budget", "recipes"))
        budget, recipes = table.get("budget"), table.get("recipes")
        if not isinstance(budget, str) or not isinstance(recipes, list) or not recipes:
            raise BadInput(f'{file}: every comparison needs budget = "..." and recipes = [...]; got {table!r}')
        parse_budget(budget)
        methods = []
        for entry in recipes:
            if isinstance(entry, Mapping):
                known_fields(entry, Method, f"a recipe of {file}")
            methods.append(Method(**entry) if isinstance(entry, Mapping) else Method(str(entry)))
            methods[-1].made(0, 1)
        found.append(Comparison(budget, tuple(methods)))
    return found


def _figures(outcome: Outcome, before: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a finished run.

    Args:
        before: epochs of the dense network before the cut, 0 for recipes that prune while training.
        known: "seconds" that these took.
    """
    record = outcome.record
    course = next((dict(s) for s in record.record if s.step == "while training"), None)
    shares = {name: pair.fitted / pair.original for name, pair in record.counted.items() if pair.original}
    after = len(record.training)
    cost = course["training_cost"] if course else (before + after * shares["macs"]) / (before + after)
    return {
        "accuracy": record.test.final, "chosen": record.test.chosen_by_validation, "macs": shares["macs"],
        "params": shares["params"], "weights": shares.get("weights"), "cost": cost,
        "train_s": sum(e["seconds"] for e in record.training) + (known.get("seconds", 0.0) if before else 0.0),
        "status": record.status, "verdict": record.proof.status,
    }  # fmt: skip


def _table(rows: Sequence[Row]) -> Grid:
    masked = any(r["weights"] is not None for r in rows)
    heads = ["recipe", "accuracy", "weights" if masked else "MACs", "training cost", "training time (s)", "verdict"]
    lines = []
    for name in dict.fromkeys(r["recipe"] for r in rows):
        mine = [r for r in rows if r["recipe"] == name]
        share = max((r["weights"] if r["weights"] is not None else 1.0) if masked else r["macs"] for r in mine)
        cost, seconds = (max(r[key] for r in mine) for key in ("cost", "train_s"))
        verdict = ", ".join(sorted({f"{r['status']}, {r['verdict']}" for r in mine if r["status"]}))
        lines.append([name, _accuracy(mine), f"{100 * share:.1f} %", f"{cost:.2f}", f"{seconds:.0f}", verdict])
    return Grid(heads, lines)


def _accuracy(rows: Sequence[Row]) -> str:
    """The figures of one recipe over seeds.

    >>> _accuracy([{"accuracy": 90.0, "chosen": None}, {"accuracy": 92.0, "chosen": None}])
    '91.00, 90.00 to 92.00'
    >>> _accuracy([{"accuracy": 90.0, "chosen": 90.5}])
    '90.00 (90.50)'
    """
    values = [r["accuracy"] for r in rows]
    chosen = [r["chosen"] for r in rows if r["chosen"] is not None]
    spread = f", {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    best = f" ({sum(chosen) / len(chosen):.2f})" if len(chosen) == len(values) else ""
    return f"{sum(values) / len(values):.2f}{spread}{best}"
