"""The registry of studies: each makes one table, and is a command `sartor bench NAME`.

A study is a frozen dataclass in a file of its own. Its fields are its options, its methods give the rows and the table:

    @study("widths", marker="widths", key=("width",), source="an example")
    @dataclass(frozen=True, kw_only=True)
    class Widths(Study):
        widths: Annotated[str, Option("Widths, separated by commas.")] = "8,16"

        def rows(self, run): ...
        def parts(self, answer): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from sartor.measure import environment
from sartor.registry import Registry
from sartor.studies.grid import Part, markdown
from sartor.studies.study_run import StudyRun

Row = Mapping[str, Any]
S = TypeVar("S", bound="type[Study]")


@dataclass(frozen=True)
class Option:
    """How a field of a study appears on the command line; the second argument of `Annotated`."""

    help: str
    name: str | None = None  # such as "--set"; None: the name of the field
    metavar: str | None = None
    argument: bool = False  # positional
    minimum: float | None = None


class Study(ABC):
    """Rows of one table, made one after the other and kept as they are made."""

    name: ClassVar[str]  # of the command `sartor bench NAME`
    marker: ClassVar[str]  # the block <!-- marker --> of the page that `--write` fills
    key: ClassVar[tuple[str, ...]]  # fields of a row that say what it is about

    @abstractmethod
    def rows(self, run: StudyRun) -> Iterator[Row]:
        """Every row in the order of the table; those that `run.store` holds are taken from there."""

    @abstractmethod
    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """Paragraphs and tables, for the terminal and for the page.

        Args:
            answer: as `answer` gives it.
        """

    def answer(self, rows: Sequence[Row], run: StudyRun) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {"seed": run.seed, "rows": list(rows), "environment": environment()}

    def failures(self, answer: Mapping[str, Any]) -> Sequence[str]:
        """Sentences about requirements that are not met; if there are any, the command exits with 1."""
        return ()

    def page(self, answer: Mapping[str, Any]) -> str:
        """The parts as Markdown."""
        return markdown(self.parts(answer))


STUDIES: Registry[type[Study]] = Registry("study")


def study(name: str, *, marker: str, key: tuple[str, ...], source: str) -> Callable[[S], S]:
    """Register a study; the first line of its docstring is the help of its command.

    Args:
        name: of the command `sartor bench NAME`.
        marker: of the block in the page that `--write` fills.
        key: fields of a row that say what it is about; a row with the same values is not made again.
        source: publication or origin.
    """

    def register(made: S) -> S:
        made.name, made.marker, made.key = name, marker, key
        STUDIES.add(name, made, source=source)
        return made

    return register
