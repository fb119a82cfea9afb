"""The kinds of network in recipes and weights files.

A network's `config` contains its arguments, and its `kind` except for "unet", the only kind of older weights. A
network's `grid` describes the windows that it accepts, its `padding` whether the output is smaller ("valid") or not.
"""

import torch

from steelnb.network.geometry import Grid
from steelnb.network.lite_unet import LiteUNet
from steelnb.network.unet import UNet

KINDS = {"unet": UNet, "lite": LiteUNet}


def build(config: dict) -> torch.nn.Module:
    """The network that a `config` describes, with initial weights. Raises ValueError for an unknown kind."""
    kind = config.get("kind", "unet")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it can be {', '.join(KINDS)}")
    return KINDS[kind](**{name: value for name, value in config.items() if name != "kind"})


def training_grid(config: dict) -> Grid:
    """The grid of training windows: a valid U-Net's own; without margin for a padded network."""
    with torch.device("meta"):
        model = build(config)
    return model.grid if model.padding == "valid" else model.grid._replace(margin=0, mirror=0)
