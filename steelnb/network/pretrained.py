"""Weights that come with the library, and the initial weights of a network.

`files/CARD.md` says where each file comes from, how it was made and how good it is.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load

from steelnb.network.lite_unet import LiteUNet

FILES = Path(__file__).parent / "files"
ENCODER = FILES / "lite0_imagenet.safetensors"  # EfficientNet-Lite0's first eleven blocks, float16
STEEL = FILES / "lite_synthetic_steel.safetensors"  # a whole LiteUNet, in the form of `weights`, float16
SERIES = FILES / "unet_synthetic_steel.safetensors"  # the small U-Net that the notebooks look at, in the same form
KEY = "source"  # of the encoder's metadata
STARTS = ("noise", "imagenet", "steel")


def start(model: torch.nn.Module, from_: str) -> None:
    """Loads pretrained weights: "noise" none, "imagenet" the encoder's, "steel" all, except a head with another number
    of outputs, which stays random. Raises ValueError for any other name or kind of network."""
    if from_ not in STARTS:
        raise ValueError(f"start is {from_!r}; it can be {', '.join(STARTS)}")
    if from_ == "noise":
        return
    if not isinstance(model, LiteUNet):
        raise ValueError(f"start {from_!r} is for the network of kind 'lite', not for {type(model).__name__}")
    tensors = load((ENCODER if from_ == "imagenet" else STEEL).read_bytes())
    if from_ == "imagenet":
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    own = model.state_dict()
    tensors["encoder.stem.1.weight"] = as_channels(tensors["encoder.stem.1.weight"], model.config["in_channels"])
    if from_ == "steel" and tensors["head.bias"].shape != own["head.bias"].shape:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    model.load_state_dict(own | {name: tensor.float() for name, tensor in tensors.items()})


def as_channels(stem: torch.Tensor, channels: int) -> torch.Tensor:
    """A stem's weights [32, C, 3, 3] for another number of channels: for gray images the sum over the colours, which
    is the same function where all three are equal; for colour images a third of the gray weights each."""
    if stem.shape[1] == channels:
        return stem
    return stem.float().sum(1, keepdim=True) if channels == 1 else stem.float().expand(-1, channels, -1, -1) / channels


def source() -> dict:
    """The source of the encoder, from the metadata of its weights."""
    from safetensors import safe_open

    with safe_open(ENCODER, "pt") as file:
        return json.loads(file.metadata()[KEY])
