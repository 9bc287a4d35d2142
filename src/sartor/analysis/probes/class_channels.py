"""Which channels of a layer a class depends on, by learning weights under random channel loss."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.activations.follow import Interventions, Numerics, recognise
from sartor.analysis.layers import layers
from sartor.analysis.probes.accuracy import share_reading
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, class_numbers, image_of, logits_of, with_first
from sartor.borrow import borrowed
from sartor.errors import BadInput
from sartor.structure.calls import Op
from sartor.structure.example import Example, batch_of, call


@dataclass(frozen=True)
class Learning:
    """How the weights of the channels are learned."""

    steps: int = 60
    lr: float = 0.1  # of Adam
    kept: float = 0.5  # probability that a channel is kept at a step
    sparsity: float = 0.02  # weight of the mean channel weight beside the cross entropy


@probe(
    "class-channels",
    source="Zhou et al. 2021 (channel-wise disentangled interpretation), from memory of the paper",
    bias="the law of the perturbation is not confirmed against the authors' code: here channels are dropped at random "
    "with probability 1/2. Halves are compared on the samples that the weights were learned from",
)
def class_channels(
    subject: ProbeSubject, layer: str | None = None, learning: Learning = Learning()
) -> Iterator[Reading]:
    """Accuracy with the better and the worse half of a layer's channels, and the deletion test of the saliency maps.

    A weight >= 0 for each class and channel is learned with the network frozen: it minimises the cross entropy of the
    class while channels are dropped at random. The map of a sample is the positive part of the sum of its channels
    times the weights of its class, at the size of the input. Deletion test: the share of samples whose class logit
    falls by more where the fifth of the input with the largest map becomes the mean, than where a random fifth does.

    Args:
        subject: network and batches.
        layer: a name of `sartor.analysis.layers`; None: the last one with positions, else the last but one.
        learning: of the weights.

    Raises:
        BadInput: no such layer.
    """
    where = _layer(subject, layer)
    gates = class_weights(subject, where, learning)  # [classes, channels]
    order = gates.mean(0).argsort(descending=True)
    half = (len(order) + 1) // 2
    for which, kept in (("better", order[:half]), ("worse", order[-half:])):
        mask = torch.zeros(len(order), device=subject.device)
        mask[kept] = 1
        hits, n = 0, 0
        for inputs, targets in subject.parts():
            with torch.no_grad():
                logits = gated(subject, where, inputs, mask.expand(batch_of(inputs), -1))
            hits += int((logits.argmax(1) == class_numbers(targets, logits)).sum())
            n += len(logits)
        yield share_reading(f"accuracy with the {which} half of the channels", hits, n, where.path or where.name)
    if image_of(subject.batches[0][0]).dim() == 4 and where.outputs[0].ndim == 4:
        hits, n = _deletion(subject, where, gates)
        yield share_reading("deletion test", hits, n, where.path or where.name)


def class_weights(subject: ProbeSubject, where: Op, learning: Learning = Learning()) -> Tensor:
    """[classes, channels], >= 0: what each class needs of each channel of an operator's result; larger = needed more.

    As one score a unit, `class_weights(...).mean(0)` ranks the channels of that layer.
    """
    generator = subject.generator("class channels")
    with torch.no_grad():
        classes = subject.run(subject.batches[0][0]).shape[1]
    weights = torch.ones(classes, where.outputs[0].shape[1], device=subject.device, requires_grad=True)
    optimizer = torch.optim.Adam([weights], learning.lr)
    batches = list(subject.parts(gradients=True))
    for step in range(learning.steps):
        inputs, targets = batches[step % len(batches)]
        n = batch_of(inputs)
        dropped = torch.rand(n, weights.shape[1], generator=generator) < learning.kept
        with torch.enable_grad():
            labels = class_numbers(targets, torch.zeros(n, classes, device=subject.device))
            gates = weights.clamp(min=0)[labels] * dropped.to(weights) / learning.kept
            logits = gated(subject, where, inputs, gates, gradients=True)
            loss = F.cross_entropy(logits, labels) + learning.sparsity * weights.clamp(min=0).mean()
            (weights.grad,) = torch.autograd.grad(loss, weights)
        optimizer.step()
    return weights.detach().clamp(min=0)


def gated(subject: ProbeSubject, where: Op, inputs: Example, gates: Tensor, *, gradients: bool = False) -> Tensor:
    """Logits with the channels (dimension 1) of an operator's result multiplied by `gates` [samples, channels]."""
    shape = (*gates.shape, *[1] * (where.outputs[0].ndim - 2))

    def after(op: Op, out: Tensor) -> Tensor:
        return out * gates.reshape(shape) if op.index == where.index else out

    changes, numerics = Interventions(after=after), Numerics(gradients=gradients)
    with (
        borrowed(subject.model),
        recognise(subject.graph, subject.model, lambda *_: None, changes=changes, numerics=numerics),
    ):
        return logits_of(call(subject.model, inputs))


def _layer(subject: ProbeSubject, name: str | None) -> Op:
    known = [x for x in layers(subject.graph) if x.unit_dim == 1]
    if name is not None:
        known = [x for x in known if x.name == name]
    pictures = [x for x in known if subject.graph.ops[x.op].outputs[0].ndim == 4]
    if not known:
        names = ", ".join(x.name for x in layers(subject.graph)) or "none"
        raise BadInput(f"class channels: expected a layer with channels in dimension 1; got {name!r}. Layers: {names}")
    return subject.graph.ops[(pictures or known)[-1].op]


def _deletion(subject: ProbeSubject, where: Op, gates: Tensor) -> tuple[int, int]:
    """(samples whose logit falls by more than for random pixels, samples)."""
    generator = subject.generator("deletion")
    hits, n = 0, 0
    for inputs, targets in subject.parts():
        x = image_of(inputs)
        shown: list[Tensor] = []

        def visit(op: Op, args: object, kwargs: object, out: Tensor) -> None:
            if op.index == where.index:
                shown.append(out)  # noqa: B023

        with torch.no_grad(), borrowed(subject.model), recognise(subject.graph, subject.model, visit):
            logits = logits_of(call(subject.model, inputs))
        labels = class_numbers(targets, logits)
        maps = (gates[labels][:, :, None, None] * shown[0].clone()).sum(1, keepdim=True).clamp(min=0)
        maps = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False).flatten(1)
        count = max(1, maps.shape[1] // 5)
        chance = torch.rand(maps.shape, generator=generator).to(maps)
        fallen = [_fall(subject, inputs, labels, scores.topk(count, 1).indices, logits) for scores in (maps, chance)]
        hits, n = hits + int((fallen[0] > fallen[1]).sum()), n + len(x)
    return hits, n


def _fall(subject: ProbeSubject, inputs: Example, labels: Tensor, pixels: Tensor, logits: Tensor) -> Tensor:
    """[samples]: how far the logit of the class falls when pixels [samples, count] become the mean of the picture."""
    x = image_of(inputs)
    flat = x.flatten(2).clone()
    places = pixels[:, None].expand(-1, x.shape[1], -1)
    flat.scatter_(2, places, flat.mean(2, keepdim=True).expand(places.shape))
    with torch.no_grad():
        changed = subject.run(with_first(inputs, flat.reshape(x.shape)))
    return (logits - changed).gather(1, labels[:, None])[:, 0]
