"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what the output folder holds.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples of a batch.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import what the run folder names: its author's code runs with your rights.")
]
RunFactory = Annotated[
    str | None, typer.Option("--factory", help="How the network of a run folder is built, instead of what it records.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
Weights = Annotated[Path | None, typer.Option(help="Weights: .safetensors, or a .pth file that holds tensors only.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="cifar10:DIR, imagefolder:DIR, npz:FILE, digits: or file.py:factory; options are appended as ?a=b&c=d."
    ),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        help="Shape of the example input, such as 1x3x224x224 or 1x128:int64; several are separated by commas.",
    ),
]
Factory = Annotated[list[str] | None, typer.Option("--option", help="NAME=VALUE for the model's factory; repeatable.")]
Subject = Annotated[
    str, typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, file.py:factory or package.module:factory.")
]
SubjectOrRun = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="timm:NAME, torchvision:NAME, file.py:factory, an .onnx file or a run folder."
    ),
]
