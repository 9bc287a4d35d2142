"""The last step of a run on the command line: exported files and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sartor.errors import SartorError

if TYPE_CHECKING:
    from sartor import Fitted
    from sartor.run.record import Record
    from sartor.types import Listener


def write_artefacts(fitted: Fitted, folder: Path, listener: Listener) -> Record:
    """Export the fitted network and write the report.

    A file that cannot be made (a package is missing, ONNX has no such operator) is left out, and the result's notes say
    why: the run folder already holds the fitted network.

    Args:
        fitted: what `sartor.fit` returned.
        folder: the run folder.
        listener: receives progress.

    Returns:
        The record of the run with the files that were written and these notes; result.json holds the same.
    """
    from sartor.export.manifest import replacing_files
    from sartor.report import write_report
    from sartor.run.folder import run_files, write_result

    files, notes = dict(fitted.record.files), list(fitted.record.notes)
    listener.begin("export")
    for kind in ("onnx", "pt2"):
        name = f"model.{kind}"
        if kind in files:
            continue  # the run wrote it, and timed it
        listener.tell(name)
        try:
            fitted.export(folder / name)
            files[kind] = name
        except Exception as e:
            notes.append(f"{name} was not written: {reason(e)}")
    files["report"] = "report.html"
    record = fitted.record.model_copy(update={"files": files, "notes": notes, "run": str(folder)})
    listener.begin("report")
    with replacing_files(folder, keep=True, adopt=run_files(record)) as stage:
        try:
            write_report(record, stage / "report.html")
        except Exception as e:
            del files["report"]
            record = record.model_copy(
                update={"files": files, "notes": [*notes, f"report.html was not written: {reason(e)}"]}
            )
        write_result(folder, record, stage)
    return record


def reason(error: Exception) -> str:
    """The message of an error of Sartor; of any other, its class as well."""
    return str(error) if isinstance(error, SartorError) else f"{type(error).__name__}: {error}"
