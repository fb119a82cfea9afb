"""Folders and archives → images and masks.

`open_dataset` finds and reads a data set (`sources`, `archives`, `dataset`; Severstal's layout in `severstal`,
`labels`, `rle`, image files in `images`). `layouts` recognises other formats (`mask_folders`, `coco`, `labelme`,
`cvat`, `yolo`), and `conversion` writes any of them in Severstal's layout. `splits` divides a data set, `image_cache`
stores it decoded, `synthetic` draws steel if there is no data.
"""

from steelnb.data.dataset import SteelData, read_dataset
from steelnb.data.images import DataError
from steelnb.data.sources import open_dataset
from steelnb.data.synthetic import write_dataset

__all__ = ["DataError", "SteelData", "open_dataset", "read_dataset", "write_dataset"]
