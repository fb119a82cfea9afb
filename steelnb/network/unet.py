"""The U-Net of Ronneberger et al. 2015, as the original built it, and repaired.  Taught in 03_unet.

`UNet()` is the repaired default: exact sizes only, batch norm after every 3×3 convolution. `UNet.original()` is the
original's network: batch norm in the encoder only, skips cropped with ``ceil``, any size. Both are "valid": no
convolution pads, so the output is smaller than the input by `geometry.margin` on each side.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from steelnb.network import geometry

NORMS = {"all": (True, True), "encoder": (True, False), "none": (False, False)}  # batch norm in (encoder, decoder)
CROPS = ("exact", "ceil", "floor")
PADDINGS = ("valid", "same")


class UNet(nn.Module):
    """Float images [N, in_channels, H, W] in 0…1 → logits [N, out_channels, H', W'].

    width: channels at full resolution, doubled at each of `depth` poolings (the paper: 64 and 4).
    norm: batch norm "all", in the "encoder" only (the original), or "none" (the paper).
    crop: "exact" refuses sizes where a pooling would drop a pixel; "ceil" (the original) and "floor" accept any size
        and crop the skip off-centre by up to a pixel of its level, which `geometry.skew` measures.
    padding: "valid" as in the paper; "same" pads with zeros, for comparison: H' = H, sizes divisible by 2^depth.
    Weights start as in the paper: normal with standard deviation √(2/N), N the incoming nodes of a neuron; biases 0.
    """

    def __init__(
        self, in_channels=1, out_channels=1, width=64, depth=4, norm="all", crop="exact", padding="valid"
    ) -> None:
        super().__init__()
        for name, value, choices in (("norm", norm, NORMS), ("crop", crop, CROPS), ("padding", padding, PADDINGS)):
            if value not in [*choices]:
                raise ValueError(f"{name} is {value!r}; it can be {', '.join(choices)}")
        sizes = dict(in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it can be a whole number")
        if min(in_channels, out_channels, width) < 1:
            raise ValueError("in_channels, out_channels and width are at least 1")
        geometry.margin(depth)  # refuses an impossible depth
        self.config = sizes | dict(norm=norm, crop=crop, padding=padding)
        self.depth, self.crop, self.padding = depth, crop, padding
        self.grid = geometry.Grid.of_unet(depth)
        if padding == "same":  # its poolings are aligned differently: 2 pixels more, rounded up to the stride
            self.grid = geometry.Grid(margin=6 * 2**depth, stride=2**depth)
        channels = [width * 2**level for level in range(depth + 1)]
        in_encoder, in_decoder = NORMS[norm]
        self.encoder = nn.ModuleList(
            double_convolution(before, after, in_encoder, padding)
            for before, after in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1])
        self.decoder = nn.ModuleList(double_convolution(2 * c, c, in_decoder, padding) for c in channels[:-1])
        self.head = nn.Conv2d(width, out_channels, 1)
        self.apply(he_initialise)

    @classmethod
    def original(cls, **changes) -> "UNet":
        """The network of `dosp0911/Steel_image_Segmentation` (2020): 64 channels, depth 4, one logit, ``ceil`` crops.

        Its class `U_net_re`, convolution → batch norm → ReLU; an older class of its code had the second batch norm of
        two levels before the convolution instead.
        """
        return cls(**dict(norm="encoder", crop="ceil") | changes)

    def forward(self, images: Tensor) -> Tensor:
        """Raises geometry.GeometryError for a size that the network does not accept, naming the next ones that work."""
        self._check(images)
        skips, x = [], images
        for level, block in enumerate(self.encoder):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()  # the deepest map is not a skip
        for level in reversed(range(self.depth)):
            x = self.up[level](x)
            x = self.decoder[level](torch.cat([self._centre(skips.pop(), x), x], dim=1))
        return self.head(x)

    def _centre(self, skip: Tensor, x: Tensor) -> Tensor:
        starts = [geometry.crop_start(s, n, self.crop) for s, n in zip(skip.shape[2:], x.shape[2:], strict=True)]
        return skip[:, :, starts[0] : starts[0] + x.shape[2], starts[1] : starts[1] + x.shape[3]]

    def _check(self, images: Tensor) -> None:
        expected = self.config["in_channels"]
        if images.ndim != 4 or images.shape[1] != expected:
            raise ValueError(f"the network takes [N, {expected}, H, W], got {list(images.shape)}")
        for axis, n in zip(("height", "width"), images.shape[2:], strict=True):
            try:
                if self.padding == "same":
                    if n % 2**self.depth or n == 0:
                        raise geometry.GeometryError(f"{n} pixels are not a multiple of {2**self.depth}")
                elif self.crop == "exact":
                    geometry.check_exact(n, self.depth)
                else:
                    geometry.output_size(n, self.depth)
            except geometry.GeometryError as error:
                raise geometry.GeometryError(f"{axis}: {error}") from None


def double_convolution(before: int, after: int, norm: bool, padding: str) -> nn.Sequential:
    """Two times 3×3 convolution → batch norm (if `norm`) → ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1 if padding == "same" else 0))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def he_initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10, as in the U-Net paper: normal weights, standard deviation √(2/N), biases 0."""
    if isinstance(module, nn.ConvTranspose2d):
        incoming = module.in_channels  # kernel 2 and stride 2: each output pixel sees one input pixel
    elif isinstance(module, nn.Conv2d):
        incoming = module.weight[0].numel()
    else:
        return
    nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
    nn.init.zeros_(module.bias)


class LayerCost(NamedTuple):
    """Cost of one convolution for one image; `level` 0 is full resolution."""

    name: str
    level: int
    channels: int
    height: int
    width: int
    parameters: int
    macs: int  # multiply-adds

    @property
    def activations(self) -> int:
        """Number of values in its output."""
        return self.channels * self.height * self.width


def cost(model: UNet, height: int, width: int) -> list[LayerCost]:
    """Parameters, output sizes and multiply-adds of every convolution for an input of `height` × `width` pixels.

    Nothing is computed: the network is traced on PyTorch's "meta" device, where tensors have shapes but no data.
    """
    layers, hooks = [], []
    with torch.device("meta"):
        ghost = UNet(**model.config)
    for name, module in ghost.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):

            def record(module, inputs, output, name=name):
                level = int(name.split(".")[1]) if "." in name else 0
                cells = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
                parameters = sum(p.numel() for p in module.parameters())
                macs = module.weight.numel() * cells.shape[2] * cells.shape[3]
                layers.append(LayerCost(name, level, *output.shape[1:], parameters, macs))

            hooks.append(module.register_forward_hook(record))
    ghost(torch.empty(1, model.config["in_channels"], height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return layers
