"""Signed distances to the boundary of a mask.  Taught in 06_choosing_a_loss."""

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def signed_distance(mask: Tensor) -> Tensor:
    """How far each pixel of a bool mask [N, K, H, W] lies from the boundary: < 0 inside, > 0 outside; float32, CPU.

    φ of Kervadec et al. 2019, in units of the image's diagonal, between the centres of pixels and halfway between the
    two pixels that part defect from background: the nearest are at ± half a pixel. 0 where a mask is empty or full.
    """
    mask = mask.cpu()
    out = torch.zeros(mask.shape)
    for n, k in torch.cartesian_prod(torch.arange(mask.shape[0]), torch.arange(mask.shape[1])).tolist():
        inside = mask[n, k].numpy()
        if inside.any() and not inside.all():
            # to the nearest pixel of the other kind, less half a pixel
            phi = distance_transform_edt(~inside) - distance_transform_edt(inside)
            phi += 0.5 * inside - 0.5 * ~inside
            out[n, k] = torch.from_numpy(phi) / (inside.shape[0] ** 2 + inside.shape[1] ** 2) ** 0.5
    return out
