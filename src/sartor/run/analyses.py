"""Probes on the original and on the fitted network of a run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sartor.analysis import Analysis, find_probe
from sartor.analysis.analyse import Chosen, analysis_of, beside_training, part_of, subject_of
from sartor.analysis.rows import AnalysisRow, Pairing
from sartor.run.record import AnalysedRow, Recorder
from sartor.run.subject import Subject
from sartor.types import Data

SAMPLES = 1000  # that probes look at, at most


def check_probes(probes: Sequence[Chosen], data: Data) -> None:
    """Check before anything is computed that probes exist, and that there are data to look at.

    Raises:
        UnknownName, BadInput: they do not, or there are none.
    """
    for which in probes:
        find_probe(which)
    if probes:
        part_of(data)


def analysed_rows(
    subject: Subject, network: nn.Module, data: Data, probes: Sequence[Chosen], recorder: Recorder
) -> list[AnalysedRow]:
    """What the probes measure on both networks; of what cannot be computed, a note says why.

    Args:
        subject: with the original.
        network: the fitted one.
        data: see `part_of`.
        probes: as for `sartor.analyse`.
        recorder: of the run.
    """
    if not probes:
        return []
    found: list[Analysis] = []
    for name, model in (("original", subject.model), ("fitted", network)):
        try:
            with recorder.timed(f"analyse the {name}") as facts:
                seen = subject_of(model, part_of(data), subject.example, SAMPLES)
                if data.for_scores is not None:
                    seen = beside_training(seen, data.for_scores, SAMPLES)
                found.append(analysis_of(seen, probes, name, recorder, strict=False))
                facts.update(rows=len(found[-1].rows))
        except Exception as e:
            recorder.note(f"the {name} network could not be analysed: {type(e).__name__}: {e}")
            return []
        for note in found[-1].notes:
            recorder.note(f"analysis of the {name}: {note}")
    return [_row(a, b) for a, b in Pairing(found[0].rows, found[1].rows).pairs()]


def _row(original: AnalysisRow | None, fitted: AnalysisRow | None) -> AnalysedRow:
    either = original or fitted
    assert either is not None
    return AnalysedRow(
        probe=either.probe, layer=either.layer, quantity=either.quantity, unit=either.unit, note=either.note,
        original=original.value if original else None, original_interval=original.interval if original else None,
        fitted=fitted.value if fitted else None, fitted_interval=fitted.interval if fitted else None,
    )  # fmt: skip
