"""`sartor bench`: methods side by side on the same networks, from a file that says which; can be taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.frontier import parse_shares
from sartor.cli.markdown_block import MarkdownBlock
from sartor.cli.options import AsJson, Quiet, Seed
from sartor.cli.progress import Steps, steps
from sartor.cli.request import known_fields, read_toml
from sartor.errors import BadInput, CorruptFile, UnknownName

if TYPE_CHECKING:
    from torch import nn

    from sartor.types import Recipe

FILE = Path("bench/oneshot.toml")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A [[network]] of the bench file. Words in `model`, `weights`, `data` and `peers` may hold $VARIABLES."""

    name: str
    model: str
    data: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the model's factory
    train: dict[str, Any] = field(default_factory=dict)  # fields of FineTune: how weights that are missing are made
    batch: int = 125
    calibration: int = 1000
    judge: int | None = None  # test samples at most
    recipes: list[str] = field(default_factory=list)  # none: every recipe
    leave_out: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)  # file.py:function, see `sartor.studies.oneshot.peer_rows`


def oneshot(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Networks, shares, recipes.")] = FILE,
    only: Annotated[str | None, typer.Option(help="Networks whose name contains this.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipes", help="Names with commas, instead of the file's.")] = None,
    share: Annotated[str | None, typer.Option("--shares", help="Percent with commas, instead of the file's.")] = None,
    judge: Annotated[int | None, typer.Option(min=1, help="Test samples at most, instead of the file's.")] = None,
    peers: Annotated[bool, typer.Option(help="Run the tools of others that the file names.")] = True,
    keep: Annotated[
        Path | None, typer.Option(help="JSON file for the rows; those it holds are not made again.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Put the tables between <!-- oneshot --> and <!-- /oneshot --> of this page.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Every criterion at several shares of the MACs: cut only, batch norms refreshed, repaired; seconds to decide."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.measure import environment
    from sartor.report.oneshot import oneshot_markdown, oneshot_table

    shares, networks = read_bench(file)
    shares = parse_shares(share) if share else shares
    networks = [n for n in networks if only is None or only.lower() in n.name.lower()]
    if not networks:
        raise BadInput(f"{file}: no network's name contains {only!r}")
    page = None if write is None else MarkdownBlock(write, "oneshot")
    store = _Store(keep, seed)
    with steps(quiet=quiet) as progress:
        found = [_run(n, shares, recipe, judge, peers, store, seed, progress) for n in networks]
    answer = {"seed": seed, "networks": found, "environment": environment()}
    if page is not None:
        page.fill(oneshot_markdown(answer))
    view: list[Any] = []
    for n in found:
        view += [Text(f"{n['name']}: {n['original']:.2f} % whole", style="bold"), oneshot_table(n)]
    return CommandResult(answer, Stack(*view))


def read_bench(path: Path) -> tuple[list[float], list[Network]]:
    """Shares and networks of a bench file.

    Raises:
        BadInput: no such file, not TOML, or a field of the wrong kind.
        UnknownName: a field that does not exist.
    """
    values = read_toml(path, f"no bench file {str(path)!r}; name one, or run it where {FILE} is")
    for name in values:
        if name not in ("shares", "network"):
            raise UnknownName(f"field of {path}", name, ("shares", "network"))
    shares = parse_shares(",".join(map(str, values.get("shares", []))))
    tables = values.get("network")
    if not isinstance(tables, list) or not tables:
        raise BadInput(f"{path}: expected at least one [[network]]")
    return shares, [_network(t, path) for t in tables]


def _network(table: Mapping[str, Any], path: Path) -> Network:
    known_fields(table, Network, f"a network of {path}")
    for name in ("name", "model", "data"):
        if not isinstance(table.get(name), str):
            raise BadInput(f'{path}: every network needs {name} = "..."; got {table.get(name)!r}')
    return Network(**table)


def expanded(text: str) -> str:
    """The text with its $VARIABLES.

    Raises:
        BadInput: one of them is not set.
    """
    found = os.path.expandvars(text)
    if "$" in found:
        raise BadInput(f"{text}: the variable is not set; say where it is, as in `export SARTOR_DATA=/path/to/data`")
    return found


def _run(
    network: Network, shares: list[float], recipes: str | None, judge: int | None, peers: bool, store: _Store,
    seed: int, progress: Steps,
) -> dict[str, Any]:  # fmt: skip
    from sartor.run import stages
    from sartor.run.context import Context
    from sartor.sources import load_data
    from sartor.sources.factory import find_factory
    from sartor.studies.oneshot import OneShotStudy
    from sartor.train import accuracy
    from sartor.train.batch import first_samples
    from sartor.types import Listener

    progress("load", None, network.name)
    data = load_data(expanded(network.data), batch=network.batch, seed=seed)
    if data.test is None:
        raise BadInput(f"network {network.name!r}: {data.describe} has no test part to judge by")
    model = _trained(network, data, seed, progress)
    most = judge or network.judge
    test = list(data.test) if most is None else list(first_samples(data.test, most))
    subject = stages.understand(model, data.example)
    subject = stages.with_held_out(subject, data.calibration, network.calibration)
    samples = sum(len(y) for _, y in test)
    store.open(network, samples)
    original = accuracy(model, test)

    def tell(text: str) -> None:
        progress(network.name, None, text)

    listener = Listener(lambda step, done, text: tell(text), tell)
    study = OneShotStudy(subject, shares, test, Context(seed=seed, listener=listener), store.knows)
    for row in study.rows(chosen(network, recipes)):
        store.add(row)
    for words in network.peers if peers else ():
        place, _, name = expanded(words).rpartition(":")
        for row in study.peer_rows(find_factory(place, name)):
            store.add({**row, "peer": words})
    return {
        "name": network.name, "model": network.model, "original": original, "test_samples": samples,
        "calibration": network.calibration, "rows": [r for r in store.rows if r["asked"] in shares],
    }  # fmt: skip


def chosen(network: Network, recipes: str | None) -> list[Recipe]:
    """The recipes of a network: those named, else every one that scores by one criterion; without those left out."""
    from sartor.recipes import RECIPES, find_recipe

    named = [n.strip() for n in recipes.split(",") if n.strip()] if recipes else network.recipes
    names = named or [e.name for e in RECIPES.entries() if e.name not in network.leave_out]
    return [find_recipe(n, calibration=network.calibration) for n in names]


def _trained(network: Network, data: Any, seed: int, progress: Steps) -> nn.Module:
    """The network with its weights, which are made first where they are missing and the file says how."""
    from sartor.seed import seeded
    from sartor.sources import load_model

    path = None if network.weights is None else Path(expanded(network.weights))
    if path is None or path.is_file() or not network.train:
        return load_model(expanded(network.model), path, network.options).eval()
    import torch
    from safetensors.torch import save

    from sartor.export.files import atomic_write
    from sartor.train import TrainingSetup, fine_tune
    from sartor.types import Data, FineTune

    try:
        options = FineTune(**network.train)
    except BadInput as e:
        raise BadInput(f"network {network.name!r}, train: {e}") from e
    with seeded(seed), torch.random.fork_rng(devices=[]):
        model = load_model(expanded(network.model), None, network.options)
        progress.begin("train")
        fine_tune(model, Data(train=data.train), TrainingSetup(options, seed=seed), listener=progress)
    atomic_write(path, save({k: v.contiguous() for k, v in model.state_dict().items()}))
    return model.eval()


class _Store:
    """Rows of a bench, on disk after each one."""

    def __init__(self, path: Path | None, seed: int):
        self.path, self.seed, self.key = path, seed, ""
        self.all: dict[str, list[dict[str, Any]]] = {}
        if path is not None and path.is_file():
            try:
                self.all = json.loads(path.read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError) as e:
                raise CorruptFile(f"{path}: expected rows of an earlier bench; {e}") from e

    def open(self, network: Network, samples: int) -> None:
        """The rows of one network under one set of conditions."""
        self.key = f"{network.name}, seed {self.seed}, {network.calibration} calibration, {samples} test"
        self.all.setdefault(self.key, [])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those of the open network."""
        return self.all[self.key]

    def knows(self, name: str, share: float) -> bool:
        """Whether a row is there."""
        return any(r["recipe"] == name and r["asked"] == share for r in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        from sartor.export.files import atomic_write
        from sartor.types import to_plain

        self.rows.append(to_plain(row))
        if self.path is not None:
            atomic_write(self.path, json.dumps(self.all, indent=1, ensure_ascii=False) + "\n")
