"""The errors that Sartor raises: one base class; every other class also derives from a builtin error.

A message says where the error occurred, what was expected, what came instead, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 200


class SartorError(Exception):
    """Base class of all errors that Sartor raises."""


class BadInput(SartorError, ValueError):
    """An argument, a file or a budget clause is invalid."""


class UnknownName(SartorError, KeyError):
    """A registry or a model has no entry of this name; the message names the nearest.

    Args:
        kind: of thing that has the name, such as "recipe".
        name: that was looked up.
        known: all valid names.
        hint: a sentence shown instead of the list of known names.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str | None = None):
        names = sorted(known)
        name = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "..."  # looking for a near one takes time
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hints = [f"Did you mean {near[0]!r}?"] if near else []
        if hint is not None or not near:
            hints.append(f"Known: {', '.join(names) or 'none'}." if hint is None else hint)
        self.text = f"no {kind} is called {name!r}. {' '.join(hints)}"
        super().__init__(self.text)

    def __str__(self) -> str:  # KeyError would show the repr
        return self.text


class MissingExtra(SartorError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, package: str, extra: str, needed_for: str):
        super().__init__(f"{needed_for} needs the package {package!r}: pip install 'sartor[{extra}]'")


class CannotTrace(SartorError, RuntimeError):
    """The model's forward could not be traced; the cause is chained."""


class CannotCut(SartorError, ValueError):
    """The forward contains a size as a constant, in no attribute; names the operator and what to do."""


class NothingToDo(SartorError, ValueError):
    """The operation would change nothing."""


class BudgetNotMet(SartorError, RuntimeError):
    """No plan meets the budget; the message gives the lowest cost that can be reached. `plan`: the best one, if any."""

    def __init__(self, message: str, plan: object = None):
        super().__init__(message)
        self.plan = plan


class ProofFailed(SartorError, RuntimeError):
    """The cut network does not equal the zero-masked original; the message names the group."""


class TrainingDiverged(SartorError, ArithmeticError):
    """The loss or a weight became NaN or infinite."""


class TargetLost(SartorError, ConnectionError):
    """The machine of a target cannot be reached, or the connection was lost; the message names it."""


class FolderInUse(SartorError, RuntimeError):
    """Another process or thread writes to a run folder; the message says which, where and since when."""


class CorruptFile(SartorError, ValueError):
    """A file is damaged, incomplete or not of the expected kind."""
