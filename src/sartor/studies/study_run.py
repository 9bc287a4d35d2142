"""One run of a study: where its rows are kept, which of them are made, the seed, and the listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sartor.errors import BadInput
from sartor.run.context import Context
from sartor.studies.row_store import RowStore
from sartor.types import SILENT, Listener


@dataclass(frozen=True)
class Case:
    """A row that a study can make."""

    about: Mapping[str, Any]  # the fields of the study's key
    make: Callable[[], Mapping[str, Any]]  # the other fields
    label: str = ""  # for progress and `--only`; "": the values of `about`

    @property
    def name(self) -> str:
        """The label."""
        return self.label or ", ".join(str(v) for v in self.about.values())


@dataclass(frozen=True)
class StudyRun:
    """What a study gets besides its own options."""

    store: RowStore
    only: str = ""  # rows whose name contains this; letters of either case
    seed: int = 0
    listener: Listener = SILENT

    @property
    def context(self) -> Context:
        """For the stages of a run."""
        return Context(seed=self.seed, listener=self.listener)

    def selects(self, name: str) -> bool:
        """Whether `--only` selects this name."""
        return self.only.lower() in name.lower()

    def rows_of(self, cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
        """The rows of the selected cases; those that the store holds are not made again.

        Raises:
            BadInput: `--only` selects none.
        """
        selected = [case for case in cases if self.selects(case.name)]
        if not selected:
            raise BadInput(f"--only: no row of this study has {self.only!r} in its name")
        for i, case in enumerate(selected):
            row = self.store.get(case.about)
            if row is None:
                self.listener.tell(case.name, i / len(selected))
                row = self.store.add({**case.about, **case.make()})
            yield row
