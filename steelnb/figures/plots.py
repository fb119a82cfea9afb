"""One style for every figure: colours, overlays, panels of images.  Taught in 01_data_exploration."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

# One colour, one meaning: for each defect class one that stands for nothing else. Those below are from Okabe and Ito's
# palette for all kinds of colour vision.
CLASS_COLOURS = {1: "#7A68D8", 2: "#56B4E9", 3: "#A6A63A", 4: "#8C510A"}
DEFECT = "#D55E00"  # a defect of any class; the mask
PREDICTION = "#0072B2"
HIT, MISS, FALSE_ALARM = "#009E73", "#E69F00", "#CC79A7"
INK, FAINT = "#333333", "#BBBBBB"
WIDTH = 8.0  # inches of a full-width figure
NARROW = 5.4  # so narrow that its text stays legible on a phone


def use_style() -> None:
    """Sets matplotlib's defaults for the series: small figures at 100 dpi, plain axes, titles at the left."""
    plt.rcParams.update({
        "figure.dpi": 100, "savefig.dpi": 100, "figure.figsize": (WIDTH, 3.2), "figure.constrained_layout.use": True,
        "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#EEEEEE",
        "axes.axisbelow": True, "image.cmap": "gray", "image.interpolation": "nearest", "legend.frameon": False,
    })


def overlay(
    image: np.ndarray, masks: np.ndarray, colours: Sequence[str] | None = None, alpha: float = 0.35
) -> np.ndarray:
    """A gray image, uint8 [H, W], with masks, bool [K, H, W], tinted and outlined: uint8 [H, W, 3].

    colours: one per mask; by default `DEFECT` for a single mask and `CLASS_COLOURS` for several. Raises ValueError for
        masks of another shape than the image.
    """
    if masks.ndim != 3 or masks.shape[1:] != image.shape or masks.dtype != bool:
        raise ValueError(f"masks are bool [K, {', '.join(map(str, image.shape))}], got {masks.dtype} {masks.shape}")
    if colours is None:
        colours = [DEFECT] if len(masks) == 1 else [CLASS_COLOURS.get(k + 1, DEFECT) for k in range(len(masks))]
    out = np.repeat(image[..., None], 3, axis=2).astype(np.float32)
    for mask, colour in zip(masks, colours, strict=True):
        if mask.any():
            rgb = 255 * np.array(to_rgb(colour), np.float32)
            out[mask] += alpha * (rgb - out[mask])
            out[find_boundaries(mask, mode="inner")] = rgb
    return out.astype(np.uint8)


def errors(image: np.ndarray, prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A gray image, uint8 [H, W], with hits, misses and false alarms in three colours: uint8 [H, W, 3]."""
    parts = np.stack([prediction & mask, mask & ~prediction, prediction & ~mask])
    return overlay(image, parts, [HIT, MISS, FALSE_ALARM], alpha=0.55)


def show(ax: Axes, image: np.ndarray, title: str = "", **options) -> None:
    """Shows an image without ticks or grid; gray values on the full scale 0 … 255 unless `options` override it."""
    if image.dtype == np.uint8 and image.ndim == 2:
        options = {"vmin": 0, "vmax": 255} | options
    ax.imshow(image, **options)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def apart(place: float, n: int, reach: float) -> np.ndarray:
    """`n` places evenly from `reach` before to `reach` behind `place`, for dots that would cover each other."""
    return place + reach * np.linspace(-1, 1, n) if n > 1 else np.array([place], float)


def stack(pictures: Mapping[str, np.ndarray], width: float = WIDTH) -> Figure:
    """Wide images one below the other, each with its title."""
    heights = [width * picture.shape[0] / picture.shape[1] + 0.25 for picture in pictures.values()]
    figure, axes = plt.subplots(len(pictures), 1, figsize=(width, sum(heights)), height_ratios=heights, squeeze=False)
    for ax, (title, picture) in zip(axes[:, 0], pictures.items(), strict=True):
        show(ax, picture, title, interpolation="antialiased")  # wider than the figure: averaged down
    return figure


def panel(rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], width: float = WIDTH) -> Figure:
    """Image, mask, prediction and errors, two by two, for each of `rows`.

    rows: title → image, uint8 [H, W], prediction and mask, bool [H, W]; images wider than high.
    """
    heights = [0.25 + width / 2 * image.shape[0] / image.shape[1] for image, _, _ in rows.values() for _ in range(2)]
    figure, axes = plt.subplots(
        len(heights), 2, figsize=(width, sum(heights)), height_ratios=heights, squeeze=False
    )
    for four, (title, (image, prediction, mask)) in zip(axes.reshape(-1, 4), rows.items(), strict=True):
        pictures = {
            title: image, "mask": overlay(image, mask[None]),
            "prediction": overlay(image, prediction[None], [PREDICTION]), "error": errors(image, prediction, mask),
        }
        for ax, (name, picture) in zip(four, pictures.items(), strict=True):
            show(ax, picture, name, interpolation="antialiased")
    return figure
