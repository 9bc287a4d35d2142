"""What a cut does to a network besides its accuracy: probes over one pass of data, their rows, before and after."""

from sartor.analysis import probes
from sartor.analysis.analyse import DEFAULT, Chosen, analyse
from sartor.analysis.registry import PROBES, Probe, find_probe, probe
from sartor.analysis.rows import Analysis, AnalysisRow, Reading

__all__ = [
    "DEFAULT",
    "PROBES",
    "Analysis",
    "AnalysisRow",
    "Chosen",
    "Probe",
    "Reading",
    "analyse",
    "find_probe",
    "probe",
    "probes",
]
