"""Plans and repaired weights of many recipes, saved by one version of Sartor and compared with those of another.

A change of structure must not change results. Save with the old version, compare with the new one:

    SARTOR_DATA=... python bench/snapshot.py save    /tmp/before
    SARTOR_DATA=... python bench/snapshot.py compare /tmp/before

Five recipes on ResNet-20 (published CIFAR-10 weights) and on a small vision transformer, and every recipe on a small
residual network. Equality is bit for bit: same machine, same versions of torch, one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sartor
from cifar_resnet import data_folder, resnet20, trained
from sartor.recipes import RECIPES
from sartor.seed import seeded
from sartor.sources import load_data

FIVE = ("l1", "taylor", "reconstruction", "chip", "autobot")
BUDGET = "macs<=50%"
SAMPLES = 1024  # calibration images
FEW = 256  # for the networks on which every recipe runs


def vision_transformer() -> nn.Module:
    """Four blocks of ViT-tiny on 32-pixel images, with seeded random weights."""
    import timm

    with seeded(0):
        return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=4, num_classes=10)


def small_resnet() -> nn.Module:
    """ResNet-20 with seeded random weights."""
    with seeded(0):
        return resnet20()


def cases() -> Iterator[tuple[str, Callable[[], nn.Module], str, int]]:
    """(name, network, recipe, calibration images)."""
    for recipe in FIVE:
        yield f"resnet20-{recipe}", lambda: trained(20), recipe, SAMPLES
        yield f"vit-{recipe}", vision_transformer, recipe, SAMPLES
    for recipe in RECIPES:
        yield f"random-{recipe}", small_resnet, recipe, FEW


def fitted(network: Callable[[], nn.Module], recipe: str, images: int) -> tuple[str, dict[str, torch.Tensor]]:
    """The plan as text, without what only names its maker, and the final weights."""
    data = load_data(f"cifar10:{data_folder()}", batch=128, seed=0)
    batches: list[Any] = []
    for batch in data.calibration or data.train:
        batches.append(batch)
        if len(batches) * 128 >= images:
            break
    found = sartor.fit(network(), calibration=batches, budget=BUDGET, recipe=recipe, seed=0)
    plan = repr(sorted(found.plan.keep.items())) + repr(sorted(found.plan.fibres.items()))
    return plan, {k: v.contiguous() for k, v in found.model.state_dict().items()}


def main() -> int:
    """The program; exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("save", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    different = 0
    for name, network, recipe, images in cases():
        if asked.only not in name:
            continue
        plan_file, weights_file = asked.folder / f"{name}.plan", asked.folder / f"{name}.safetensors"
        if asked.act == "save" and weights_file.is_file():
            continue
        plan, weights = fitted(network, recipe, images)
        if asked.act == "save":
            plan_file.write_text(plan)
            save_file(weights, weights_file)
            print(f"{name}: saved", flush=True)
            continue
        before = load_file(weights_file)
        same_plan = plan == plan_file.read_text()
        same = before.keys() == weights.keys() and all(torch.equal(before[k], weights[k]) for k in before)
        different += not (same_plan and same)
        print(
            f"{name}: plan {'equal' if same_plan else 'DIFFERENT'}, weights {'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
