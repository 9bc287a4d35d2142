"""Files that load anywhere: checked before they are written, and written completely or not at all."""

from sartor.export.files import atomic_path, atomic_write
from sartor.export.onnx import export_onnx
from sartor.export.pt2 import export_pt2

__all__ = ["atomic_path", "atomic_write", "export_onnx", "export_pt2"]
