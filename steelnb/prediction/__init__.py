"""Image files and strips of any length → files.

`files` segments what is named, `output_files` writes and re-reads one image's files, `strips`, `strip_masks` and
`strip_defects` do the same for what does not fit into memory, `submission` is Kaggle's table, `onnx_export` the network
for other programs.
"""

from steelnb.prediction.files import PredictError, predict_files, segment
from steelnb.prediction.onnx_export import to_onnx

__all__ = ["PredictError", "predict_files", "segment", "to_onnx"]
