"""Weights in a file that cannot run code, with everything needed to use them.

`weights.safetensors` contains the tensors of a network and, as JSON in its metadata: its arguments (`kinds`), the
recipe, the data's fingerprint, the validation images, and the scores on them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed

from steelnb import storage
from steelnb.network import kinds

KEY, DIGEST = "steelnb", "steelnb_sha256"
KINDS = {"network": dict, "recipe": dict, "data": dict, "training": list, "validation": list}  # of the metadata


class WeightsError(ValueError):
    """The file does not contain weights of this library's networks. The message names it and what to do."""


class Trained(NamedTuple):
    """A network in eval mode and its metadata (`network`, `recipe`, `data`, `validation`, `scores`, …)."""

    model: torch.nn.Module
    metadata: dict


def save_network(
    path: str | Path, model: torch.nn.Module, about: dict, tensors: dict[str, torch.Tensor] | None = None
) -> None:
    """Writes the weights so that `path` is complete at every moment.

    tensors: an earlier state of the model, instead of its current one. Raises storage.StorageError.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or model.state_dict()).items()}
    text = json.dumps({"network": model.config} | about, ensure_ascii=False)
    storage.write_file(path, packed(tensors, {KEY: text, DIGEST: digest_of(tensors, text)}))


def load_network(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Reads weights.safetensors, or that of a run folder. Raises WeightsError if it is missing or damaged.

    Shapes are compared before any tensor is read, so a small file cannot request the memory of a large network.
    """
    path = Path(path)
    if path.is_dir() and (path / "weights.safetensors").exists():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a finished run leaves weights.safetensors in its folder")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: no permission to read this file: ask its owner, or change its permissions")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            texts = file.metadata() or {}
            if KEY not in texts:
                raise WeightsError(f"{path}: safetensors, but not written by steelnb (no {KEY!r} in its metadata)")
            metadata, model = _described(texts[KEY])
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 — not a dict
            if wrong := _difference({name: list(t.shape) for name, t in model.state_dict().items()}, shapes):
                raise ValueError(wrong)
            tensors = {name: file.get_tensor(name) for name in shapes}
    except WeightsError:
        raise
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from None
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"{path}: does not describe a network of this version: {error}") from None
    if texts.get(DIGEST, digest := digest_of(tensors, texts[KEY])) != digest:  # files of older versions have none
        raise WeightsError(f"{path}: changed since it was written (its SHA-256 differs): copy it again, or use "
                           "other weights")
    model.to_empty(device="cpu").load_state_dict(tensors)
    for name, tensor in model.state_dict().items():  # PyTorch loads these, and masks would silently be empty or full
        if tensors[name].is_floating_point() != tensor.is_floating_point() or not tensor.isfinite().all():
            raise WeightsError(f"{path}: {name} contains NaN, infinity or numbers of another type: use other weights")
    return Trained(model.to(device).eval(), metadata)


def digest_of(tensors: dict[str, torch.Tensor], text: str = "") -> str:
    """SHA-256, hex, of a text and of tensors with their names, types and shapes, in the order of their names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_answer(logits: np.ndarray) -> None:
    """Raises WeightsError for logits with a NaN, which any threshold would silently turn into background."""
    if np.isnan(logits).any():
        raise WeightsError("the network returns NaN: its training diverged, or its numbers overflow; use the "
                           "weights of another run, trained with a lower learning rate")


def _described(text: str) -> tuple[dict, torch.nn.Module]:
    """The metadata, and their network on the meta device, where it takes no memory. Raises ValueError."""
    metadata = _checked(json.loads(text))
    with torch.device("meta"):
        model = kinds.build(metadata["network"])
    outputs, classes = model.config["out_channels"], metadata.get("data", {}).get("classes")
    if outputs > 1 and classes and len(classes) != outputs:
        raise ValueError(f"it has {outputs} outputs for the classes {classes}")
    return metadata, model


def _difference(expected: dict[str, list[int]], found: dict[str, list[int]]) -> str:
    """The first tensor whose shape differs from the network's, in words; empty if there is none."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'missing')}, and the network's is {expected.get(name, 'none')}"
    return ""


def _checked(about: object) -> dict:
    """The metadata, if all parts have the expected types; otherwise raises ValueError."""
    if not isinstance(about, dict):
        raise ValueError("its metadata is not a JSON object")
    for name, kind in KINDS.items():
        if not isinstance(about.get(name, kind()), kind):
            raise ValueError(f"{name!r} in its metadata is {about[name]!r}")
    classes = about.get("data", {}).get("classes", [])  # used in file names and tables
    whole = isinstance(classes, list) and all(type(number) is int and number > 0 for number in classes)
    if not whole or len({*classes}) < len(classes):
        raise ValueError(f"'classes' in its metadata is {classes!r}; they are distinct whole numbers from 1 on")
    for name in ("training", "validation"):
        if not all(isinstance(image_id, str) for image_id in about.get(name, [])):
            raise ValueError(f"{name!r} in its metadata contains other values than image names")
    return about
