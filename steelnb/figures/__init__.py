"""What a reader looks at.

Figures in one style (`plots`), pictures with parts that move (`sign_trick`, `threshold`, `tile_window`), a sheet in
tiles (`tiling`), a U-Net (`unet_sketch`), the progress of a run
(`run_progress`), sliders over them (`widgets`, which alone needs ipywidgets).
"""

from steelnb.figures.plots import overlay, use_style
from steelnb.figures.run_progress import draw_run
from steelnb.figures.sign_trick import draw_sign_trick
from steelnb.figures.threshold import draw_threshold
from steelnb.figures.tile_window import draw_overlap_tile

__all__ = ["draw_overlap_tile", "draw_run", "draw_sign_trick", "draw_threshold", "overlay", "use_style"]
