"""Weights in a file that cannot run code, with what is needed to use them.  Taught in 00_start_here.

`weights.safetensors` holds the tensors of a `unet.UNet` and, as JSON in its metadata: the network's arguments, the
recipe, the data's fingerprint, the images it was validated on, and the scores it had then.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed

from steelnb import storage
from steelnb.network.unet import UNet

KEY = "steelnb"
KINDS = {"network": dict, "recipe": dict, "data": dict, "training": list, "validation": list}  # of the metadata


class WeightsError(ValueError):
    """A file that does not hold weights of this library's network. The message names it and what to do."""


class Trained(NamedTuple):
    """A network in eval mode and its metadata (`network`, `recipe`, `data`, `validation`, `scores`, …)."""

    model: UNet
    metadata: dict


def save_network(path: str | Path, model: UNet, about: dict, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """Writes the weights so that `path` is whole at every moment.

    tensors: the model's state as it was at some time, instead of as it is. Raises storage.StorageError.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or model.state_dict()).items()}
    storage.write_file(path, packed(tensors, {KEY: json.dumps({"network": model.config} | about, ensure_ascii=False)}))


def load_network(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Raises WeightsError for a file that is missing, damaged, or of something else."""
    path = Path(path)
    if path.is_dir() and (path / "weights.safetensors").exists():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a finished run leaves weights.safetensors in its folder")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: this file may not be read by you: ask its owner, or change its permissions")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from None
    if KEY not in metadata:
        raise WeightsError(f"{path}: safetensors, but not written by steelnb (no {KEY!r} in its metadata)")
    try:
        about = _checked(json.loads(metadata[KEY]))
        model = UNet(**about["network"])
        model.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: does not describe a network of this version: {error}") from None
    for name, tensor in model.state_dict().items():  # PyTorch takes these, and masks would silently be empty or full
        if tensors[name].is_floating_point() != tensor.is_floating_point() or not tensor.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN, infinity or numbers of another type: take other weights")
    return Trained(model.to(device).eval(), about)


def check_answer(logits: np.ndarray) -> None:
    """Raises WeightsError for logits with a NaN, which any threshold would silently turn into clean steel."""
    if np.isnan(logits).any():
        raise WeightsError("the network answers with NaN: its training diverged, or its numbers overflow; take the "
                           "weights of another run, trained with a lower learning rate")


def _checked(about: object) -> dict:
    """The metadata, whose parts are of the kinds that they are used as; else ValueError."""
    if not isinstance(about, dict):
        raise ValueError("its metadata is no JSON object")
    for name, kind in KINDS.items():
        if not isinstance(about.get(name, kind()), kind):
            raise ValueError(f"{name!r} in its metadata is {about[name]!r}")
    if not isinstance(about.get("data", {}).get("classes", []), list):
        raise ValueError(f"'classes' in its metadata is {about['data']['classes']!r}")
    return about
