"""A U-Net on the first eleven blocks of EfficientNet-Lite0, pretrained on ImageNet.

EfficientNet-Lite0 (Tan & Le 2019 without squeeze-and-excitation, ReLU6 instead of swish) consists of inverted residuals
(Sandler et al. 2018): a 1×1 convolution that widens, a depthwise one, another 1×1 that narrows. Its maps at strides 2,
4, 8 and 16 are the encoder, 0.71 M weights; a decoder of 3×3 convolutions, 0.20 M, restores full resolution. All layers
are convolutions padded with zeros, so a window may have any size on the grid of strides.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from steelnb.network import geometry

STAGES = (  # blocks, kernel, stride of the first, widening, channels; after a stem of stride 2 and 32 channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
)
SKIPS = {0: 16, 2: 24, 4: 40}  # block → channels of the last map at strides 2, 4 and 8
DECODER = (64, 48, 32, 16)  # channels at strides 8, 4, 2 and 1
MEAN, DEVIATION = 127 / 255, 128 / 255  # normalisation of ImageNet's pixels, the same for all three colours


class LiteUNet(nn.Module):
    """Float images [N, in_channels, H, W] in 0…1 → logits [N, out_channels, H, W]; H and W are multiples of 16.

    in_channels: 1 (gray) or 3. With the stem's weights summed over the colours, a gray image gives the same result as
    three equal channels. Initial weights are random; `pretrained.start` loads pretrained ones.
    grid: no pixel further than 208 pixels from a block of 16 outputs changes it (`receptive_field.find_grid`). Beyond
        an image's edges 32 pixels are mirrored, followed by zeros as at the edges of training crops.
    """

    grid, padding = geometry.Grid(margin=208, stride=16, mirror=32), "same"

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels is {in_channels!r}; it can be 1 (gray) or 3 (colour)")
        if isinstance(out_channels, bool) or not isinstance(out_channels, int) or out_channels < 1:
            raise ValueError(f"out_channels is {out_channels!r}; it can be a whole number from 1")
        self.config = dict(kind="lite", in_channels=in_channels, out_channels=out_channels)
        self.encoder = Encoder(in_channels)
        below, skips = STAGES[-1][-1], [*reversed(SKIPS.values()), in_channels]
        self.decoder = nn.ModuleList()
        for channels, skip in zip(DECODER, skips, strict=True):
            layers = [convolution(below + skip, channels, 3)]
            if len(self.decoder) < len(SKIPS):  # only one at full resolution, where it costs as much as all others
                layers.append(convolution(channels, channels, 3))
            self.decoder.append(nn.Sequential(*layers))
            below = channels
        self.head = nn.Conv2d(below, out_channels, 1)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for other channels, geometry.GeometryError for a side that is not a multiple of 16."""
        if images.ndim != 4 or images.shape[1] != self.config["in_channels"]:
            raise ValueError(f"the network takes [N, {self.config['in_channels']}, H, W], got {list(images.shape)}")
        for axis, n in zip(("height", "width"), images.shape[2:], strict=True):
            if n == 0 or n % self.grid.stride:
                raise geometry.GeometryError(f"{axis}: {n} pixels are not a multiple of {self.grid.stride}")
        images = (images - MEAN) / DEVIATION
        *skips, x = self.encoder(images)
        for block, skip in zip(self.decoder, [*reversed(skips), images], strict=True):
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), skip], dim=1))
        return self.head(x)


class Encoder(nn.Module):
    """Normalised images [N, C, H, W] → the maps at strides 2, 4, 8 and 16, with 16, 24, 40 and 112 channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = convolution(in_channels, 32, 3, stride=2, activation=nn.ReLU6)
        self.blocks, before = nn.ModuleList(), 32
        for blocks, kernel, stride, widening, channels in STAGES:
            for first in range(blocks):
                self.blocks.append(InvertedResidual(before, channels, kernel, 1 if first else stride, widening))
                before = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SKIPS:
                maps.append(x)
        return [*maps, x]


class InvertedResidual(nn.Module):
    """1×1 to `widening` times the channels, depthwise, 1×1 to `after` channels; added to its input if shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = before * widening
        self.expand = convolution(before, wide, 1, activation=nn.ReLU6) if widening > 1 else nn.Identity()
        self.depthwise = convolution(wide, wide, kernel, stride, groups=wide, activation=nn.ReLU6)
        self.project = convolution(wide, after, 1, activation=nn.Identity)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def convolution(before, after, kernel, stride=1, groups=1, activation=nn.ReLU) -> nn.Sequential:
    """Convolution → batch norm → activation; the output has ⌈input / stride⌉ cells.

    With a stride of 2 the padding is asymmetric, one zero more at the bottom and right: TensorFlow's "same", with which
    the encoder was trained. Even sides are then covered exactly.
    """
    after_it = kernel // 2
    ahead = after_it if stride == 1 else after_it - 1
    pad = [nn.ZeroPad2d((ahead, after_it, ahead, after_it))] if ahead != after_it else []
    inside = nn.Conv2d(before, after, kernel, stride, 0 if pad else ahead, groups=groups, bias=False)
    return nn.Sequential(*pad, inside, nn.BatchNorm2d(after, eps=1e-3), activation())


def initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10, for outgoing connections of the encoder's and decoder's convolutions; biases 0."""
    if isinstance(module, nn.Conv2d):
        incoming = module.weight[0].numel()
        nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
