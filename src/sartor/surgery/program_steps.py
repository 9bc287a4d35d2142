"""The steps of a program, checked one after the other before any of them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sartor.errors import CorruptFile
from sartor.structure.permitted_operators import gives_tensors, is_foreign, named_operator, refusal_of, wrong_argument
from sartor.surgery.edits_file import Formula, VariantFile
from sartor.torch_internals import OpOverload, schema
from sartor.types.checked import refusal

Step = tuple[OpOverload, list[Any], dict[str, Any], tuple[int, ...], tuple[int, ...]]
_ARGUMENTS = {"slot", "tensor", "size", "modes", "device", "float", "dtype", "layout", "memory_format"}
_FLOATS = {"inf", "-inf", "nan"}


def checked_steps(variant: VariantFile, *, trusted: bool) -> list[Step]:
    """The steps of one variant.

    Args:
        variant: as the file holds it.
        trusted: whether operators of other libraries than PyTorch may be called without a rule.

    Raises:
        CorruptFile: an operator may not be called, an argument is not one that it takes, or a value is read that no
            step before has made; names the step.
    """
    live = set(range(len(variant.inputs)))
    if len(variant.same) != len(variant.inputs) or any(not 0 <= f <= i for i, f in enumerate(variant.same)):
        raise CorruptFile(f"rewritten forward: expected one index among {len(variant.inputs)} inputs for each input")
    for i, shape in enumerate(variant.inputs):
        for size in shape:
            if size is not None and not isinstance(size, int):
                _check_live("input", i, [slot for slot, _ in (*size.size.of, *size.size.over)], set(range(i)))
    steps = []
    for i, (name, args, kwargs, outs, drop) in enumerate(variant.steps):
        arguments = [args, *kwargs.values()]
        _check_argument(i, arguments)
        _check_live("step", i, _slots(arguments), live)
        func = _operator(i, name, trusted=trusted)
        wrong = wrong_argument(func, args, kwargs)
        if not wrong and schema(func).is_mutable and not (args and isinstance(args[0], dict) and "slot" in args[0]):
            wrong = "expected to write to a value that the program made, not to a parameter or buffer"
        if not wrong and outs and not gives_tensors(func, len(outs)):
            wrong = "it returns no tensor" if len(outs) == 1 else f"it returns no {len(outs)} tensors"
        if wrong:
            raise CorruptFile(f"rewritten forward, step {i}, {name}: {wrong}")
        live.update(outs)
        _check_live("step", i, drop, live)
        live.difference_update(drop)
        steps.append((func, args, kwargs, tuple(outs), tuple(drop)))
    _check_live("output", 0, _slots(variant.output), live)
    return steps


def _check_live(what: str, i: int, slots: Sequence[Any], live: set[int]) -> None:
    for slot in slots:
        if type(slot) is not int or slot not in live:
            raise CorruptFile(
                f"rewritten forward, {what} {i}: expected the number of a value made before; got {slot!r}"
            )


def _operator(step: int, name: str, *, trusted: bool) -> OpOverload:
    place = f"rewritten forward, step {step}"
    try:
        func = named_operator(name)
    except ValueError as e:
        raise CorruptFile(
            f"{place}: expected an operator such as 'aten::add.Tensor'; got {name!r}. An operator of another library "
            "exists once that library is imported"
        ) from e
    if why := refusal_of(func):
        raise CorruptFile(f"{place}: a file may not call {name!r}: {why}")
    if is_foreign(func) and not trusted:
        raise CorruptFile(
            f"{place}: {name!r} is no operator of PyTorch. If you know what it does, register a rule for it "
            "(sartor.structure.rule), or trust the file: sartor.load(..., trust=True)"
        )
    return func


def _check_argument(step: int, x: Any) -> None:
    """Refuse a kind of value that is not known."""
    if isinstance(x, list):
        for v in x:
            _check_argument(step, v)
    elif isinstance(x, dict):
        place = f"rewritten forward, step {step}"
        kind = next(iter(x), None)
        if len(x) != 1 or kind not in _ARGUMENTS:
            raise CorruptFile(f"{place}: expected one of {', '.join(sorted(_ARGUMENTS))}; got {sorted(x)}")
        value = x[kind]
        if kind == "modes":
            if not isinstance(value, list) or len(value) != 2:
                raise CorruptFile(f"{place}, modes: expected two values, in evaluation and in training; got {value!r}")
            _check_argument(step, value)
        elif kind == "size":
            try:
                Formula.model_validate(value)
            except ValidationError as e:
                raise CorruptFile(str(refusal(e, f"{place}, size"))) from e
        elif kind == "float" and value not in _FLOATS:
            raise CorruptFile(f"{place}: expected one of {', '.join(sorted(_FLOATS))}; got {value!r}")
        elif kind == "tensor" and not isinstance(value, str):
            raise CorruptFile(f"{place}: expected the name of a parameter or buffer; got {value!r}")


def _slots(x: Any) -> list[Any]:
    """Every slot that is read, sizes of slots included."""
    found: list[Any] = []
    for ref in references(x):
        if "slot" in ref:
            found.append(ref["slot"])
        elif isinstance(ref.get("size"), dict):
            found += [slot for slot, _ in (*ref["size"]["of"], *ref["size"].get("over", ()))]
    return found


def references(x: Any) -> Iterator[Mapping[str, Any]]:
    """Every object among arguments, at any depth."""
    if isinstance(x, dict):
        yield x
        for v in x.values():
            yield from references(v)
    elif isinstance(x, list | tuple):
        for v in x:
            yield from references(v)


__all__ = ["Step", "checked_steps", "references"]
