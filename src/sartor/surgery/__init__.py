"""Cut a model by a plan: a smaller model of the same class, and the proof that it equals the zero-masked original."""

from sartor.surgery.cut import cut, edits_for
from sartor.surgery.cut_check import check_cut
from sartor.surgery.edits import Edits, apply_edits
from sartor.surgery.optimizer import carry_optimizer
from sartor.surgery.probe import probe
from sartor.surgery.proof import prove
from sartor.surgery.silence import silence

__all__ = ["Edits", "apply_edits", "carry_optimizer", "check_cut", "cut", "edits_for", "probe", "prove", "silence"]
