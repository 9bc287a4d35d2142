"""The network that probes look at, with its batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.micro_batches import parts, samples_within, working_memory
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.example import Example, as_args, batch_of, first_tensor
from sartor.train.targets import check_classes

Change = Callable[[Tensor], Tensor]  # of the first input tensor of a batch
NO_TENSORS: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class ProbeSubject:
    """A network and labelled batches, which lie on its device and fit into memory."""

    model: nn.Module
    graph: Graph
    batches: tuple[tuple[Example, Any], ...]  # (inputs, targets); targets None: there are none
    seed: int = 0
    training: tuple[tuple[Example, Any], ...] = ()  # of the part that the network was trained on, to compare with

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return device_of(self.model)

    @property
    def samples(self) -> int:
        """Samples of all batches."""
        return sum(batch_of(inputs) for inputs, _ in self.batches)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of random numbers on the CPU, seeded for one purpose, so that probes do not change each other."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + zlib.crc32(purpose.encode())) % 2**63)

    def parts(self, *, gradients: bool = False) -> Iterator[tuple[Example, Any]]:
        """The batches in parts that stay within the memory that a pass may use."""
        most = samples_within(self.graph, self.device, working_memory(), gradients=gradients)
        for batch in self.batches:
            yield from parts(batch, most)

    def run(self, inputs: Example, tensors: Mapping[str, Tensor] = NO_TENSORS) -> Tensor:
        """Logits [n, classes] in evaluation mode.

        Args:
            inputs: of one batch.
            tensors: parameters and buffers that take the place of the model's own, by name.

        Raises:
            BadInput: the output is not a row of logits for each sample.
        """
        args, kwargs = as_args(inputs)
        with borrowed(self.model):
            return logits_of(torch.func.functional_call(self.model, dict(tensors), args, kwargs))

    def right(self, change: Change | None = None, tensors: Mapping[str, Tensor] = NO_TENSORS) -> Tensor:
        """Whether each sample is classified right, bool [samples] on the CPU; a sample with NaN logits is not.

        Args:
            change: of the first input tensor; None: the inputs as they are.
            tensors: as for `run`.
        """
        found = []
        for inputs, targets in self.parts():
            with torch.no_grad():
                given = inputs if change is None else with_first(inputs, change(image_of(inputs)))
                logits = self.run(given, tensors)
            wanted = class_numbers(targets, logits)
            found.append(((logits.argmax(1) == wanted) & ~logits.isnan().any(1)).cpu())
        return torch.cat(found)

    @cached_property
    def input_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each channel (dimension 1) of the first input, [1, channels, 1...].

        Raises:
            BadInput: the first input is not of floating point.
        """
        low: Tensor | None = None
        high: Tensor | None = None
        for inputs, _ in self.batches:
            x = image_of(inputs)
            dims = [d for d in range(x.dim()) if d != 1]
            least, most = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
            low = least if low is None else torch.minimum(low, least)
            high = most if high is None else torch.maximum(high, most)
        assert low is not None and high is not None
        return low, high


def logits_of(output: Any) -> Tensor:
    """The first output as logits [n, classes].

    Raises:
        BadInput: it is not a row of logits for each sample.
    """
    out = first_tensor(output)
    if out.dim() != 2 or out.shape[1] < 2:
        raise BadInput(
            f"analyse: expected a classifier whose output is logits [n, classes]; got {list(out.shape)}. Choose probes "
            "that read `units`, `activations` or weights for other networks"
        )
    return out


def image_of(inputs: Example) -> Tensor:
    """The first input tensor, which attacks and corruptions change.

    Raises:
        BadInput: it is not of floating point, as token numbers are not.
    """
    x = first_tensor(inputs)
    if not x.is_floating_point() or x.dim() < 2:
        raise BadInput(
            f"analyse: changed inputs need a floating-point input [n, channels, ...]; got {x.dtype} {list(x.shape)}. "
            "Leave out the probes that change inputs"
        )
    return x


def with_first(inputs: Example, changed: Tensor) -> Example:
    """The inputs with another first tensor."""
    if isinstance(inputs, Tensor):
        return changed
    if isinstance(inputs, Mapping):
        first = next(k for k, v in inputs.items() if isinstance(v, Tensor))
        return {**inputs, first: changed}
    place = next(i for i, v in enumerate(inputs) if isinstance(v, Tensor))
    return tuple(changed if i == place else v for i, v in enumerate(inputs))


def class_numbers(targets: Any, logits: Tensor) -> Tensor:
    """int64 [n]; of targets that are scores of all classes, the largest.

    Raises:
        BadInput: no class numbers.
    """
    if targets is None:
        raise BadInput("analyse: this probe needs labels; pass batches of (inputs, class numbers)")
    wanted = torch.as_tensor(targets).to(logits.device)
    if wanted.shape == logits.shape:
        return wanted.argmax(1)
    if wanted.shape != logits.shape[:1] or wanted.is_floating_point():
        raise BadInput(f"analyse: expected class numbers [{logits.shape[0]}]; got {wanted.dtype} {list(wanted.shape)}")
    check_classes(logits, wanted, "analyse")
    return wanted.long()
