"""The last step of a run on the command line: files that load anywhere, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.cli.progress import Steps
from sartor.errors import SartorError

if TYPE_CHECKING:
    from sartor import Fitted


def deliver(fitted: Fitted, folder: Path, progress: Steps) -> dict[str, Any]:
    """Export the fitted network, note the files in the result, write the report; returns the result.

    A kind of file that cannot be made (a package is missing, an operator is not known to ONNX) is left out, and the
    result's notes say why: the fitted network itself is already safe.
    """
    from sartor.report import write_report
    from sartor.run.folder import write_result

    files, notes = dict(fitted.record.files), list(fitted.record.notes)
    for kind in ("onnx", "pt2"):
        name = f"model.{kind}"
        progress("export", None, name)
        try:
            fitted.export(folder / name)
            files[kind] = name
        except SartorError as e:
            notes.append(f"{name} was not written: {e}")
    files["report"] = "report.html"
    record = fitted.record.model_copy(update={"files": files, "notes": notes, "run": str(folder)})
    progress("report", None, "")
    write_report(record.with_steps(), folder / "report.html")
    write_result(folder, record)
    return record.result()
