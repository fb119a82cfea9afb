"""Writes a trained network as one ONNX file, checked against PyTorch: for C++, JavaScript and programs without PyTorch.

The graph is built node by node from the network rather than traced, so it accepts any batch and any size that the
network accepts, and a size that the network refuses is an error in the runtime too, not a shifted mask. Needs the
extra ``onnx``: `pip install 'steelnb[onnx]'`.

The file's metadata are two JSON texts: "steelnb" as in `weights` (network, recipe, data, scores), "steelnb_use" how to
cut windows and read logits; `use` lists its fields.
"""

import importlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import steelnb
from steelnb import storage
from steelnb.network import geometry, kinds, weights
from steelnb.network.weights import Trained
from steelnb.prediction import onnx_graph
from steelnb.prediction.onnx_graph import INPUT, OUTPUT, ExportError

USE_KEY = "steelnb_use"
OPSET, IR = 17, 8  # from 2022: older runtimes are rare, and nothing newer is needed
LARGEST = 2**31 - 2**20  # bytes of weights: a protobuf ends at 2 GiB
TOLERANCE = 1e-4  # of the largest logit, or of 1: float32 sums in another order


class Exported(NamedTuple):
    """The result of `to_onnx`. difference: largest difference of a logit to PyTorch's; None if it was not checked."""

    path: Path
    megabytes: float
    difference: float | None

    def __str__(self) -> str:
        checked = "not checked: onnxruntime is not installed (pip install 'steelnb[onnx]')"
        if self.difference is not None:
            checked = f"same logits in ONNX Runtime as in PyTorch, up to {self.difference:.1e}"
        return f"{self.path}, {self.megabytes:.1f} MB; {checked}"


def to_onnx(trained: Trained, path: str | Path, size: tuple[int, int] | None = None) -> Exported:
    """Writes the network as one file, complete or not at all; if ONNX Runtime is installed, only after `check_export`.

    Its input "windows" is float32 [N, C, h, w] in 0…1, its output "logits" float32 [N, K, h', w']; N, h, w are free.
    size: (H, W), output pixels of one window: N is then 1, and h and w are fixed, as OpenCV 4's `cv2.dnn` needs it.
    Raises ExportError if `path` is not NAME.onnx, the network is of another kind or does not fit into 2 GB, the package
    onnx is missing, or the check fails; storage.StorageError if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: the file name must end in .onnx")
    content = packed(trained, size)
    fixed = [(1, *window_of(trained.model, size))] if size else None
    difference = check_export(content, trained, fixed) if _there("onnxruntime") else None
    storage.write_file(path, content)
    return Exported(path, len(content) / 1e6, difference)


def packed(trained: Trained, size: tuple[int, int] | None = None) -> bytes:
    """The bytes of the ONNX file; the same network gives the same bytes. size: as in `to_onnx`. Raises ExportError."""
    onnx = _need("onnx")
    model = trained.model
    if (needed := 4 * sum(tensor.numel() for tensor in model.state_dict().values())) > LARGEST:
        raise ExportError(f"{needed / 1e9:.1f} GB of weights: an ONNX file holds at most 2; use a smaller width")
    window = window_of(model, size) if size else None
    proto = onnx.helper.make_model(
        onnx_graph.graph(onnx, model, window), producer_name="steelnb", producer_version=steelnb.__version__,
        ir_version=IR, opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        doc_string=f"How to use it: metadata {USE_KEY!r}, JSON",
    )
    about = {"network": model.config} | trained.metadata
    texts = {weights.KEY: about, USE_KEY: use(trained, window)}
    texts = {key: json.dumps(_strict(value), ensure_ascii=False, allow_nan=False) for key, value in texts.items()}
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def window_of(model: torch.nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Sides of the smallest window from which the network predicts H × W pixels. Raises ExportError."""
    if min(size) < 1:
        raise ExportError(f"each side must have at least one pixel, got {size[0]}x{size[1]}")
    if model.padding == "same":
        return tuple(-(-n // model.grid.stride) * model.grid.stride for n in size)
    return tuple(geometry.input_size(n, model.depth) for n in size)


def use(trained: Trained, window: tuple[int, int] | None = None) -> dict:
    """How to use the file, for programs without steelnb: plain JSON types, sizes in pixels.

    margin: surroundings of the predicted pixels in a window, on each side. smallest, multiple, remainder: window sides
    are multiple·k + remainder, from smallest up. mirror, window, tiles: the rules of `network.tiles`, in words.
    """
    config, grid = trained.model.config, trained.model.grid
    valid, stride = trained.model.padding == "valid", grid.stride
    outputs, classes = config["out_channels"], trained.metadata.get("data", {}).get("classes", [])
    if outputs == 1 or len(classes) != outputs:
        classes = ["defect"] if outputs == 1 else list(range(1, outputs + 1))
    count, h, w = "N", "h", "w"
    h_out, w_out = ("h - 2 * margin", "w - 2 * margin") if valid else (h, w)
    if window:
        count, (h, w), (h_out, w_out) = 1, window, (onnx_graph.output_side(trained.model, n) for n in window)
    return {
        "input": {"name": INPUT, "type": "float32", "shape": [count, config["in_channels"], h, w], "range": [0, 1],
                  "gray": [0.299, 0.587, 0.114], "divide_by": 255},
        "output": {"name": OUTPUT, "type": "float32", "shape": [count, outputs, h_out, w_out],
                   "probability": "1 / (1 + exp(-logit))", "defect": "logit > 0", "classes": classes},
        "margin": 0 if window and not valid else grid.margin,
        "smallest": grid.span(0, 1)[1] if valid else stride,
        "multiple": stride,
        "remainder": grid.remainder,
        "other_sizes": "an error" if config.get("crop", "exact") == "exact" or not valid or window
        else "taken, but deep features shift against the skips by some pixels, and the output is smaller",
        "mirror": "beyond an edge stands the mirror image, edge pixel repeated: place i of an axis of n pixels is "
                  "pixel min(j, 2n - 1 - j) with j = i mod 2n, 0 <= j < 2n",
        "window": "to predict rows top .. top + H and columns left .. left + W, cut the window that begins at "
                  "(top - margin, left - margin), its sides the smallest that cover H + 2 * margin and W + 2 * margin; "
                  f"output pixel {(0, 0) if valid else '(margin, margin)'} is image pixel (top, left); keep H and W",
        "tiles": "where top and left are multiples of `multiple`, tiles give the answer of one window over all",
        **({} if grid.mirror is None else {"edges": f"as predicted here, a window ends {grid.mirror} pixels beyond the "
           "image's edges, or at the next multiple, and the output is shifted by as much less"}),
    }


def sizes(model: torch.nn.Module) -> list[tuple[int, int, int]]:
    """Batches (N, h, w) for the check: the smallest, Severstal's whole image, three at once, high and low ones; for a
    network that accepts any size, the original's 430×1780 and odd sizes too."""
    if model.padding == "same":
        grid = model.grid.stride
        return [(1, grid, grid), (1, 256, 1600 + -1600 % grid), (3, 3 * grid, 2 * grid)]
    fit = [geometry.input_size(n, model.depth) for n in (1, 256, 1600, 40, 100)]
    batches = [(1, fit[0], fit[0]), (1, fit[1], fit[2]), (3, fit[4], fit[3]), (1, fit[3], fit[4])]
    if model.crop != "exact":
        batches += [(1, fit[3] + 1, fit[4] + 3), (2, fit[0] + 2, fit[0] + 1)]
        batches += [(1, 430, 1780)] if model.depth <= 4 else []
    return batches


def check_export(
    file: str | Path | bytes, trained: Trained, batches: list[tuple[int, int, int]] | None = None
) -> float:
    """Runs an ONNX file and PyTorch on the same windows on the CPU; returns the largest difference of a logit.

    batches: (N, h, w) of windows of noise; None: `sizes`. Raises ExportError if the file describes another network, if
    shapes differ, if a logit differs by more than `TOLERANCE` (so p > 0.5 can differ only where the logit is 0 up to
    rounding), or if onnxruntime is missing or cannot read the file.
    """
    runtime = _need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # fatal only; errors are raised
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        raise ExportError(f"{_name(file)}: ONNX Runtime cannot read it: {error}") from None
    model, texts = trained.model, session.get_modelmeta().custom_metadata_map
    if json.loads(texts.get(weights.KEY, "{}")).get("network") != model.config:
        raise ExportError(f"{_name(file)}: it does not describe the network {model.config}")
    reference = kinds.build(model.config).eval()  # on the CPU in float32, whatever the device of `trained`
    reference.load_state_dict(model.state_dict())
    rng, largest = np.random.default_rng(0), 0.0
    for batch, height, width in batches or sizes(model):
        windows = rng.random((batch, model.config["in_channels"], height, width), np.float32)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(windows)).numpy()
        try:
            (logits,) = session.run([OUTPUT], {INPUT: windows})
        except Exception as error:
            raise ExportError(f"{_name(file)}: fails at {list(windows.shape)}: {error}") from None
        if logits.shape != expected.shape:
            raise ExportError(f"{_name(file)}: at {list(windows.shape)} it gives {list(logits.shape)}, PyTorch "
                              f"{list(expected.shape)}")
        difference, allowed = float(np.abs(logits - expected).max()), TOLERANCE * max(1, np.abs(expected).max())
        if not difference <= allowed:  # NaN too
            raise ExportError(f"{_name(file)}: at {list(windows.shape)} a logit differs from PyTorch's by "
                              f"{difference:.2g}, more than {allowed:.2g}")
        largest = max(largest, difference)
    return largest


def _strict(value):
    """The value with NaN and infinity replaced by None, since JSON has neither and JavaScript refuses them."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _there(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _need(package: str):
    if not _there(package):
        raise ExportError(f"the package {package} is not installed: pip install 'steelnb[onnx]'")
    return importlib.import_module(package)


def _name(file: str | Path | bytes) -> str:
    return "the exported network" if isinstance(file, bytes) else str(file)
