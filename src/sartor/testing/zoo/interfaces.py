"""Inputs, outputs, shared layers, and operators without a rule."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images, rows, tokens


@case("two-inputs", lambda: (images()(), rows(6, seed=2)()))
class TwoInputs(nn.Module):
    """A picture and a row of features; the features modulate the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side = conv_bn(3, 8), nn.Linear(6, 16)
        self.out, self.head = conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale, shift = self.side(y).chunk(2, 1)
        return self.head(self.out(self.conv(x) * scale[:, :, None, None] + shift[:, :, None, None]))


@case("siamese", lambda: (images()(), images(seed=2)()))
class Siamese(nn.Module):
    """One tower for both inputs, compared by difference and product."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.fc = nn.Sequential(conv_bn(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(16, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.tower(x), self.tower(y)
        return self.fc(torch.cat([(a - b).abs(), a * b], 1))


@case("keyword-inputs", lambda: {"pixels": images()(), "scale": rows(1, seed=2)()})
class KeywordInputs(nn.Module):
    """Inputs by keyword, one of them left at its default; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv_bn(3, 8), Head(8)

    def forward(self, *, pixels: Tensor, scale: Tensor, bias: float = 0.5) -> dict[str, Tensor]:
        features = self.conv(pixels * scale[:, :, None, None] + bias)
        return {"logits": self.head(features), "energy": features.pow(2).sum((1, 2, 3))}


@case("dict-output", images())
class DictOutput(nn.Module):
    """Two heads in a dict; the features are not returned and may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = conv_bn(3, 10), nn.ModuleDict({"kind": Head(10, 4), "colour": Head(10, 3)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        return {name: head(x) for name, head in self.heads.items()}


@case("list-output", images())
class ListOutput(nn.Module):
    """Maps of two stages returned as a list, so that their channels belong to the caller; the inside may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv_bn(3, 8), conv_bn(8, 6), conv_bn(6, 9, stride=2), conv_bn(9, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.b(self.a(x))
        return [first, self.d(self.c(first))]


@case("shared-module", images())
class SharedModule(nn.Module):
    """One convolution and one batch norm used three times, as a recurrent residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv_bn(3, 8), conv_bn(8, 8, act=False), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = F.relu(x + self.block(x))
        return self.head(x)


@case("shared-between-streams", images())
class SharedBetweenStreams(nn.Module):
    """One convolution applied to two different streams, whose channels it ties."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = conv_bn(3, 8), conv_bn(3, 8, 1), conv_bn(8, 10)
        self.head_a, self.head_b = Head(10), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head_a(self.shared(self.a(x))) + self.head_b(self.shared(self.b(x)))


@case("tied-linear", rows(12))
class TiedLinear(nn.Module):
    """An autoencoder whose decoder is the encoder's matrix transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.narrow = nn.Linear(12, 16), nn.Linear(16, 6)
        self.shift = nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        code = self.narrow(F.relu(self.encoder(x)))
        return F.linear(F.relu(F.linear(code, self.narrow.weight.t())), self.encoder.weight.t(), self.shift)


@case("tied-modules", rows(12))
class TiedModules(nn.Module):
    """Two linear layers that hold one and the same weight under two names, with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.out = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(F.relu(self.first(x)))))))


@case("unused-parameter", images())
class UnusedParameter(nn.Module):
    """A layer and a parameter that the forward never uses, and a map of which only the shape is used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aux, self.head = conv_bn(3, 8), conv_bn(8, 8), Head(8)
        self.spare = nn.Parameter(torch.ones(8))
        self.sizes = nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        size = self.sizes(x)[:, 0].shape[-2:]
        return self.head(F.interpolate(x, size=size))


@case("containers", images())
class Containers(nn.Module):
    """ModuleList, ModuleDict and ParameterList, modules without parameters, control flow on the input's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_bn(3, 6), conv_bn(6, 8)])
        self.acts = nn.ModuleDict({"relu": nn.ReLU(), "none": nn.Identity()})
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(c, 1, 1)) for c in (6, 8)])
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for stage, gain in zip(self.stages, self.gains):
            x = self.acts["relu"](stage(x) * gain)
            if x.shape[-1] > 4:
                x = F.avg_pool2d(x, 2)
        return self.fc(self.acts["none"](x).mean((2, 3)))


@case("bag-of-words", tokens(20, 7), source="Joulin et al. 2016, arXiv:1607.01759")
class BagOfWords(nn.Module):
    """EmbeddingBag and Embedding summed over a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.words = nn.EmbeddingBag(20, 12, mode="mean"), nn.Embedding(20, 8)
        self.hidden, self.out = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(torch.cat([self.bag(x), self.words(x).sum(1)], 1))))


@functools.cache
def _wobble() -> Any:
    """A custom operator without a rule: it couples neighbouring channels by their index."""

    @torch.library.custom_op("sartor_zoo::wobble", mutates_args=())
    def wobble(x: Tensor) -> Tensor:
        return x + 0.5 * x.roll(1, dims=1).sin()

    def keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad + 0.5 * grad.roll(-1, dims=1) * x.cos()

    wobble.register_fake(torch.empty_like)
    wobble.register_autograd(backward, setup_context=keep)
    return wobble


@case("unknown-op", images(), marks=("freezes",))
class UnknownOp(nn.Module):
    """A custom operator in the middle: its axes are frozen, the layers before and after it can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv_bn(3, 8), conv_bn(8, 6), conv_bn(6, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(_wobble()(self.b(self.a(x)))))


@case("slice-assignment", images(), marks=("hard",), source="Chen et al. 2023, arXiv:2303.03667")
class SliceAssignment(nn.Module):
    """The first channels are overwritten in place through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.k = conv_bn(3, 12), 4
        self.conv, self.mix, self.head = nn.Conv2d(4, 4, 3, padding=1), conv_bn(12, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).clone()
        x[:, : self.k] = self.conv(x[:, : self.k].clone())
        return self.head(self.mix(x))


@case("buffer-canvas", images(), marks=("hard",))
class Canvas(nn.Module):
    """An empty tensor is made, and each branch writes its channels into it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(3, 6), conv_bn(3, 8), Head(14)

    def forward(self, x: Tensor) -> Tensor:
        canvas = x.new_zeros(x.shape[0], 14, *x.shape[2:])
        canvas[:, :6] = self.a(x)
        canvas[:, 6:].add_(self.b(x))
        return self.head(canvas)


@case("shape-as-value", images(), source="Teed and Deng 2020, arXiv:2003.12039")
class ShapeAsValue(nn.Module):
    """The number of channels is used as a value: after a cut all shapes fit, whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.head = conv_bn(3, 8), conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.out(x / x.shape[1] ** 0.5))
