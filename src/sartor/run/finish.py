"""The end of a session: what a loop of the user's own has trained is cut, proved, measured and recorded."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sartor.run.conditions import one_at_a_time
from sartor.run.context import Context
from sartor.run.fit import Fitting
from sartor.run.folder import RECORD, check_unfinished, new_folder
from sartor.run.kept_stages import KeptStages
from sartor.run.outcome import Options, Outcome
from sartor.run.record import FORMAT, Recorder
from sartor.run.session import TrainingSession
from sartor.run.stages import Quality
from sartor.seed import seeded
from sartor.types import Data, Judge
from sartor.version import version


def finish(
    session: TrainingSession, data: Data, judge: Judge, options: Options, average: nn.Module | None = None
) -> Outcome:
    """See `sartor.Session.finish`."""
    with one_at_a_time():
        if options.out is not None:
            check_unfinished(Path(options.out))
        folder = new_folder(options.out)
        recorder = Recorder(folder / RECORD if folder else None, options.listener)
        recorder.add("asked", format=FORMAT, sartor=version(), **session.asked())
        for sentence in options.notes:
            recorder.note(sentence)
        context = Context(judge, session.seed, recorder)
        name = options.model_name or type(session.model).__name__
        with seeded(session.seed):
            kept = KeptStages(folder, recorder, data, active=False)
            fitting = Fitting(data, session.budget, session.recipe, context, recorder, kept, name, options)
            return fitting.finished(session, Quality(None, None), average=average)


__all__ = ["finish"]
