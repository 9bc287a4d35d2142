"""A cut as data: the slices of tensors that stay, the attributes that change, the forwards that are rewritten.

Edits can be applied to a new instance of the same class without tracing it. That is how saved networks are loaded.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import uncollected
from sartor.errors import BadInput
from sartor.structure.fibres import Rows
from sartor.structure.model_copy import clone, modules_by_path, named_tensors
from sartor.structure.picked import picked
from sartor.surgery.edits_check import check_kept, check_size
from sartor.surgery.edits_file import EditsFile, KeptRows
from sartor.surgery.kept_numbers import KeptNumber, Numbers, keep_numbers_
from sartor.surgery.pretrained import guard_pretrained_
from sartor.surgery.program import Program, rewrite_
from sartor.surgery.zero_clip import Clips, clip_, clips_of
from sartor.torch_internals import is_view
from sartor.types.rows import FORMAT
from sartor.version import version
from sartor.wrappers import unwrapped


@dataclass(frozen=True)
class Edits:
    """Kept indices by tensor and dimension, attribute values and rewritten forwards by module path."""

    slices: Mapping[str, Mapping[int, tuple[int, ...] | Rows]]
    attributes: tuple[tuple[str, str, Any], ...]  # (module path, attribute, new value)
    shapes: Mapping[str, tuple[int, ...]]  # of the sliced tensors before the cut
    programs: Mapping[str, Program] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=dict)  # that forwards compute with in place of what follows from a width
    clips: Clips = field(default_factory=dict)  # limits above which rectifiers give zero; see `zero_clip`

    def to_json(self) -> str:
        """JSON with one tensor or attribute a line."""
        tensors = ",\n".join(
            f'    {json.dumps(name)}: {{"shape": {json.dumps(list(self.shapes[name]))}, "keep": '
            f"{json.dumps({str(d): asdict(k) if isinstance(k, Rows) else k for d, k in slices.items()})}}}"
            for name, slices in self.slices.items()
        )
        attributes = ",\n".join(f"    {json.dumps(row)}" for row in self.attributes)
        forwards = ",\n".join(f"    {json.dumps(path)}: {json.dumps(p.raw)}" for path, p in self.programs.items())
        rewritten = f',\n  "forwards": {{\n{forwards}\n  }}' if forwards else ""
        kept = {path: [[n.kind, n.new, n.old] for n in of_module] for path, of_module in self.numbers.items()}
        numbers = f',\n  "numbers": {json.dumps(kept)}' if kept else ""
        head = f'"format": {FORMAT},\n  "sartor": {json.dumps(version())}'
        limits = {path: [None if math.isinf(x) else x for x in of_module] for path, of_module in self.clips.items()}
        numbers += f',\n  "clips": {json.dumps(limits)}' if limits else ""
        parts = f'"tensors": {{\n{tensors}\n  }},\n  "attributes": [\n{attributes}\n  ]{rewritten}{numbers}'
        return f"{{\n  {head},\n  {parts}\n}}\n"

    @classmethod
    def from_json(cls, text: str, *, trust: bool = False) -> Edits:
        """The inverse of `to_json`; reads formats 1 and 2.

        Args:
            text: of edits.json.
            trust: whether rewritten forwards may call operators of any library and take any amount of memory.

        Raises:
            CorruptFile: not the JSON of edits, or a rewritten forward calls what a file may not; names the field.
        """
        file = EditsFile.read(text)
        return cls(
            {name: {d: _kept(indices) for d, indices in t.keep.items()} for name, t in file.tensors.items()},
            tuple((path, name, tuple(v) if isinstance(v, list) else v) for path, name, v in file.attributes),
            {name: tuple(t.shape) for name, t in file.tensors.items()},
            {path: Program(program, trusted=trust) for path, program in file.forwards.items()},
            {path: tuple(KeptNumber(*n) for n in rows) for path, rows in file.numbers.items()},
            clips={path: tuple(math.inf if x is None else x for x in row) for path, row in file.clips.items()},
        )

    def of(self, network: nn.Module) -> Edits:
        """The same with the limits on rectifiers that a repair has given to the cut network."""
        return replace(self, clips=clips_of(network))


def _kept(indices: list[int] | KeptRows) -> tuple[int, ...] | Rows:
    if isinstance(indices, KeptRows):
        return Rows(indices.along, tuple(indices.which), tuple(map(tuple, indices.rows)))
    return tuple(indices)


def sliced(
    t: Tensor, keep: Mapping[int, tuple[int, ...] | Rows], known: dict[tuple[int, torch.device], Tensor] | None = None
) -> Tensor:
    """The kept indices of each dimension, as a new tensor.

    Args:
        t: a parameter or buffer.
        keep: kept indices by dimension.
        known: kept indices as tensors, by identity and device; filled here, for several tensors of one cut.
    """
    known = {} if known is None else known
    out = t.detach()
    for d, i in keep.items():  # rows refer to indices of the whole tensor, so they come first
        if isinstance(i, Rows):
            out = i.pick(out, d)
    indices: dict[int, Tensor] = {}
    for d, i in keep.items():
        if not isinstance(i, Rows):
            if (id(i), t.device) not in known:
                known[id(i), t.device] = torch.as_tensor(i, device=t.device)
            indices[d] = known[id(i), t.device]
    out = picked(out, indices)
    return out.clone(memory_format=torch.contiguous_format) if out is t or is_view(out) else out


@uncollected()
def apply_edits(model: nn.Module, edits: Edits) -> nn.Module:
    """A cut copy of the model (of the network inside, if it is wrapped), which shares nothing with it.

    Raises:
        BadInput: the model is not of the class that the edits were made for; names the first difference.
    """
    model = unwrapped(model).module
    tensors = {name: t for *_, name, t in named_tensors(model)}
    modules = modules_by_path(model)
    for name, shape in edits.shapes.items():
        if name not in tensors:
            raise BadInput(f"the model has no tensor {name!r} that the edits slice; was it built by the same factory?")
        if tuple(tensors[name].shape) != tuple(shape):
            raise BadInput(
                f"tensor {name!r}: the edits were made for shape {tuple(shape)}; got {tuple(tensors[name].shape)}"
            )
        check_kept(name, shape, edits.slices[name])
    for path in edits.programs:
        if path not in modules:
            raise BadInput(f"the model has no module {path!r} whose forward the edits rewrite")
    for path in edits.numbers:
        if path not in modules:
            raise BadInput(f"the model has no module {path!r} whose numbers the edits keep")
    largest = max((n for t in tensors.values() for n in t.shape), default=0)
    for path, attribute, value in edits.attributes:
        if path not in modules or not hasattr(modules[path], attribute):
            raise BadInput(f"the model has no attribute {attribute!r} in module {path!r} that the edits set")
        check_size(path, attribute, inspect.getattr_static(modules[path], attribute, None), value, largest)
    keep = {id(tensors[name]): s for name, s in edits.slices.items()}
    known: dict[tuple[int, torch.device], Tensor] = {}
    new = clone(model, lambda t: sliced(t, keep[id(t)], known) if id(t) in keep else t.detach().clone())
    for (*_, old), (*_, t) in zip(named_tensors(model), named_tensors(new)):
        t.requires_grad_(old.requires_grad)
    set_attributes_(new, edits.attributes)
    for path, program in edits.programs.items():
        new = rewrite_(new, path, program)
    new = clip_(keep_numbers_(new, edits.numbers), edits.clips)
    guard_pretrained_(new, _new_sizes(modules, edits))
    return new


def _new_sizes(modules: Mapping[str, nn.Module], edits: Edits) -> dict[int, set[int]]:
    """Size before the cut -> the sizes that it has after it somewhere."""
    found: dict[int, set[int]] = {}
    for name, slices in edits.slices.items():
        for d, kept in slices.items():
            found.setdefault(edits.shapes[name][d], set()).add(len(kept.rows[0] if isinstance(kept, Rows) else kept))
    for path, attribute, new in edits.attributes:
        old = getattr(modules[path], attribute)
        if type(old) is type(new) is int:
            found.setdefault(old, set()).add(new)
    return found


def set_attributes_(model: nn.Module, attributes: tuple[tuple[str, str, Any], ...]) -> None:
    """Set attribute values in place; a list stays a list, a tuple a tuple."""
    modules = modules_by_path(model)
    for path, attribute, value in attributes:
        module = modules[path]
        old = getattr(module, attribute)
        new = type(old)(value) if isinstance(old, list | tuple) else value
        if attribute in vars(module) and type(module).__setattr__ is nn.Module.__setattr__:
            vars(module)[attribute] = new  # as `setattr` would do, in less time
        else:
            setattr(module, attribute, new)
