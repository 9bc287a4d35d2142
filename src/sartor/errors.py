"""Every error Sartor raises on purpose: one root, few children, each also a builtin.

A message says where, what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SartorError(Exception):
    """The root: catching it catches everything Sartor raises on purpose."""


class BadInput(SartorError, ValueError):
    """An argument, a file or a word of a budget is not what was asked for."""


class UnknownName(SartorError, KeyError):
    """A registry or a model has nothing of that name; the message names the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], said: str | None = None):
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hints = [f"Did you mean {near[0]!r}?"] if near else []
        if said is not None or not near:
            hints.append(f"Known: {', '.join(names) or 'none'}." if said is None else said)
        self.text = f"no {kind} is called {name!r}. {' '.join(hints)}"
        super().__init__(self.text)

    def __str__(self) -> str:  # KeyError would show the repr
        return self.text


class MissingExtra(SartorError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, package: str, extra: str, needed_for: str):
        super().__init__(f"{needed_for} needs the package {package!r}: pip install 'sartor[{extra}]'")


class CannotTrace(SartorError, RuntimeError):
    """The model's forward could not be followed; the cause is chained."""


class NothingToDo(SartorError, ValueError):
    """The act would change nothing."""


class BudgetNotMet(SartorError, RuntimeError):
    """No plan meets the budget; says what the floor is. `plan` is the best one found, if any."""

    def __init__(self, message: str, plan: object = None):
        super().__init__(message)
        self.plan = plan


class ProofFailed(SartorError, RuntimeError):
    """Cutting did not equal silencing; names the group."""


class TrainingDiverged(SartorError, ArithmeticError):
    """Loss became NaN or infinite."""


class TargetLost(SartorError, ConnectionError):
    """The machine of a target cannot be reached, or went away; the message names it."""


class CorruptFile(SartorError, ValueError):
    """A file is damaged, incomplete or of another kind than expected."""
