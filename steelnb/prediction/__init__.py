"""Image files and strips of any length → mask files, a Kaggle submission, an ONNX network."""
