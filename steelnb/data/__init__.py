"""Folders and archives → images and masks.

`open_dataset` finds and reads a set (`sources`, `archives`, `dataset`, `labels`, `images`, `rle`); `layouts` recognises
other people's (`mask_folders`, `coco`, `labelme`, `cvat`, `yolo`), `conversion` writes them as ours; `splits` parts it,
`image_cache` keeps it decoded, `synthetic` draws steel where there is none.
"""

from steelnb.data.dataset import SteelData, read_dataset
from steelnb.data.images import DataError
from steelnb.data.sources import open_dataset
from steelnb.data.synthetic import write_dataset

__all__ = ["DataError", "SteelData", "open_dataset", "read_dataset", "write_dataset"]
