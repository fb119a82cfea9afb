"""Image files and strips of any length → mask files.

`files` segments image files, `output_files` writes and re-reads the files of one image, `output_folder` checks the
folder that they go into; `strips`, `strip_masks` and `strip_defects` handle images that do not fit into memory;
`submission` writes Kaggle's table, `onnx_export` the network for other programs.
"""

from steelnb.prediction.files import PredictError, predict_files, segment
from steelnb.prediction.onnx_export import to_onnx

__all__ = ["PredictError", "predict_files", "segment", "to_onnx"]
