"""One study, one file. Importing this package registers them all; a new file needs one line here."""

from sartor.studies import (  # noqa: F401
    alignment,
    autobot,
    chip,
    discovery,
    equal_latency,
    faults,
    fibres,
    latency_study,
    measured,
    mutations,
    noise,
    oneshot,
    predictor,
    repairs,
    snapshot,
    trained_recipes,
    verdicts,
    workloads,
)
from sartor.studies.grid import Grid, Part, bullets, machine, markdown
from sartor.studies.registry import STUDIES, Option, Row, Study, study
from sartor.studies.row_store import RowStore
from sartor.studies.study_run import Case, StudyRun

__all__ = [
    "STUDIES", "Case", "Grid", "Option", "Part", "Row", "RowStore", "Study", "StudyRun", "bullets", "machine",
    "markdown", "study",
]  # fmt: skip
