"""Finding defects on steel: a valid-convolution U-Net, overlap-tile, losses that work and the ones that did not."""

__version__ = "0.1.0"
