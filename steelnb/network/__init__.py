"""From a window of steel to probabilities: the U-Net, its geometry, overlap-tile, weights in files."""
