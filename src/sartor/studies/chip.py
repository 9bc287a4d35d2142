"""`sartor bench chip`: channel independence on the maps of ResNet-56, its error and speed against the definition.

The definition takes one singular value decomposition for every channel and one for the whole map; `nuclear_drops` takes
one for all. Both run on one thread, in turns; times are medians. The definition is timed in single precision, where it
is fastest, and compared in double precision.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.importance.spectral import nuclear_drops
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import CIFAR, RESNET56, RESNET56_WEIGHTS, open_data, open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun

REQUIRED = {"error": 1e-6, "layers": 30.0, "wide": 100.0, "spearman": 0.98}
FEW, MANY = 64, 256  # images whose orders of channels are compared


@study("chip", marker="chip", key=("images", "repeats", "seed"), source="Sui et al. 2021, arXiv:2110.13981")
@dataclass(frozen=True, kw_only=True)
class Chip(Study):
    """Channel independence on real maps: error and speed against its definition; exits with 1 if one falls short."""

    images: Annotated[int, Option("Images on which the definition is computed.", minimum=1)] = 8
    repeats: Annotated[int, Option("Of every timing.", minimum=1)] = 5
    model: Annotated[str, Option("Spec of a CIFAR ResNet.")] = RESNET56
    weights: Annotated[str | None, Option("Its weights.")] = RESNET56_WEIGHTS
    data: Annotated[str, Option("Data spec.")] = CIFAR

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row with all figures."""
        torch.set_num_threads(1)

        def make() -> dict[str, Any]:
            images = next(iter(open_data(self.data, MANY, run.seed).calibration or ()))[0]
            return figures(open_network(self.model, self.weights), images, exact_on=self.images, repeats=self.repeats)

        return run.rows_of([Case({"images": self.images, "repeats": self.repeats, "seed": run.seed}, make)])

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """One table of all figures."""
        (row,) = answer["rows"]
        seconds, ratio = row["seconds_an_image"], row["ratio"]
        lines = [
            ("layers", str(row["layers"])),
            ("max. error relative to the largest score of its layer and image", f"{row['error']:.1e}"),
            ("channels have the order of the definition", "yes" if row["same_order"] else "NO"),
            ("all layers by definition, ms an image", f"{1e3 * seconds['definition']:.0f}"),
            ("all layers by `nuclear_drops`, ms an image", f"{1e3 * seconds['nuclear_drops']:.1f}"),
            ("speed-up over all layers", f"{ratio['layers']:.0f}"),
            ("speed-up on one 256 x 784 map", f"{ratio['256x784']:.0f}"),
            (f"rank correlation of {FEW} images with {MANY}", f"{row['spearman']:.3f}"),
        ]
        return [f"ResNet-56, {row['images']} images, one thread.", Grid(("figure", "value"), lines, left=1)]

    def failures(self, answer: Mapping[str, Any]) -> list[str]:
        """Figures that fall short of REQUIRED."""
        return shortfalls(answer["rows"][0])


def by_definition(maps: Tensor) -> Tensor:
    """Nuclear norm minus that with each channel zeroed, [images, c, n] -> [images, c], one decomposition a channel."""
    norm = torch.linalg.svdvals(maps).sum(1)
    drops = []
    for i in range(maps.shape[1]):
        without = maps.clone()
        without[:, i] = 0
        drops.append(norm - torch.linalg.svdvals(without).sum(1))
    return torch.stack(drops, 1)


def layer_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps after every nonlinearity, each [images, c, h * w]: of the stem, inside each block, after each block."""
    net: Any = model
    with torch.no_grad():
        x = F.relu(net.bn1(net.conv1(images)))
        maps = [x]
        for block in (*net.layer1, *net.layer2, *net.layer3):
            maps.append(F.relu(block.bn1(block.conv1(x))))
            x = block(x)
            maps.append(x)
    return [m.flatten(2) for m in maps]


def in_turns(slow: Callable[[], Any], fast: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of two functions that run in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, run in zip(taken, (slow, fast)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def figures(model: nn.Module, images: Tensor, *, exact_on: int, repeats: int) -> dict[str, Any]:
    """All figures.

    Args:
        model: a CIFAR ResNet.
        images: at least 256.
        exact_on: images on which the definition is computed.
        repeats: of every timing.

    Returns:
        "error": largest difference over all layers, images and channels, relative to the largest score of its layer
        and image; "same_order": whether the channels of every layer have the same order by the mean over images, apart
        from differences below REQUIRED["error"]; "seconds_an_image" and "ratio" over all layers, and a ratio on one
        256 x 784 map; "spearman": rank correlation of the scores from 64 and from all 256 images, mean over layers and
        over the four parts of 64.
    """
    layers = layer_maps(model, images[:exact_on])
    error, same = 0.0, True
    for m in layers:
        expected, scores = by_definition(m.double()), nuclear_drops(m)
        error = max(error, float(((scores - expected).abs().amax(1) / expected.amax(1)).max()))
        expected, scores = expected.mean(0), scores.mean(0)
        in_order = expected[scores.argsort(stable=True)]  # ascending, apart from differences below the error
        same &= bool((in_order.diff() >= -REQUIRED["error"] * expected.max()).all())
    slow, fast = in_turns(
        lambda: [by_definition(m) for m in layers], lambda: [nuclear_drops(m) for m in layers], repeats
    )
    wide = torch.relu(torch.randn(1, 256, 784, generator=torch.Generator().manual_seed(0)))
    wide_slow, wide_fast = in_turns(lambda: by_definition(wide), lambda: nuclear_drops(wide), min(repeats, 3))
    return {
        "layers": len(layers), "images": exact_on, "error": error, "same_order": same,
        "seconds_an_image": {"definition": slow / exact_on, "nuclear_drops": fast / exact_on},
        "ratio": {"layers": slow / fast, "256x784": wide_slow / wide_fast},
        "spearman": statistics.fmean(agreements(model, images[:MANY])), "torch": torch.__version__,
    }  # fmt: skip


def agreements(model: nn.Module, images: Tensor) -> Iterable[float]:
    """Rank correlation of each layer's mean scores from 64 images with those from all, for each disjoint part of 64."""
    from scipy.stats import spearmanr

    parts = [
        [nuclear_drops(m).mean(0) for m in layer_maps(model, images[low : low + FEW])]
        for low in range(0, len(images), FEW)
    ]
    for by_part in zip(*parts):
        mean = torch.stack(by_part).mean(0)
        yield from (float(spearmanr(part, mean).statistic) for part in by_part)


def shortfalls(row: Mapping[str, Any]) -> list[str]:
    """Sentences about figures that fall short of REQUIRED.

    >>> shortfalls({"error": 1e-9, "same_order": True, "ratio": {"layers": 31, "256x784": 90}, "spearman": 0.99})
    ['256x784: expected at least 100 times as fast; got 90.0']
    """
    ratio = row["ratio"]
    sentences = {
        f"error: expected at most {REQUIRED['error']:g}; got {row['error']:.1e}": row["error"] > REQUIRED["error"],
        "order: expected that of the definition; got another": not row["same_order"],
        f"layers: expected at least 30 times as fast; got {ratio['layers']:.1f}": ratio["layers"] < REQUIRED["layers"],
        f"256x784: expected at least 100 times as fast; got {ratio['256x784']:.1f}": ratio["256x784"]
        < REQUIRED["wide"],
        f"spearman: expected at least 0.98; got {row['spearman']:.3f}": row["spearman"] < REQUIRED["spearman"],
    }
    return [sentence for sentence, short in sentences.items() if short]
