"""Figures and widgets for the notebooks.

One style for all figures (`plots`), figures with a variable (`sign_trick`, `threshold`, `tile_window`), labels
(`labels`), a sheet in tiles (`tiling`), a U-Net (`unet_sketch`), figures of recorded results (`borrowed`, `long_run`,
`races`, `real_steel`), the progress of a run (`run_progress`), and sliders (`widgets`, the only module that needs
ipywidgets).
"""

from steelnb.figures.plots import overlay, use_style
from steelnb.figures.run_progress import draw_run
from steelnb.figures.sign_trick import draw_sign_trick
from steelnb.figures.threshold import draw_threshold
from steelnb.figures.tile_window import draw_overlap_tile

__all__ = ["draw_overlap_tile", "draw_run", "draw_sign_trick", "draw_threshold", "overlay", "use_style"]
