"""`sartor bench oneshot`: every recipe at several shares of the MACs, without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sartor.errors import BadInput
from sartor.measure import environment
from sartor.recipes import find_recipe
from sartor.recipes.registry import one_shot_recipes
from sartor.run import stages
from sartor.run.context import Context
from sartor.sources.factory import find_factory
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.networks import Network, expanded, open_data, read_networks, test_batches, trained
from sartor.studies.recipe_rows import RecipeRows
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import StudyRun
from sartor.train import accuracy
from sartor.types import Listener, Recipe
from sartor.units import parse_shares

FILE = Path("bench/oneshot.toml")
STATES = {"cut": "cut only", "norm": "batch norms re-estimated", "repaired": "repaired"}
CONDITIONS = ("network", "model", "original", "test_samples", "calibration", "seed")  # equal for the rows of a network


@study(
    "oneshot", marker="oneshot", source="see the source of each recipe",
    key=("network", "seed", "calibration", "test_samples", "recipe", "asked"),
)  # fmt: skip
@dataclass(frozen=True, kw_only=True)
class OneShot(Study):
    """Every criterion at several shares of the MACs: cut only, batch norms re-estimated, repaired; time to decide."""

    file: Annotated[Path, Option("Networks, shares, recipes.", metavar="FILE.toml", argument=True)] = FILE
    recipes: Annotated[str | None, Option("Names with commas, instead of the file's.")] = None
    shares: Annotated[str | None, Option("Percent with commas, instead of the file's.")] = None
    judge: Annotated[int | None, Option("Test samples at most, instead of the file's.", minimum=1)] = None
    peers: Annotated[bool, Option("Run the tools of others that the file names.")] = True

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """The rows of each network: Sartor's recipes, then those of other tools."""
        shares, networks = read_bench(self.file)
        shares = parse_shares(self.shares) if self.shares else shares
        networks = [n for n in networks if run.selects(n.name)]
        if not networks:
            raise BadInput(f"--only: no network of {self.file} has {run.only!r} in its name")
        for network in networks:
            yield from self._rows_of(network, shares, run)

    def _rows_of(self, network: Network, shares: Sequence[float], run: StudyRun) -> Iterator[Row]:
        run.listener.begin("load", network.name)
        data = open_data(network.data, network.batch, run.seed)
        model = trained(network, data, run.seed, run.listener)
        test = test_batches(data, self.judge or network.judge)
        subject = stages.understand(model, data.example)
        subject = stages.with_held_out(subject, data.calibration, network.calibration)
        conditions = {
            "network": network.name, "model": network.model, "original": accuracy(model, test),
            "test_samples": sum(len(y) for _, y in test), "calibration": network.calibration, "seed": run.seed,
        }  # fmt: skip

        def known(name: str, share: float) -> bool:
            return run.store.get({**conditions, "recipe": name, "asked": share}) is not None

        run.listener.begin(network.name)
        listener = Listener(lambda step, done, text: run.listener.tell(text), run.listener.tell)
        maker = RecipeRows(subject, shares, test, Context(seed=run.seed, listener=listener), known)
        for row in maker.rows(chosen_recipes(network, self.recipes)):
            run.store.add({**conditions, **row})
        for peer in network.peers if self.peers else ():
            place, _, function = expanded(peer).rpartition(":")
            for row in maker.peer_rows(find_factory(place, function)):
                run.store.add({**conditions, **row, "peer": peer})
        same = ("network", "seed", "calibration", "test_samples")
        for row in run.store.rows():
            if row["asked"] in shares and all(row[k] == conditions[k] for k in same):
                yield row

    def answer(self, rows: Sequence[Row], run: StudyRun) -> dict[str, Any]:
        """Rows grouped by network."""
        networks: dict[str, dict[str, Any]] = {}
        for row in rows:
            facts = {k: row[k] for k in CONDITIONS if k not in ("network", "seed")}
            network = networks.setdefault(row["network"], {"name": row["network"], **facts, "rows": []})
            network["rows"].append({k: v for k, v in row.items() if k not in CONDITIONS})
        return {"seed": run.seed, "networks": list(networks.values()), "environment": environment()}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A table for each network, shares that were not reached, and how far other tools are from their share."""
        parts: list[Part] = [_caption(answer)]
        for network in answer["networks"]:
            rows = network["rows"]
            original = f"Original: {network['original']:.2f} % on {network['test_samples']:,} test samples"
            parts.append(f"### {network['name']}")
            parts.append(f"{original}; {network['calibration']:,} calibration samples.")
            parts.append(Grid(heads(rows), lines(rows)))
            missed = [f"{r['recipe']} at {100 * r['asked']:g} %: {r['why']}" for r in rows if r.get("why")]
            if missed:
                parts += ["Not reached:", bullets(missed)]
            by_peers = [r for r in rows if r.get("peer") and r.get("macs") is not None]
            if by_peers:
                far = max(by_peers, key=lambda r: abs(r["macs"] / r["asked"] - 1))
                parts.append(
                    f"Peers take a ratio of channels, not a share of the MACs; the one furthest from its share, "
                    f"{far['recipe']} at {100 * far['asked']:g} %, has {100 * far['macs']:.1f} % of the MACs."
                )
        return parts


def read_bench(path: Path) -> tuple[list[float], list[Network]]:
    """Shares and networks of a bench file; errors as those of `read_networks`."""
    values, networks = read_networks(path, Network, ("name", "model", "data"), ("shares",))
    return parse_shares(",".join(map(str, values.get("shares", [])))), networks


def chosen_recipes(network: Network, recipes: str | None) -> list[Recipe]:
    """The recipes of a network: those named, else every registered one, without those that the file leaves out."""
    named = [n.strip() for n in recipes.split(",") if n.strip()] if recipes else network.recipes
    names = named or [n for n in one_shot_recipes() if n not in network.leave_out]
    return [find_recipe(n, calibration=network.calibration) for n in names]


def states_of(rows: Sequence[Row]) -> list[str]:
    """The states for which any row has a value, in order."""
    return [s for s in STATES if any(r.get(s) is not None for r in rows)]


def shares_of(rows: Iterable[Row]) -> list[float]:
    """The shares of the MACs, descending."""
    return sorted({r["asked"] for r in rows}, reverse=True)


def heads(rows: Sequence[Row]) -> list[str]:
    """Heads of the columns of `lines`."""
    states = states_of(rows)
    figures = [f"{100 * share:g} % of MACs, {STATES[s]}" for share in shares_of(rows) for s in states]
    return ["recipe", *figures, "decision time (s)"]


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One line per recipe, ordered by quality at the second smallest share; methods of Sartor before those of peers.

    "not reached" marks a share that could not be reached, a dash a state that does not exist for the network.
    """
    shares, states = shares_of(rows), states_of(rows)
    names = list(dict.fromkeys((bool(r.get("peer")), r["recipe"]) for r in rows))
    by = {(r["recipe"], r["asked"]): r for r in rows}
    judged = shares[-2] if len(shares) > 1 else shares[-1]

    def rank(key: tuple[bool, str]) -> tuple[bool, float]:
        row = by.get((key[1], judged), {})
        return key[0], -max((row[s] for s in STATES if row.get(s) is not None), default=-1.0)

    best = {(a, s): max((r[s] for r in rows if r["asked"] == a and r.get(s) is not None), default=None)
            for a in shares for s in states}  # fmt: skip
    table = []
    for _, name in sorted(names, key=rank):
        mine = [by[name, a] for a in shares if (name, a) in by]
        figures = [_figure(by.get((name, a)), s, best[a, s]) for a in shares for s in states]
        seconds = [r["decision_s"] for r in mine if r.get("decision_s") is not None]
        table.append([name, *figures, f"{min(seconds):.1f}" if seconds else "–"])
    return table


def _figure(row: Row | None, state: str, best: float | None) -> str:
    if row is None:
        return ""
    if row.get("why"):
        return "not reached"
    value = row.get(state)
    if value is None:
        return "–"
    return f"**{value:.1f}**" if value == best else f"{value:.1f}"


def _caption(answer: Mapping[str, Any]) -> str:
    facts = answer.get("environment") or {}
    where = [str(facts[k]) for k in ("cpu", "os") if facts.get(k)]
    torch_version = (facts.get("versions") or {}).get("torch")
    where += [f"torch {torch_version}"] if torch_version else []
    return (
        f"Top-1 accuracy in percent after one cut without training, seed {answer['seed']}. "
        f"Machine: {', '.join(where)}. Bold: best of its column."
    )
