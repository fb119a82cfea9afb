"""The kinds of network that recipes and weights name.  Taught in 03_unet.

A network's `config` is its arguments; every kind but the first, which older weights have, is named in it as `kind`.
Each network says by `grid` which windows it takes, and by `padding` whether its output is smaller ("valid") or not.
"""

import torch

from steelnb.network.geometry import Grid
from steelnb.network.lite_unet import LiteUNet
from steelnb.network.unet import UNet

KINDS = {"unet": UNet, "lite": LiteUNet}


def build(config: dict) -> torch.nn.Module:
    """The network that a `config` describes, with its first weights. Raises ValueError for one of no known kind."""
    kind = config.get("kind", "unet")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it can be {', '.join(KINDS)}")
    return KINDS[kind](**{name: value for name, value in config.items() if name != "kind"})


def training_grid(config: dict) -> Grid:
    """Which windows it is trained on: a valid U-Net's own; a padded network pads the edges of its crops."""
    with torch.device("meta"):
        model = build(config)
    return model.grid if model.padding == "valid" else model.grid._replace(margin=0, mirror=0)
