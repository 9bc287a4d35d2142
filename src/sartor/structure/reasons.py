"""Why an axis is frozen or mixed, as sentences. Code decides by `Reason.kind`; only people read the sentence."""

from __future__ import annotations

from collections.abc import Mapping

from sartor.types import Reason

SENTENCES: Mapping[str, str] = {  # kind -> template; {where} is "conv2d in layer1.0"
    # the boundary of the network
    "input": "an input of the model",
    "output": "an output of the model",
    "unused": "no operator of this forward uses it",
    "origin": "{detail}",
    # shapes that do not fit together
    "unit": "a dimension of size 1",
    "empty": "an empty tensor",
    "sizes": "sizes {detail} meet in {op}",
    "alignment": "{detail} (in {op})",
    "conflict": "{where}: {detail}",
    "reshape": "{detail}",
    # what no rule describes
    "no rule": "no rule says how {op} moves its axes (called in {module})",
    "form": "{where}: no rule describes {detail}",
    "rule": "{detail}",
    # dimensions that are not units
    "spatial": "a spatial dimension",
    "kernel": "a kernel dimension",
    "boxes": "boxes and spatial dimensions",
    "offsets": "offsets of a deformable convolution",
    "sub-pixels": "sub-pixels of {where}",
    "complex": "real and imaginary parts",
    "gates": "the gates of a recurrent layer",
    "state": "layers, directions and batch of a recurrent state",
    "experts": "experts that tokens are routed to",
    "stack": "{where} counts the stacked tensors",
    "windows": "windows of {where}",
    "broadcast": "a broadcast dimension of {op}",
    "bags": "bags of embedding rows",
    "sequences": "sequences and their steps ({where})",
    "factor": "a constant factor of a cost",
    "one number": "one number states this size and one with a fixed factor",
    # operators that depend on positions
    "table": "an embedding is indexed along it",
    "lookup": "{where} looks up along it",
    "write": "{where} writes along it",
    "mask": "{where} selects by a mask",
    "mask write": "{where} writes by a mask",
    "part": "{where} takes a part of it",
    "select": "{where} picks one position of it",
    "unbind": "{where} takes each position apart",
    "indices": "{where} gives indices along it",
    "step": "{where} takes one position in every {detail}",
    "computed start": "{where} starts at a computed position",
    "counts": "{where} repeats by counts held in a tensor",
    "window": "{where} slides a window along it",
    "border": "{where} reflects or repeats its border",
    "padding value": "{where} pads with a constant other than zero",
    "diagonal": "{where} takes a diagonal",
    "positions": "{where} gives each position its own meaning",
    "order": "{where} depends on the order along it",
    "fourier": "a Fourier transform runs along it",
    "bytes": "{where} reinterprets its bytes",
    "memory": "{where} addresses memory directly",
    # statistics over units: the axis may be cut, but the other units change
    "statistics": "{op} takes its statistics over these units ({module})",
    "batch statistics": "statistics of a batch norm in training mode are taken over it",
    "saved statistics": "saved statistics",
    "weight norm": "weight normalisation takes a norm over these units ({module})",
    "attention": "attention normalises over it",
    "attention scale": "the default scale of attention is 1 / sqrt(head_dim)",
    "softmax": "{where} normalises over it",
    "reduction": "{where} reduces over it",
}


def sentence(reason: Reason) -> str:
    """A reason in plain words.

    >>> sentence(Reason("lookup", "gather", "blocks.0"))
    'gather in blocks.0 looks up along it'
    """
    module = reason.module or "the model"
    where = f"{reason.op} in {module}"
    return SENTENCES[reason.kind].format(op=reason.op, module=module, where=where, detail=reason.detail)


__all__ = ["SENTENCES", "sentence"]
