"""From a window of steel to probabilities.

The U-Net (`unet`) and one on a pretrained encoder (`lite_unet`, `pretrained`), which recipes name by `kinds`; sizes
(`geometry`), input windows and tiles (`tiles`) and the grid of any network (`receptive_field`); running a network
(`inference`) and storing it (`weights`).
"""

from steelnb.network.inference import (
    FlipAveraged,
    iter_logits,
    iter_probabilities,
    predict_logits,
    predict_probabilities,
)
from steelnb.network.tiles import Tile
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained, WeightsError, load_network, save_network

__all__ = [
    "FlipAveraged", "Tile", "Trained", "UNet", "WeightsError", "iter_logits", "iter_probabilities", "load_network",
    "predict_logits", "predict_probabilities", "save_network",
]
