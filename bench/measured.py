"""The table *Measured* of the README: ResNet-56 on CIFAR-10, fitted and scored on the whole test set.

SARTOR_DATA=... python bench/measured.py [--write README.md] [--json FILE] [--runs DIR] [--only TEXT]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_resnet import data_folder, trained

OPEN, CLOSE = "<!-- measured -->", "<!-- /measured -->"
SEED = 0
NAMED = ("torch", "onnxruntime")  # versions worth a word under the table


@dataclasses.dataclass(frozen=True)
class Row:
    """One fit: what was asked."""

    budget: str
    recipe: str
    epochs: int = 0


ONE_SHOT = (
    *("eagleeye", "flap-fpgm", "flap", "fpgm", "l1", "l2", "taylor"),
    *("activation", "bn-scale", "uniform-l1", "random"),
)
ROWS = (
    *(Row(f"macs<={share}%", "reconstruction") for share in (70, 50, 30)),
    *(Row("macs<=50%", recipe) for recipe in ONE_SHOT),
    Row("macs<=50%", "flap-fpgm", epochs=3),
    *(Row(f"latency<={share}% @ onnxruntime-cpu:threads=1", "reconstruction") for share in (80, 60)),
)


def text(row: Row) -> str:
    """What names a row.

    >>> text(Row("macs<=50%", "l1"))
    'macs<=50% l1 0'
    """
    return f"{row.budget} {row.recipe} {row.epochs}"


def fitted(row: Row, data: Any, original: float, folder: Path | None = None) -> dict[str, Any]:
    """Run one row.

    Args:
        row: what is asked.
        data: CIFAR-10, as `load_data` gives it.
        original: accuracy of the uncut network on the test set, percent.
        folder: run folder, or none.

    Returns:
        {"row", "result" (the object of `fit --json`), "test": {"original", "final"} in percent, "seconds"}.
    """
    import sartor
    from sartor.recipes import RECIPES
    from sartor.train.evaluate import accuracy

    recipe = RECIPES[row.recipe].value
    recipe = dataclasses.replace(
        recipe, training=dataclasses.replace(recipe.training, epochs=row.epochs, channels_last=True)
    )
    model = trained(56)
    start = time.perf_counter()
    fit = sartor.fit(
        model,
        train=data.train,
        calibration=data.calibration,
        example=data.example,
        budget=row.budget,
        recipe=recipe,
        seed=SEED,
        out=folder,
    )
    seconds = time.perf_counter() - start
    test = {"original": original, "final": accuracy(fit.model, data.test)}
    return {"row": dataclasses.asdict(row), "result": fit.result, "test": test, "seconds": seconds}


def cells(run: Mapping[str, Any]) -> list[str]:
    """One line of the table, in words."""
    row, result = run["row"], run["result"]
    counted, latency = result["counted"], result["latency"]

    def share(metric: str) -> str:
        return f"{100 * counted[metric]['fitted'] / counted[metric]['original']:.1f} %"

    if latency and row["budget"].startswith("latency"):  # of the others nothing was asked
        low, high = latency[0]["interval"]
        timed = f"{100 * latency[0]['ratio']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    else:
        timed = ""
    scores = [f"{run['test'][when]:.2f}" for when in ("original", "final")]
    proof = f"{result['proof']['max_relative_error']:.0e}" if result["proof"]["passed"] else "failed"
    return [
        row["budget"],
        row["recipe"],
        str(row["epochs"]),
        share("macs"),
        share("params"),
        timed,
        *scores,
        proof,
        f"{run['seconds']:.0f}",
    ]


HEADS = (
    "budget",
    "recipe",
    "epochs",
    "MACs",
    "parameters",
    "latency",
    "top-1 before",
    "after",
    "cut = silenced to",
    "seconds",
)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, one line a run, in the order given."""
    lines = [HEADS, ["---"] * len(HEADS), *map(cells, runs)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption(environment: Mapping[str, Any]) -> str:
    """Where the figures are true."""
    known = [str(environment[key]) for key in ("cpu", "os") if environment.get(key)]
    if environment.get("cores"):
        known.insert(1, f"{environment['cores']} cores")
    known += [
        f"{package} {version}"
        for package, version in environment.get("versions", {}).items()
        if version and package in NAMED
    ]
    return "ResNet-56 of He et al. on CIFAR-10, whole test set, last epoch. " + (
        f"Machine: {', '.join(known)}." if known else ""
    )


def filled(page: str, body: str) -> str:
    """The page with everything between its two markers replaced by `body`."""
    if page.count(OPEN) != 1 or page.count(CLOSE) != 1 or page.index(OPEN) > page.index(CLOSE):
        raise ValueError(f"expected {OPEN} and then {CLOSE}, once each")
    before, rest = page.split(OPEN)
    return f"{before}{OPEN}\n{body}\n{CLOSE}{rest.split(CLOSE)[1]}"


def main() -> None:
    """Run the rows, print the table, and put it where it was asked for."""
    from sartor.sources import load_data
    from sartor.train.evaluate import accuracy
    from sartor.types import to_plain

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page with the markers")
    parser.add_argument("--json", type=Path, help="keep what was measured here; rows it holds are not run again")
    parser.add_argument("--runs", type=Path, help="keep the run folders below this one")
    parser.add_argument("--only", default="", help="run only rows whose text contains this")
    asked = parser.parse_args()
    runs: dict[str, Any] = {}
    if asked.json and asked.json.is_file():
        runs = {text(Row(**run["row"])): run for run in json.loads(asked.json.read_text())}
    rows = [row for row in ROWS if asked.only in text(row)]
    if not rows:
        parser.error(f"no row contains {asked.only!r}")
    rows = [row for row in rows if text(row) not in runs]
    if rows:
        # the published weights saw all 50,000 training images: a validation part of them would say nothing
        data = load_data(f"cifar10:{data_folder()}?calibration=plain", batch=125, seed=SEED)
        if data.test is None:
            parser.error(f"no test set in {data_folder()}")
        original = accuracy(trained(56), data.test)
    for row in rows:
        folder = asked.runs / re.sub(r"[^a-z0-9]+", "-", text(row)) if asked.runs else None
        runs[text(row)] = fitted(row, data, original, folder)
        print("| " + " | ".join(cells(runs[text(row)])) + " |", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(to_plain(list(runs.values())), indent=1))
    ordered = [runs[text(row)] for row in ROWS if text(row) in runs]
    body = f"{caption(ordered[0]['result'].get('environment', {}))}\n\n{table(ordered)}"
    print(body)
    if asked.write:
        asked.write.write_text(filled(asked.write.read_text(), body))


if __name__ == "__main__":
    main()
